"""Simulated time: by hand, from bytes and rows; who is late, asleep, or drops out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedlab import Device, Federation, LocalSGD, Profile, SoftmaxRegression
from fedlab.device import read_availability
from fedlab.device.population import write_population
from fedlab.fleet import Cohort, Deadline, Oort, Plainly, PowerOfChoice, Roster, round_seconds
from fedlab.updates import Cast
from tests.federations import class_device

SIZE = SoftmaxRegression(4, 3).layout.size
#: Bytes of a float32 update and of its three numbers.
UP, DOWN = 4 * SIZE + 24, 4 * SIZE


def fleet(*profiles: Profile, rows: int = 12) -> list[Device]:
    devices = [class_device(n, [0, 1, 2] * (rows // 3), seed=n) for n in range(len(profiles))]
    for device, profile in zip(devices, profiles, strict=True):
        device.profile = profile
    return devices


def federation(devices: Any, **settings: Any) -> Federation:
    given = {"local": LocalSGD(batch_size=4, epochs=2), "seed": 5, **settings}
    return Federation(devices, SoftmaxRegression(4, 3), **given)


def told(one: Federation) -> tuple[Any, ...]:
    history = one.history
    return one.parameters.tobytes(), history.to_frame().to_csv(), history.remarks().to_csv()


class These(Plainly):
    """A rule that chooses given places."""

    def __init__(self, *places: int) -> None:
        self.places = places

    def choose(self, state, view):
        return Cohort(np.array(self.places), state, "given")


def test_seconds_are_those_of_both_directions_and_of_the_work_by_hand():
    slow, fast = Profile(1e4, 1e6, upload=2e3), Profile(1e6, 1e9)
    assert round_seconds(slow, 1e4, 1e3, 100, 500) == pytest.approx(1 + 0.5 + 0.3, rel=1e-12)
    one = federation(fleet(slow, fast))
    report = one.round()
    by_hand = DOWN / 1e4 + UP / 2e3 + 6 * SIZE * 12 * 2 / 1e6
    assert report.measures["seconds"] == pytest.approx(by_hand, rel=1e-12)
    coded = federation(fleet(slow, fast), updates=[Cast()]).round()
    assert coded.measures["seconds"] == pytest.approx(by_hand - 2 * SIZE / 2e3, rel=1e-12)
    assert "joules_estimate" not in report.measures
    for rows in (3, 300):  # compute is never nothing
        only = federation(fleet(replace(fast, bandwidth=1e300), rows=rows)).round()
        assert only.measures["seconds"] == pytest.approx(6 * SIZE * rows * 2 / 1e9, rel=1e-9)


def test_energy_is_power_times_time_and_called_an_estimate():
    devices = fleet(Profile(1e4, watts=3.0), Profile(1e5, watts=0.5), Profile(1e6))
    measures = federation(devices).round().measures
    work = 6 * SIZE * 12 * 2 / 1e9
    by_hand = 3 * ((DOWN + UP) / 1e4 + work) + 0.5 * ((DOWN + UP) / 1e5 + work)
    assert measures["joules_estimate"] == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize(
    ("start", "end", "hour", "wait"),
    [
        (22, 6, 23, 0),
        (22, 6, 5.5, 0),
        (22, 6, 6, 16),
        (8, 20, 7, 1),
        (8, 20, 20, 12),
        (0, 24, 9, 0),
    ],
)
def test_hours_of_the_day_open_and_close(start, end, hour, wait):
    devices = fleet(Profile(online_from=start, online_until=end), Profile(online_from=1))
    for days in (0, 3):
        roster = replace(Roster.of(devices), clock=3600.0 * hour + 86400.0 * days)
        assert roster.wait(np.array([0])).tolist() == [3600.0 * wait]
        assert roster.chance(np.array([0])).tolist() == [0.0 if wait else 1.0]


def test_a_run_goes_through_the_day_and_a_server_waits_for_the_first_to_wake():
    slow = 12 * 6 * SIZE * 2 / 3600  # an epoch of work takes half an hour
    night = Profile(compute=slow, online_from=23, online_until=1.5)
    noon = replace(night, online_from=12, online_until=13.25)
    one = federation(fleet(night, noon), record="devices")
    with pytest.warns(UserWarning, match="no device was reachable"):
        one.run(7)
    frame = one.history.to_frame()
    steps = frame[frame.metric == "steps"]
    assert steps[["round", "who"]].to_numpy().tolist() == [
        [1, "0"], [2, "0"], [4, "1"], [5, "1"], [7, "0"],
    ]  # fmt: skip
    clock = one.history.series("seconds").cumsum()
    assert clock[3] == pytest.approx(12 * 3600, rel=1e-12)
    assert clock[6] == pytest.approx(23 * 3600, rel=1e-12)
    assert one.state.clock == pytest.approx(clock[7], rel=1e-12)


def test_a_device_is_chosen_within_its_intervals_alone_and_drops_where_one_ends(tmp_path):
    """An epoch takes each device half an hour: a round of two is an hour."""
    (tmp_path / "trace.csv").write_text(
        "device,from_s,until_s\n0,0,9000\n0,9000,10800\n0,18000,30000\n1,7200,99999\n"
    )
    slow = {n: Profile(compute=12 * 6 * SIZE / 1800, bandwidth=1e300) for n in range(3)}
    profiles = read_availability(tmp_path / "trace.csv", slow)
    assert profiles[0].online == ((0.0, 10800.0), (18000.0, 30000.0))
    assert profiles[2] == slow[2]
    one = federation(fleet(profiles[0], profiles[1]), record="devices")
    with pytest.warns(UserWarning, match="dropped out during training, after 1.2e"):
        one.run(9)
    frame = one.history.to_frame()
    steps = frame[frame.metric == "steps"].groupby("round").who.apply(list)
    # To 3 h device 0 is there, from 2 h device 1; from 5 h both, and device 0 goes at 8 1/3 h.
    alone, both = ["0"], ["0", "1"]
    assert steps.to_dict() == {
        1: alone, 2: alone, 3: both, 4: ["1"], 5: ["1"], 6: both, 7: both, 8: both, 9: ["1"],
    }  # fmt: skip
    assert one.history.series("dropped").to_dict()[9] == 1
    clock = one.history.series("seconds").cumsum() / 3600
    np.testing.assert_allclose(clock, range(1, 10), rtol=1e-9)


def test_a_server_waits_for_the_first_interval_and_nobody_comes_after_the_last():
    one = federation(fleet(Profile(online=((7.0, 8.0),)), Profile(online=((5.0, 5.5),))))
    report = one.round()
    assert report.measures["seconds"] == 5
    assert report.remarks[0] == ("server", "no device was reachable")
    assert one.round().senders.tolist() == [1]
    roster = replace(Roster.of(one.devices), clock=9.0)
    assert roster.chance(np.arange(2)).tolist() == [0, 0]
    assert (roster.wait(np.arange(2)) == np.inf).all()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("device,from_s\n0,1", r"device, from_s, until_s is needed"),
        ("device,from_s,until_s,upload\n0,1,2,3", "no other is allowed"),
        ("device,from_s,until_s\n0,1,5\n0,4,6", r"device 0 \(int\): .*lie apart"),
        ("device,from_s,until_s\na,5,5", "device 'a' .*rise"),
        ("device,from_s,until_s\na,-1,5", "device 'a' .*from 0"),
        ("device,from_s,until_s\na,soon,5", "device 'a' .*soon"),
    ],
)
def test_traces_that_are_none_are_refused(text, why, tmp_path):
    (tmp_path / "trace.csv").write_text(text)
    with pytest.raises(ValueError, match=why):
        read_availability(tmp_path / "trace.csv")


def test_a_population_does_not_forget_intervals(tmp_path):
    with pytest.raises(ValueError, match="device 0 has intervals, which no population stores"):
        write_population(tmp_path / "one", fleet(Profile(online=((0, 1),))), dimensions=4)


def test_a_deadline_takes_the_first_that_fill_the_cohort_and_names_the_others():
    """Six are chosen for four; seconds are 1, 2, 3, 4, 5, 99, and the deadline is 10."""
    total = DOWN + UP
    seconds = [1.0, 2, 3, 4, 5, 99]
    devices = fleet(*[Profile(total / second, 1e300, watts=1.0) for second in seconds])
    one = federation(devices, cohort=4, schedule=Deadline(10, over_select=1.5), weights="uniform")
    report = one.round()
    assert report.senders.tolist() == [0, 1, 2, 3]
    assert report.measures["seconds"] == pytest.approx(4, rel=1e-9)
    assert {n: report.measures[n] for n in ("dropped", "late", "surplus")} == {
        "dropped": 0, "late": 1, "surplus": 1,
    }  # fmt: skip
    assert report.remarks == (
        (4, "left out: not needed any more: the cohort was full"),
        (5, "left out: late: it needs 99 s, and the deadline is 10 s"),
    )
    # When the fourth was done, after 4 s, the others had received so much, and sent so much.
    lost_down, lost_up = DOWN + 4 * total / 99, 4 * total / 5 - DOWN
    assert report.measures["bytes_down_lost"] == pytest.approx(lost_down, rel=1e-9)
    assert report.measures["bytes_up_lost"] == pytest.approx(lost_up, rel=1e-9)
    assert report.measures["bytes_down"] == pytest.approx(4 * DOWN + lost_down, rel=1e-9)
    assert report.measures["joules_estimate"] == pytest.approx(1 + 2 + 3 + 4 + 4 + 4, rel=1e-9)
    same = federation(devices, selection=These(0, 1, 2, 3), weights="uniform")
    same.round()
    assert same.parameters.tobytes() == one.parameters.tobytes()


def test_where_too_few_are_in_time_the_deadline_ends_the_round():
    devices = fleet(*[Profile((DOWN + UP) / second, 1e300) for second in (1.0, 99, 99)])
    one = federation(devices, cohort=2, schedule=Deadline(10, over_select=1.5))
    report = one.round()
    assert report.senders.tolist() == [0]
    assert report.measures["seconds"] == 10
    none = federation(devices[1:], cohort=2, schedule=Deadline(10))
    report = none.round()
    assert (report.measures["seconds"], report.measures["devices"]) == (10, 0)
    assert report.remarks[-1][1].startswith("skipped: no usable update")
    for wrong in ({"seconds": 0}, {"seconds": 1, "over_select": 0.9}):
        with pytest.raises(ValueError, match=r"seconds is 0|over_select is 0\.9"):
            Deadline(**wrong)
    with pytest.raises(TypeError, match="give a Deadline, FedBuff or FedAsync"):
        federation(devices, schedule=3.0)


def test_partial_work_is_the_whole_epochs_that_fit():
    epoch = 6 * SIZE * 12
    devices = fleet(*[Profile(1e300, epoch / second) for second in (1.0, 3.0, 4.0, 11.0)])
    deadline = Deadline(10.0, over_select=1, partial=True)
    one = federation(
        devices, local=LocalSGD(batch_size=4, epochs=5), schedule=deadline, record="devices"
    )
    report = one.round()
    assert report.devices["epochs"].tolist() == [5, 3, 2]  # the last one's first takes 11 s
    assert report.measures["seconds"] == pytest.approx(10.0)  # for the late one
    assert report.measures["late"] == 1


def test_devices_drop_out_as_often_as_they_do_before_during_and_after_training():
    """A third of a device's time each: to receive, to train, to send."""
    count, rounds, chance = 30, 60, 0.3
    profile = Profile(DOWN, 6 * SIZE * 12 * 2, dropout=chance, upload=UP)
    devices = fleet(*[profile] * count)
    one = federation(devices)
    reports = [one.round() for _ in range(rounds)]
    said = [text for report in reports for _, text in report.remarks]
    error = np.sqrt(chance * (1 - chance) / (count * rounds))
    assert abs(len(said) / (count * rounds) - chance) < 4 * error
    for stage in ("before", "during", "after"):
        share = sum(f"dropped out {stage} training" in text for text in said) / len(said)
        assert abs(share - 1 / 3) < 4 * np.sqrt(2 / 9 / len(said))
    for report in reports:
        measures = report.measures
        assert measures["dropped"] + len(report.senders) == count
        assert measures["devices"] == len(report.senders)
        assert DOWN * len(report.senders) <= measures["bytes_down"] <= DOWN * count
        assert measures["bytes_up"] >= UP * len(report.senders)


def test_who_drops_out_follows_from_seed_round_and_name():
    devices = fleet(*[Profile(1e5 * (1 + n), dropout=0.4) for n in range(10)])
    whole = federation(devices)
    alone = federation(devices, selection=These(3, 8))
    for _ in range(5):
        lost = {who for who, text in whole.round().remarks if "dropped out" in text}
        mine = {who for who, text in alone.round().remarks if "dropped out" in text}
        assert mine == lost & {3, 8}


@pytest.mark.filterwarnings("ignore:.*remarks were made")
def test_a_run_with_all_of_it_resumes_to_the_same_bits(tmp_path):
    draw = np.random.default_rng(0)
    profiles = [
        Profile(
            bandwidth=draw.uniform(1e2, 1e4),
            upload=draw.uniform(1e2, 1e3),
            availability=0.8,
            online_from=draw.uniform(0, 24),
            online_until=draw.uniform(0, 24),
            dropout=0.2,
            watts=2.0,
        )
        for _ in range(14)
    ]
    for rule in (None, PowerOfChoice(6), Oort(2.0, window=2)):
        settings = {"cohort": 4, "schedule": Deadline(3.0, partial=True), "selection": rule}
        whole = federation(fleet(*profiles), updates=[Cast()], **settings)
        whole.run(12)
        path = tmp_path / type(rule).__name__
        federation(fleet(*profiles), updates=[Cast()], **settings).run_to(5, path)
        other = federation(fleet(*profiles), updates=[Cast()], threads=2, **settings)
        other.run_to(12, path)
        assert told(other) == told(whole)
        assert other.state.clock == whole.state.clock > 0
        assert other.state.traffic == (DOWN, 2 * SIZE + 24)


class Asked:
    """A column that counts how many of its numbers were asked for."""

    def __init__(self, values: Any) -> None:
        self.values, self.asked, self.shape = values, 0, values.shape

    def __getitem__(self, places: Any) -> Any:
        self.asked += np.size(places)
        return self.values[places]


class Many(Sequence[Device]):
    """A million devices that are made when they are asked for."""

    dimensions, order, digest = 4, None, "many"

    def __init__(self, count: int) -> None:
        draw = np.random.default_rng(0)
        self.rows = np.full(count, 12)
        ranges = {"bandwidth": (1e2, 1e4), "upload": (1e2, 1e4), "compute": (1e5, 1e7)}
        ranges |= {"availability": (0.5, 1.0), "dropout": (0.0, 0.2), "watts": (1, 2)}
        columns = {name: draw.uniform(*ends, count) for name, ends in ranges.items()}
        columns |= {"online_from": draw.uniform(0, 8, count)}
        self.profiles = {name: Asked(column) for name, column in columns.items()}
        self.made = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        self.made += 1
        return class_device(int(place), [0, 1, 2] * 4, seed=int(place) % 7)


def test_a_round_of_a_million_devices_looks_at_those_of_its_cohort():
    many = Many(1_000_000)
    one = federation(many, cohort=20, schedule=Deadline(2.0))
    one.state = replace(one.state, clock=4 * 3600.0)  # half of them are awake
    for column in many.profiles.values():
        column.asked = 0
    many.made = 0
    for _ in range(3):
        one.round()
    assert one.history.series("rows").max() > 0
    assert max(column.asked for column in many.profiles.values()) < 3 * 20 * 30
    assert many.made < 3 * 20 * 5
    one.state = replace(one.state, clock=0.0)  # all are asleep, and all are asked, but not for long
    assert one.round().measures["seconds"] > 0
