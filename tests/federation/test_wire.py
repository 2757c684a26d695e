"""What travels of a model: buffers are averaged, whatever an algorithm makes of changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest

from fedlab import Federation, LinearRegression, LocalSGD
from fedlab.algorithms import FedBN, by_name
from fedlab.federation.wire import Wire
from fedlab.models import Layout
from fedlab.updates import Updates
from tests.federations import regression_device


@dataclass(frozen=True)
class Remembering:
    """Linear regression that keeps a running mean of its rows, which it does not use."""

    inputs: int = 3

    @cached_property
    def layout(self) -> Layout:
        return Layout((("weights", (3,)), ("bias", (1,)), ("seen", (3,))), buffers=("seen",))

    def check_labels(self, y: Any) -> None:
        return None

    def initial(self, seed: int) -> Any:
        return np.zeros(7, np.float32)

    def loss_and_gradient(self, parameters: Any, x: Any, y: Any) -> Any:
        loss, gradient = LinearRegression(3).loss_and_gradient(parameters[:4], x, y)
        return loss, np.concatenate([gradient, 0.5 * parameters[4:] + 0.5 * x.mean(axis=0)])

    def evaluate(self, parameters: Any, x: Any, y: Any) -> dict[str, float]:
        return LinearRegression(3).evaluate(parameters[:4], x, y)


DEVICES = [regression_device(n, rows=20 + 10 * n, inputs=3, seed=7) for n in range(4)]
ALGORITHMS = (
    *("fedavg", "fedprox", "scaffold", "fednova", "feddyn", "qffl", "afl", "ditto", "apfl", "ifca"),
    "fedadam",
)


def learn(model: Any, algorithm: Any, rounds: int = 1, **given: Any) -> Federation:
    local = LocalSGD(batch_size=None, learning_rate=0.1)
    settings = {"weights": "uniform", "engine": "plain"} | given
    federation = Federation(DEVICES, model, algorithm=algorithm, local=local, **settings)
    federation.run(rounds)
    return federation


@pytest.mark.parametrize("name", ALGORITHMS)
def test_buffers_are_the_mean_of_the_devices_and_change_nothing_else(name: str) -> None:
    one = learn(Remembering(), by_name(name))
    means = np.mean([device.training()[0].mean(axis=0) for device in DEVICES], axis=0)
    np.testing.assert_allclose(one.parameters[4:], 0.5 * means, atol=1e-6)
    if name != "ifca":  # whose models begin at noise, of other length without buffers
        plain = learn(LinearRegression(3), by_name(name), rounds=4)
        again = learn(Remembering(), by_name(name), rounds=4)
        np.testing.assert_allclose(again.parameters[:4], plain.parameters, atol=1e-5)


@pytest.mark.parametrize("name", ["fedavg", "ifca", "scaffold"])
def test_buffers_travel_once_and_their_bytes_are_counted(name: str) -> None:
    more = learn(Remembering(), by_name(name)).history.series("bytes_up").iloc[0]
    plain = learn(LinearRegression(3), by_name(name)).history.series("bytes_up").iloc[0]
    assert more - plain == len(DEVICES) * 3 * 4


def test_buffers_that_stay_do_not_travel() -> None:
    one = learn(Remembering(), FedBN(keep=("bias",)), rounds=2)
    assert one.history.series("bytes_up").iloc[0] == len(DEVICES) * (24 + 3 * 4)
    assert (one.parameters[3:] == 0).all()
    assert np.abs(one.personal_parameters()[:, 4:]).min() > 0


@pytest.mark.parametrize("stays", ["111111", "110001", "001110", "111110", "010101"])
def test_what_travels_is_cut_out_whether_it_stands_together_or_not(stays):
    kept = np.array([*map(int, stays)], bool)
    wire = Wire(Layout((("a", (2,)), ("b", (3,)), ("c", (1,)))), stays={"change": kept})
    block = np.arange(12.0).reshape(2, 6)
    sent = wire.narrowed(Updates(np.arange(2), {"change": block}, np.full(2, 0.5), {}), None)
    assert sent.blocks["change"].tolist() == block[:, ~kept].tolist()
