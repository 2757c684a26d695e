"""Codecs on both ways: what devices hold, what each receives, and resuming to the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedlab import Federation, LinearRegression, LocalSGD, SoftmaxRegression, spread
from fedlab.algorithms import by_name
from fedlab.core.randomness import address_of
from fedlab.data import iid, load_digits
from fedlab.models import MLP
from fedlab.updates import (
    EF21,
    QSGD,
    Cast,
    ClipNorm,
    Context,
    Drive,
    ErrorFeedback,
    LowRank,
    Sign,
    TopK,
)
from tests.federation.test_wire import DEVICES, Remembering
from tests.federations import quadratic, regression_device


@pytest.fixture(scope="module")
def ten() -> Any:
    digits = load_digits()
    return spread(digits, iid(len(digits), devices=10, seed=0))


def federation(devices: Any, **given: Any) -> Federation:
    model = SoftmaxRegression(inputs=64, classes=10)
    return Federation(devices, model, **{"cohort": 4, "seed": 3, **given})


BOTH: dict[str, Any] = {"updates": [ErrorFeedback(TopK(0.1))], "down": [TopK(0.1)]}


def test_a_run_coded_on_both_ways_learns_and_goes_on_from_a_file_to_the_same_bits(
    ten: Any, tmp_path: Any
) -> None:
    whole, plain = federation(ten, **BOTH), federation(ten)
    whole.run(30)
    plain.run(30)
    assert whole.history.last("train_loss") < 1.5 * plain.history.last("train_loss")
    for name in ("bytes_up", "bytes_down"):
        assert whole.history.series(name).sum() < plain.history.series(name).sum() / 2
    federation(ten, **BOTH).run_to(13, tmp_path / "run")
    second = federation(ten, **BOTH)
    second.run_to(30, tmp_path / "run")
    assert second.parameters.tobytes() == whole.parameters.tobytes()
    assert second.history.to_frame().equals(whole.history.to_frame())
    with pytest.raises(ValueError, match="another run: its down is"):
        federation(ten, updates=BOTH["updates"]).load(tmp_path / "run")


@pytest.mark.parametrize(
    "given",
    [
        {"updates": [EF21(Sign())], "down": [Drive(unbiased=False)]},
        {"updates": [ErrorFeedback(LowRank(1)), ClipNorm(5.0)], "down": [LowRank(1)]},
        {"updates": [QSGD(4, bucket=64), Cast("bf16")], "down": [Cast("i8"), TopK(0.2)]},
    ],
    ids=repr,
)
def test_neither_parts_nor_threads_nor_files_change_a_bit(
    ten: Any, given: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    given = {"algorithm": "scaffold", "record": "devices", **given}
    whole = federation(ten, threads=1, **given)
    whole.run(6)
    assert np.isfinite(whole.parameters).all()
    monkeypatch.setattr("fedlab.federation.on_devices.HELD", 1)
    federation(ten, threads=2, **given).run_to(3, tmp_path / "run")
    second = federation(ten, threads=2, **given)
    second.run_to(6, tmp_path / "run")
    assert second.parameters.tobytes() == whole.parameters.tobytes()
    assert second.history.to_frame().equals(whole.history.to_frame())


def test_what_devices_hold_is_what_they_decoded_and_each_receives_what_it_missed(ten: Any) -> None:
    """Replayed from the messages alone: a device has all of x̂ once, and then adds differences."""
    codec = TopK(0.3)
    one = federation(ten, down=[codec], cohort=3, seed=8, record="devices")
    size = one.layout.size
    held, first = one.parameters, one.parameters
    messages: list[bytes] = []
    has: dict[int, tuple[int, Any]] = {}
    cases = set()
    for number in range(1, 21):
        difference = one.parameters - held
        at = Context(size, difference.dtype, 8, number, 0, address_of("change at down 0"))
        messages.append(codec.encode(difference, at))
        before, report = held, one.round()
        assert one.state.sent is not None
        held = one.state.sent["model"]
        np.testing.assert_array_equal(held, before + codec.decode(messages[-1], at))
        received = dict(
            zip(report.devices["id"].tolist(), report.devices["bytes_down"].tolist(), strict=True)
        )
        for device in report.devices["id"].tolist():
            seen, model = has.get(device, (None, None))
            missed = None if seen is None else messages[seen:]
            if missed is None or sum(map(len, missed)) >= 4 * size:
                cases.add("whole" if missed else "first")
                assert received[device] == 4 * size
                model = held.copy()
            else:
                cases.add(min(len(missed), 2))
                assert received[device] == sum(map(len, missed))
                for message in missed:
                    model = model + codec.decode(message, at)
            assert model.tobytes() == held.tobytes()
            has[device] = (number, model)
        assert report.measures["bytes_down"] == sum(received.values())
    assert cases == {"first", "whole", 1, 2}
    assert (first != held).any()


def test_devices_train_from_what_they_hold_and_the_server_moves_by_it_in_full() -> None:
    """EF21-P with one full-batch step: x moves by the mean gradient at x̂, and x̂ by C(x - x̂)."""
    devices = [regression_device(n, rows=30, inputs=3, seed=7) for n in range(4)]
    rate, codec = 0.2, TopK(1)
    one = Federation(
        devices,
        LinearRegression(3),
        local=LocalSGD(batch_size=None, learning_rate=rate),
        weights="uniform",
        down=[codec],
        parameters=np.zeros(4),
    )
    problems = [quadratic(device) for device in devices]
    x = held = np.zeros(4)
    for _ in range(300):
        difference = x - held
        held = held + np.where(np.arange(4) == np.argmax(np.abs(difference)), difference, 0)
        x = x - rate * np.mean([h @ (held - c) for h, c in problems], axis=0)
        one.round()
        np.testing.assert_allclose(one.parameters, x, atol=1e-12)
    best = np.linalg.solve(sum(h for h, _ in problems), sum(h @ c for h, c in problems))
    np.testing.assert_allclose(x, best, atol=1e-9)
    np.testing.assert_allclose(held, best, atol=1e-9)


def test_seconds_are_those_of_the_bytes_that_each_device_received(ten: Any) -> None:
    one = federation(ten, down=[TopK(0.01)], cohort=None, record="devices")
    for report in one.rounds(3):
        profile, told = one.devices[0].profile, report.devices
        work = 6 * one.layout.size * told["rows"] * told["epochs"] / profile.compute
        seconds = (told["bytes_up"] + told["bytes_down"]) / profile.bandwidth + work
        assert report.measures["seconds"] == pytest.approx(seconds.max())
    assert (told["bytes_down"] < 100).all()


def test_in_a_round_that_is_skipped_the_model_came_down_and_nothing_else_is_kept(ten: Any) -> None:
    one = federation(ten, cohort=None, weights=lambda device: 0.0, **BOTH)
    start, delta = one.parameters, len(TopK(0.1).encode(np.zeros(650, "f4"), Context(650, "f4")))
    with pytest.warns(UserWarning, match="all weights are zero"):
        one.run(2)
    assert one.history.series("bytes_down").tolist() == [10 * 4 * 650, 10 * delta]
    assert one.state.kept.names == ["differences seen"]
    assert one.parameters.tobytes() == start.tobytes()
    goes_on = federation(ten, cohort=None, **BOTH)
    goes_on.run(1)
    assert "ErrorFeedback of change at 0" in goes_on.state.kept.names


def test_buffers_go_down_whole_and_stay_the_mean_of_the_devices() -> None:
    local = LocalSGD(batch_size=None, learning_rate=0.1)
    one = Federation(
        DEVICES,
        Remembering(),
        local=local,
        weights="uniform",
        engine="plain",
        down=[TopK(1)],
        updates=[ErrorFeedback(TopK(2))],
    )
    one.run(3)
    means = np.mean([device.training()[0].mean(axis=0) for device in DEVICES], axis=0)
    np.testing.assert_allclose(one.parameters[4:], (1 - 0.5**3) * means, atol=1e-6)
    assert one.history.series("bytes_up").iloc[0] == 4 * (24 + 3 * 4 + 2 * 4 + 2)
    assert one.history.series("bytes_down").iloc[0] == 4 * 7 * 4
    assert one.history.series("bytes_down").iloc[2] == 4 * (3 * 4 + 4 + 2)


FROM_THE_SERVER = (
    *("fedavg", "fedprox", "scaffold", "fednova", "feddyn", "qffl", "afl", "finetuned", "ditto"),
    *("apfl", "fedper", "fedrep", "moon", "feddbe", "fedadam"),
)


@pytest.mark.parametrize("name", FROM_THE_SERVER)
def test_any_algorithm_that_sends_a_model_goes_with_codecs_on_both_ways(name: str) -> None:
    from fedlab.algorithms import FedPer, FedRep

    own = {"fedper": FedPer(keep=("*2*",)), "fedrep": FedRep(keep=("*2*",))}
    digits = load_digits()
    devices = spread(digits, iid(len(digits), devices=5, seed=0))
    model = MLP(64, (8,), 10)
    given = {"algorithm": own.get(name, by_name(name)), "seed": 1}
    plain = Federation(devices, model, **given)
    exact = Federation(devices, model, down=[TopK(1.0)], updates=[TopK(1.0)], **given)
    small = Federation(devices, model, **BOTH, **given)
    for one in (plain, exact, small):
        one.run(4)
    # All of the difference is sent: what is lost is a rounding of x - x̂.
    np.testing.assert_allclose(exact.parameters, plain.parameters, atol=2e-4)
    assert np.isfinite(small.parameters).all()
    for way in ("bytes_up", "bytes_down"):
        assert small.history.last(way) < plain.history.last(way)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"algorithm": "ifca", "down": [TopK()]}, "IFCA sends them something else"),
        ({"algorithm": "alone", "down": [TopK()]}, "Alone sends them something else"),
        ({"down": [QSGD()]}, r"a codec of down= is QSGD\(.* may be more than what it codes"),
    ],
)
def test_codecs_that_can_bring_no_model_down_are_refused(ten: Any, given: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        federation(ten, **given)
    with pytest.raises(TypeError, match=r"a codec of down= is an object of type ErrorFeedback"):
        federation(ten, down=[ErrorFeedback(TopK())])
