"""Rules of selection: whom they choose, what it costs, what they remember."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fedlab import (
    Device,
    Federation,
    LinearRegression,
    LocalSGD,
    Profile,
    SoftmaxRegression,
    VectorIndex,
)
from fedlab.device.population import Population, write_population
from fedlab.fleet import (
    AtRandom,
    ByDiversity,
    ByQuality,
    ByRows,
    Cohort,
    FedCS,
    Oort,
    Plainly,
    Poisson,
    PowerOfChoice,
    Roster,
    RoundRobin,
    View,
)
from fedlab.updates import ChainError
from fedlab.updates.stages import Rowwise
from tests.federations import class_device, regression_device

RULES: dict[str, Any] = {
    "at random": AtRandom(),
    "by rows": ByRows(),
    "poisson": Poisson(0.4),
    "round robin": RoundRobin(),
    "fedcs": FedCS(1.0),
    "power of choice": PowerOfChoice(candidates=6),
    "oort": Oort(deadline=0.01, window=2),
    "by quality": ByQuality(candidates=6),
    "by diversity": ByDiversity(candidates=6),
}
COUNT = 12


def fleet(order: Any = range(COUNT), availability: float = 0.8) -> list[Device]:
    devices = [class_device(f"ward {n}", [0, 1, 2] * (2 + n % 5), seed=n) for n in order]
    for device, n in zip(devices, order, strict=True):
        device.profile = Profile(compute=1e7 * (1 + n), availability=availability)
    return devices


def federation(rule: Any, devices: Any = None, **settings: Any) -> Federation:
    given = {"local": LocalSGD(batch_size=4), "seed": 5, "cohort": 4, **settings}
    if isinstance(rule, Poisson):
        given["cohort"] = None
    devices = fleet() if devices is None else devices
    return Federation(devices, SoftmaxRegression(4, 3), selection=rule, **given)


def view(devices: list[Device], size: int, round: int = 1, **known: Any) -> View:
    model = SoftmaxRegression(2, 3)
    at = np.zeros(model.layout.size, np.float32)
    known = {"traffic": (at.nbytes, at.nbytes), **known}
    return View(Roster.of(devices), size, seed=7, round=round, model=model, parameters=at, **known)


def sized(rows: list[int], **profile: Any) -> list[Device]:
    devices = []
    for number, count in enumerate(rows):
        index = VectorIndex(2, "l2sq")
        index.add(
            np.random.default_rng(number).normal(size=(count, 2)), labels=np.arange(count) % 3
        )
        devices.append(Device(number, index, Profile(**profile)))
    return devices


def told(one: Federation) -> tuple[Any, ...]:
    history = one.history
    return one.parameters.tobytes(), history.to_frame().to_csv(), history.remarks().to_csv()


# -- what holds of all ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*remarks were made")
@pytest.mark.parametrize("name", RULES)
def test_a_rule_gives_the_same_bits_after_resuming_and_for_any_threads_and_order(name, tmp_path):
    whole = federation(RULES[name])
    whole.run(7)
    assert len(whole.history.series("rows")) == 7
    half = federation(RULES[name], threads=2)
    half.run_to(3, tmp_path / "run")
    other = federation(RULES[name], threads=1)
    other.run_to(7, tmp_path / "run")
    assert told(other) == told(whole)
    assert other.why().equals(whole.why())
    shuffled = federation(RULES[name], fleet([5, 3, 11, 0, 2, 1, 4, 9, 8, 7, 6, 10]))
    shuffled.run(7)
    assert told(shuffled) == told(whole)


@pytest.mark.filterwarnings("ignore:.*remarks were made")
@pytest.mark.parametrize("name", RULES)
def test_where_devices_stand_in_a_store_makes_no_other_run(name, tmp_path):
    ends = []
    for order in (range(COUNT), (5, 3, 11, 0, 2, 1, 4, 9, 8, 7, 6, 10)):
        path = tmp_path / str(order[0])
        write_population(path, fleet(order), dimensions=4, metric="l2sq")
        one = federation(RULES[name], Population(path), record="devices")
        one.run(5)
        ends.append(told(one))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_whom_it_chose_and_why(name):
    one = federation(RULES[name], fleet(availability=1.0), record="devices")
    with pytest.raises(ValueError, match="no round was done"):
        one.why()
    one.round()
    why = one.why()
    frame = one.history.to_frame()
    trained = set(frame[(frame["round"] == 1) & (frame.metric == "steps")].who)
    assert set(why.index[why.chosen]) == trained
    assert (why.reason.str.len() > 0).all()
    assert (why.reason[~why.chosen] == "others came before it").all()


class Hides(Rowwise):
    """A stage behind which no single device can be read."""

    takes = frozenset({"rows"})
    gives = frozenset({"hidden"})

    def apply(self, state, sent, kept, at):
        return sent, state, kept


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_reads_devices_is_refused_behind_a_stage_that_hides_them(name):
    if not RULES[name].reads:
        federation(RULES[name], updates=[Hides()]).round()
        return
    with pytest.raises(ChainError, match=r"of each device, which the stages of updates= hide"):
        federation(RULES[name], updates=[Hides()])


def test_a_rule_of_ones_own_is_checked():
    class Given(Plainly):
        places: Any = ()

        def choose(self, state, view):
            return Cohort(np.array(self.places), state, "I said so")

    for places in ([0, 0], [-1], [12], [[1]], [0.5]):
        Given.places = places
        with pytest.raises(ValueError, match="places of 12 devices are needed, none twice"):
            federation(Given()).round()
    Given.places = [7, 2]
    one = federation(Given())
    assert one.round().senders.tolist() == [2, 7]
    empty = [*fleet(), class_device("ward 99", [])]
    drifting = type("Moving", (), {"at": lambda self, round: empty})()
    Given.places = [12]
    with pytest.raises(ValueError, match="which have no rows"):
        federation(Given(), drifting).round()
    with pytest.raises(TypeError, match=r"selection .* has no reads, init, choose, observe"):
        federation(0.5)


# -- rule by rule ---------------------------------------------------------------------------------


def inclusion(rule: Any, devices: list[Device], size: int, rounds: int) -> Any:
    """How often each device was chosen, and each pair, over rounds."""
    chosen = np.zeros((rounds, len(devices)))
    state = rule.init(len(devices), size)
    for number in range(rounds):
        cohort = rule.choose(state, view(devices, size, number + 1))
        chosen[number, cohort.places] = 1
        state = cohort.state
    return chosen


def test_poisson_draws_each_device_by_itself():
    rounds, rate = 4000, 0.15
    chosen = inclusion(Poisson(rate), sized([1] * 10), 10, rounds)
    error = np.sqrt(rate * (1 - rate) / rounds)
    assert np.abs(chosen.mean(axis=0) - rate).max() < 4 * error
    together = (chosen.T @ chosen / rounds)[np.triu_indices(10, 1)]
    assert np.abs(together - rate**2).max() < 4.5 * np.sqrt(rate**2 * (1 - rate**2) / rounds)
    sizes = np.bincount(chosen.sum(axis=1).astype(int), minlength=11) / rounds
    assert abs(sizes[0] - (1 - rate) ** 10) < 4 * np.sqrt(sizes[0] / rounds)
    seldom = inclusion(Poisson(0.5), sized([1] * 10, availability=0.3), 10, rounds)
    assert np.abs(seldom.mean(axis=0) - 0.15).max() < 4 * error


def test_an_empty_poisson_round_is_remarked_and_moves_nothing():
    one = federation(Poisson(0.0))
    before = one.parameters
    with pytest.warns(UserWarning, match="no device was chosen"):
        one.run(2)
    assert one.round_number == 2
    assert (one.parameters == before).all()
    assert one.history.series("devices").tolist() == [0, 0]
    linear = Federation([regression_device(0, 9, 2, 0)], LinearRegression(2), selection=Poisson(0))
    assert linear.round().measures["devices"] == 0
    with pytest.raises(ValueError, match="leave cohort out"):
        Federation(fleet(), SoftmaxRegression(4, 3), selection=Poisson(0.1), cohort=3)
    with pytest.raises(ValueError, match=r"rate is 1\.5"):
        Poisson(1.5)


def test_by_rows_draws_one_after_another_as_enumeration_says():
    """P(a, b) = p_a p_b / (1 - p_a) + p_b p_a / (1 - p_b)."""
    rows, rounds = np.array([1, 2, 3, 6]), 5000
    chosen = inclusion(ByRows(), sized(rows.tolist()), 2, rounds)
    p = rows / rows.sum()
    together = chosen.T @ chosen / rounds
    for a, b in itertools.combinations(range(4), 2):
        expected = p[a] * p[b] * (1 / (1 - p[a]) + 1 / (1 - p[b]))
        assert abs(together[a, b] - expected) < 4 * np.sqrt(expected * (1 - expected) / rounds)


def test_power_of_choice_with_as_many_candidates_as_devices_is_by_rows():
    devices = sized([1, 2, 3, 4, 5, 6])
    for round in range(1, 30):
        plain = ByRows().choose({}, view(devices, 3, round)).places
        assert set(PowerOfChoice(3).choose({}, view(devices, 3, round)).places) == set(plain)
    with pytest.raises(ValueError, match="3 candidates can't fill a cohort of 4"):
        federation(PowerOfChoice(3))


def test_power_of_choice_keeps_the_highest_losses_and_counts_what_it_asked():
    devices = fleet(availability=1.0)
    one = federation(PowerOfChoice(7), devices)
    one.run(2)
    before = one.parameters
    report = one.round()
    why = one.why()
    assert len(why) == 7
    by_name = {device.id: device for device in devices}
    losses = [one.model.evaluate(before, *by_name[n].training())["loss"] for n in why.index]
    np.testing.assert_allclose(why.loss, losses, rtol=1e-6)
    assert set(why.index[why.chosen]) == set(why.loss.nlargest(4).index)
    size = before.nbytes
    assert report.measures["bytes_down"] == 7 * size  # the chosen ones hold the model already
    assert report.measures["bytes_down_asking"] == 7 * size
    assert report.measures["bytes_up_asking"] == 7 * 8
    asked = [by_name[name] for name in why.index]
    slowest = max(
        (size + 8) / d.profile.bandwidth + 2 * len(before) * d.rows / d.profile.compute
        for d in asked
    )
    assert report.measures["seconds_asking"] == pytest.approx(slowest, rel=1e-12)
    plain = max(
        (size + 24) / d.profile.bandwidth + 6 * len(before) * d.rows / d.profile.compute
        for d in asked
        if why.chosen[d.id]
    )
    assert report.measures["seconds"] == pytest.approx(slowest + plain, rel=1e-12)
    assert one.state.clock == pytest.approx(one.history.series("seconds").sum(), rel=1e-12)


def test_a_candidate_that_cannot_answer_is_not_chosen_and_named():
    devices = fleet(availability=1.0)
    devices[3].index.remove(devices[3].index.keys)
    devices[3].index.add(np.ones((40, 4)), labels=np.full(40, 9))  # no class of the model
    one = federation(PowerOfChoice(12), fleet(availability=1.0))
    one._roster = Roster.of(devices)
    report = one.round()
    assert np.isnan(one.why().loss["ward 3"])
    assert not one.why().chosen["ward 3"]
    assert [(who, "no answer" in text) for who, text in report.remarks] == [("ward 3", True)]


def test_fedcs_takes_as_many_as_a_search_of_all_subsets_finds():
    draw = np.random.default_rng(3)
    for trial in range(20):
        devices = sized(draw.integers(1, 30, 7).tolist())
        for device in devices:
            device.profile = Profile(
                bandwidth=draw.uniform(20, 200), compute=draw.uniform(100, 2000)
            )
        seen = view(devices, 7, trial)
        size = seen.model.layout.size
        seconds = [
            8 * size / d.profile.bandwidth + 6 * size * d.rows / d.profile.compute for d in devices
        ]
        deadline = float(np.median(seconds)) * (1 + 1e-9)
        most = max(
            len(subset)
            for k in range(8)
            for subset in itertools.combinations(range(7), k)
            if max((seconds[place] for place in subset), default=0) <= deadline
        )
        chosen = FedCS(deadline).choose({}, seen)
        assert len(chosen.places) == most
        assert (chosen.numbers["expected seconds"] <= deadline).all()
    with pytest.raises(ValueError, match="deadline is 0"):
        FedCS(0)


def test_round_robin_lets_all_take_part_equally_often():
    chosen = inclusion(RoundRobin(), sized([1] * 7), 3, 70)
    assert chosen.sum(axis=0).tolist() == [30] * 7
    assert np.flatnonzero(chosen[2]).tolist() == [0, 1, 6]
    seldom = inclusion(RoundRobin(), sized([1] * 7, availability=0.5), 3, 700)
    assert np.ptp(seldom.sum(axis=0)) < 60
    assert seldom.sum(axis=1).max() == 3


def test_quality_counts_near_duplicates_once_and_doubtful_labels_not_at_all():
    """Two classes far apart; at zero parameters each row's loss is log 3."""
    grid = np.array([[x, y] for x in range(4) for y in range(3)], np.float32)

    def holding(number: int, x: Any, y: Any) -> Device:
        index = VectorIndex(2, "l2sq")
        index.add(x, labels=y)
        return Device(number, index)

    clean = np.concatenate([grid, grid + 50])
    labels = np.repeat([0, 1], 12)
    twice = np.concatenate([clean, clean + np.float32(0.001)])
    wrong = labels.copy()
    wrong[[0, 13]] = 2
    devices = [
        holding(0, clean, labels),
        holding(1, twice, np.tile(labels, 2)),
        holding(2, clean, wrong),
    ]
    seen = view(devices, 1)
    cohort = ByQuality(candidates=3, near=0.01, neighbours=3).choose({}, seen)
    number = dict(zip(cohort.considered.tolist(), cohort.numbers["quality"], strict=True))
    assert number[0] == pytest.approx(np.log(3), rel=1e-6)
    assert number[1] == pytest.approx(np.log(3) / 2, rel=1e-6)
    assert number[2] == pytest.approx(np.log(3) * 22 / 24, rel=1e-6)
    assert cohort.places.tolist() == [0]
    assert seen.bytes_up == 3 * 8


def test_diversity_takes_one_of_each_cluster():
    devices = []
    for number in range(9):
        index = VectorIndex(2, "l2sq")
        centre = np.array([[0, 0], [100, 0], [0, 100]])[number % 3]
        index.add(centre + np.random.default_rng(number).normal(size=(4, 2)), labels=[0, 1, 2, 0])
        devices.append(Device(number, index))
    for round in range(1, 6):
        seen = view(devices, 3, round)
        places = ByDiversity(candidates=9).choose({}, seen).places
        assert sorted(place % 3 for place in places) == [0, 1, 2]
        assert (seen.bytes_down, seen.bytes_up) == (0, 9 * 2 * 8)


def test_oorts_utility_is_the_papers():
    """|B| sqrt(mean squared loss) (T / t)^alpha, and sqrt(0.1 log R / L)."""
    rule = Oort(deadline=2.0, alpha=2.0)
    found = rule.utility(
        np.array([3.0, 3.0, 3.0]), np.array([1.0, 4.0, 2.0]), np.array([1.0, 4.0, 8.0]), 8, 2.0
    )
    by_hand = [3 + (0.1 * np.log(8)) ** 0.5, 3 / 4 + (0.1 * np.log(8) / 4) ** 0.5]
    np.testing.assert_allclose(found[:2], by_hand, rtol=1e-12)
    devices = sized([10, 20])
    seen = view(devices, 2, round=1)
    told = {"places": np.array([0, 1]), "rows": np.array([10.0, 20.0]), "seconds": np.ones(2)}
    after = rule.observe(rule.init(2, 2), seen, told)
    np.testing.assert_allclose(after["utility"], np.log(3) * np.array([10, 20]), rtol=1e-6)
    assert after["last"].tolist() == after["often"].tolist() == [1, 1]


def test_oort_explores_the_quick_ones_then_exploits_by_utility_and_avoids_the_slow():
    devices = sized([5] * 40)
    for device in devices:
        device.profile = Profile(compute=1e3 if device.id % 2 else 1e5)
    rule = Oort(deadline=0.01, explore=1.0, decay=0.5, least=0.0)
    state, rows = rule.init(40, 10), np.full(10, 5.0)
    first = rule.choose(state, view(devices, 10))
    assert set(first.reason) == {"explored, by its speed"}
    assert (first.places % 2 == 0).sum() >= 9  # a hundred times as likely
    for round in range(1, 9):
        seen = view(devices, 10, round)
        cohort = rule.choose(state, seen)
        seconds = seen.expected_seconds(cohort.places)
        told = {"places": cohort.places, "rows": rows, "seconds": seconds}
        state = rule.observe(cohort.state, seen, told)
    assert set(cohort.reason) == {"high utility"}
    assert (cohort.places % 2 == 0).all()  # all rows are alike, so that speed decides
    tired = Oort(deadline=0.01, explore=0.0, decay=1, least=0.0, most=1)
    again = tired.choose(state, view(devices, 10, 9))
    assert not np.isin(again.places, state["places"][state["often"] >= 1]).any()


def test_oorts_pacer_gives_more_time_where_rounds_bring_less():
    rule = Oort(deadline=3.0, window=2)
    state, devices = rule.init(4, 1), sized([8, 8, 1, 1])
    for place in range(4):
        told = {"places": np.array([place]), "rows": np.array([devices[place].rows * 1.0])}
        state = rule.observe(state, view(devices, 1), {**told, "seconds": np.ones(1)})
    assert state["deadline"] == 6.0
    assert len(state["gained"]) == 2


def test_rules_that_say_so_look_at_no_more_than_a_cohort_of_a_large_fleet():
    class Few:
        def __init__(self, values: Any) -> None:
            self.values, self.asked = values, 0

        def __getitem__(self, places: Any) -> Any:
            self.asked += np.size(places)
            return self.values[places]

    for rule in (AtRandom(), Poisson(2e-4), RoundRobin()):
        column = Few(np.full(100_000, 0.5))
        roster = Roster([], np.arange(100_000), {"availability": column}, [])  # type: ignore[arg-type]
        cohort = rule.choose(rule.init(100_000, 20), View(roster, 20, seed=1, round=1))
        assert 0 < len(cohort.places) < 60
        assert column.asked < 1000
