"""FedBuff, FedAsync, semi-synchronous rounds: by hand, in order, resumed to the same bits."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest

from fedlab import Device, Federation, LinearRegression, LocalSGD, Profile, SoftmaxRegression
from fedlab.fleet import FedAsync, FedBuff, Oort, RoundRobin
from fedlab.updates import Cast, ChainError
from tests.federations import class_device, quadratic, regression_device
from tests.fleet.test_clock import told
from tests.fleet.test_selection import Hides


def regressions(seconds: list[float], seed: int = 0) -> list[Device]:
    """Devices whose rounds take so many seconds: of 3 parameters, (4 * 3 + 4 * 3 + 24) bytes."""
    devices = [regression_device(n, rows=20, inputs=2, seed=seed) for n in range(len(seconds))]
    for device, second in zip(devices, seconds, strict=True):
        device.profile = Profile(bandwidth=72 / second, compute=1e300)
    return devices


def federation(devices: list[Device], schedule: Any, **settings: Any) -> Federation:
    given = {"local": LocalSGD(batch_size=None, learning_rate=0.05), "seed": 1, **settings}
    given.setdefault("parameters", np.zeros(3))  # in float64
    return Federation(devices, LinearRegression(2), schedule=schedule, **given)


def by_hand(
    devices: list[Device], seconds: list[float], steps: int, schedule: Any, buffer: int
) -> tuple[Any, list[Any]]:
    """All devices are at work at once; each full-batch step is w - 0.05 H (w - c)."""
    parts = [quadratic(device) for device in devices]
    w, now = np.zeros(3), 0
    heap = [(seconds[n], n, 0, w) for n in range(len(devices))]
    heapq.heapify(heap)
    log = []
    for _ in range(steps):
        came = [heapq.heappop(heap) for _ in range(buffer)]
        total = np.zeros(3)
        for _, n, version, start in came:
            hessian, centre = parts[n]
            change = -0.05 * hessian @ (start - centre)
            scale = schedule.weight(now - version)
            if isinstance(schedule, FedAsync):
                total += schedule.alpha * scale * (start + change - w)
            else:
                total += scale * change / buffer
        clock = came[-1][0]
        log.append(([n for _, n, _, _ in came], [now - v for _, _, v, _ in came], clock))
        w, now = w + total, now + 1
        for _, n, _, _ in came:
            heapq.heappush(heap, (clock + seconds[n], n, now, w))
    return w, log


SECONDS = [1.0, 1.7, 2.9, 7.3, 4.1]


@pytest.mark.parametrize(
    ("schedule", "buffer"),
    [
        (FedAsync(alpha=0.5, staleness="constant"), 1),
        (FedAsync(alpha=0.9, staleness="polynomial", a=0.7), 1),
        (FedAsync(alpha=0.9, staleness="hinge", a=1.5, b=1), 1),
        (FedBuff(2), 2),
        (FedBuff(3, staleness="constant"), 3),
    ],
)
def test_the_sequence_is_that_by_hand_on_quadratics(schedule, buffer):
    devices = regressions(SECONDS)
    one = federation(devices, schedule, weights="uniform", record="devices")
    expected, log = by_hand(devices, SECONDS, 14, schedule, buffer)
    clock = 0.0
    for senders, staleness, ended in log:
        report = one.round()
        clock += report.measures["seconds"]
        assert report.senders.tolist() == sorted(senders)
        assert report.measures["staleness"] == pytest.approx(np.mean(staleness))
        assert clock == pytest.approx(ended, rel=1e-9)
    np.testing.assert_allclose(one.parameters, expected, rtol=1e-9)
    assert max(max(staleness) for _, staleness, _ in log) >= 1
    assert one.state.clock == pytest.approx(log[-1][2], rel=1e-9)


@pytest.mark.parametrize("engine", ["compiled", "plain"])
def test_with_equal_devices_and_a_buffer_of_all_it_is_fedavg(engine):
    def made(schedule: Any) -> Federation:
        devices = [class_device(n, [0, 1, 2] * (2 + n % 3), seed=n) for n in range(8)]
        for device in devices:
            device.profile = Profile(compute=1e300)
        local = LocalSGD(batch_size=4, epochs=2)
        return Federation(
            devices, SoftmaxRegression(4, 3), local=local, cohort=5, schedule=schedule,
            engine=engine, seed=3,
        )  # fmt: skip

    plain, buffered = made(None), made(FedBuff(5))
    for _ in range(5):
        one, other = plain.round(), buffered.round()
        assert one.senders.tolist() == other.senders.tolist()
        assert other.measures["staleness"] == other.measures["in_flight"] == 0
        assert one.measures["seconds"] == pytest.approx(other.measures["seconds"], rel=1e-9)
    assert plain.parameters.tobytes() == buffered.parameters.tobytes()


def test_both_engines_train_devices_on_models_of_several_rounds_in_one_call():
    ends = []
    for engine in ("compiled", "plain"):
        devices = [class_device(n, [0, 1, 2] * (2 + n % 3), seed=n) for n in range(8)]
        for device in devices:
            device.profile = Profile(compute=1e5 * (1 + device.id))
        one = Federation(
            devices, SoftmaxRegression(4, 3), local=LocalSGD(batch_size=4, decay=0.9), cohort=6,
            schedule=FedBuff(3), algorithm="fedprox", engine=engine, seed=3,
        )  # fmt: skip
        one.run(9)
        assert one.history.series("staleness").max() > 1
        ends.append(one.parameters)
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-4, atol=1e-6)


def test_staleness_counts_from_the_download():
    """Device 0 takes 1 s, device 1 takes 3.5 s: it arrives when the server has made three steps."""
    one = federation(regressions([1.0, 3.5]), FedBuff(1), weights="uniform")
    told = [one.round() for _ in range(5)]
    assert [report.senders.tolist() for report in told] == [[0], [0], [0], [1], [0]]
    assert [report.measures["staleness"] for report in told] == [0, 0, 0, 3, 1]
    seconds = np.cumsum([report.measures["seconds"] for report in told])
    np.testing.assert_allclose(seconds, [1, 2, 3, 3.5, 4], rtol=1e-9)


def test_updates_that_are_too_stale_are_left_out_and_named():
    one = federation(regressions([1.0, 3.5]), FedBuff(1, most=2))
    for _ in range(3):
        one.round()
    before = one.parameters
    report = one.round()
    assert report.remarks[0] == (1, "left out: stale by 3 steps; at most 2 are allowed")
    assert report.measures["stale"] == 1
    assert report.measures["bytes_up"] == report.measures["bytes_up_lost"] == 3 * 8 + 24
    assert (one.parameters == before).all()
    assert one.round().senders.tolist() == [0]


def test_semi_synchronous_rounds_end_with_the_buffer_or_the_time():
    one = federation(regressions([1.0, 1.5, 9.0]), FedBuff(3, seconds=2.0), weights="uniform")
    told = [one.round() for _ in range(5)]
    assert [report.measures["seconds"] for report in told] == pytest.approx([2.0] * 4 + [1.5])
    assert [report.senders.tolist() for report in told] == [[0, 1]] * 4 + [[0, 1, 2]]
    slow = federation(regressions([9.0, 9.0]), FedBuff(1, seconds=4.0))
    told = [slow.round() for _ in range(3)]
    assert [report.measures["seconds"] for report in told] == pytest.approx([4.0, 4.0, 1.0])
    assert told[0].remarks[-1][1].startswith("skipped: no usable update")
    assert told[0].measures["in_flight"] == 2


def test_equal_times_are_broken_by_place():
    one = federation(regressions([1.0] * 4), FedAsync(), weights="uniform")
    assert [one.round().senders.tolist() for _ in range(8)] == [[0], [1], [2], [3]] * 2


@pytest.mark.filterwarnings("ignore:.*remarks were made")
@pytest.mark.parametrize("rule", [None, RoundRobin(), Oort(1.0, window=2)])
@pytest.mark.parametrize("schedule", [FedBuff(3, most=6), FedAsync(seconds=0.02)])
def test_a_run_is_resumed_in_mid_flight_to_the_same_bits(schedule, rule, tmp_path):
    def made(order: Any = range(12), **settings: Any) -> Federation:
        devices = [class_device(f"ward {n}", [0, 1, 2] * (2 + n % 3), seed=n) for n in order]
        for device, n in zip(devices, order, strict=True):
            device.profile = Profile(
                1e4 * (1 + n % 5), compute=1e6 * (1 + n % 4), availability=0.7, dropout=0.1
            )
        return Federation(
            devices, SoftmaxRegression(4, 3), local=LocalSGD(batch_size=4), cohort=6, seed=2,
            schedule=schedule, selection=rule, updates=[Cast()], **settings,
        )  # fmt: skip

    whole = made()
    whole.run(20)
    first = made()
    for report in first.rounds():
        if report.round > 8 and len(first.state.flight["models"]) > 1:
            break
    first.save(tmp_path / "run")
    assert report.round < 19
    half = made(threads=2)
    half.run_to(20, tmp_path / "run")
    assert told(half) == told(whole)
    other = made([5, 3, 11, 0, 2, 1, 4, 9, 8, 7, 6, 10])
    other.run(20)
    assert told(other) == told(whole)
    flight = whole.state.flight
    assert set(flight["models"]) == set(flight["version"].tolist())
    series = whole.history.series("seconds")
    assert (series >= 0).all()  # events come in order


def test_what_makes_no_sense_is_refused_when_it_is_built():
    devices = regressions([1.0] * 4)
    with pytest.raises(ValueError, match="a buffer of 5 was given, with cohorts of 4"):
        federation(devices, FedBuff(5))
    with pytest.raises(ValueError, match="a quorum of 2"):
        federation(devices, FedAsync(), quorum=2)
    with pytest.raises(ChainError, match="weighs each update by its staleness"):
        federation(devices, FedBuff(2), updates=[Hides()])
    with pytest.raises(ValueError, match="Scaffold does more on the server than to average"):
        federation(devices, FedBuff(2), algorithm="scaffold")
    with pytest.raises(TypeError, match=r"schedule is 'fedbuff' .*give a Deadline"):
        federation(devices, "fedbuff")
    for wrong in ({"staleness": "linear"}, {"a": -1}, {"most": -1}, {"seconds": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FedBuff(2, **wrong)
    with pytest.raises(ValueError, match="alpha"):
        FedAsync(alpha=1.5)
    prox = federation(devices, FedAsync(), algorithm="fedprox")
    assert prox.round().senders.tolist() == [0]
