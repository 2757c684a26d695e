"""An algorithm of one's own: one file outside the package, no change of the engine, both doors.

FedDyn, from scratch. It reaches the optimum of the uniform average, which FedAvg misses.

Source: Acar et al., "Federated learning based on dynamic regularization", ICLR 2021, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from fedlab import MLP, Federation, LinearRegression, LocalSGD
from fedlab.algorithms import Stateless
from fedlab.training import Phase
from tests.algorithms.test_facts import optimum
from tests.federations import class_device, regression_device


@dataclass(frozen=True)
class FedDyn(Stateless):
    """Devices minimise f_k(y) - <g_k, y> + alpha / 2 |y - x|^2; g_k remembers their gradient."""

    alpha: float = 0.5
    weights: ClassVar[str] = "uniform"

    def init(self, parameters, devices, layout):
        return {"h": np.zeros(len(parameters)), "devices": devices}

    def work(self, state, parameters, places, kept):
        offset = -kept.rows("g", places, np.zeros_like(state["h"])).astype(parameters.dtype)
        return Phase(parameters, mu=self.alpha, offset=offset)

    def report(self, state, sent, kept):
        old = kept.rows("g", sent.places, np.zeros_like(state["h"]))
        return sent, kept.put("g", sent.places, old - self.alpha * sent.blocks["change"])

    def learn(self, state, means, devices):
        h = state["h"] - self.alpha * devices / state["devices"] * means["change"]
        return means["change"] - h / self.alpha, {**state, "h": h}


@pytest.mark.parametrize("engine", ["compiled", "plain"])
@pytest.mark.parametrize("cohort", [None, 3])
def test_it_reaches_the_optimum_of_the_uniform_average(engine, cohort):
    devices = [regression_device(n, rows=20 + 10 * n, inputs=3, seed=7) for n in range(5)]
    federation = Federation(
        devices,
        LinearRegression(3),
        algorithm=FedDyn(),
        local=LocalSGD(epochs=150, batch_size=None, learning_rate=0.3),
        cohort=cohort,
        parameters=np.zeros(4),
        engine=engine,
    )
    federation.run(150)
    np.testing.assert_allclose(federation.parameters, optimum(devices), atol=1e-8)


def test_the_two_doors_agree_on_a_network(tmp_path):
    devices = [class_device(n, [0, 1, 2] * (2 + n)) for n in range(5)]
    ends = []
    for engine in ("compiled", "plain"):
        federation = Federation(
            devices,
            MLP(4, (6,), 3),
            algorithm=FedDyn(),
            local=LocalSGD(epochs=2, batch_size=4),
            cohort=3,
            parameters=MLP(4, (6,), 3).initial(0).astype(np.float64),
            engine=engine,
        )
        federation.run_to(6, tmp_path / engine, every=2)
        ends.append(federation.parameters)
    np.testing.assert_allclose(*ends, atol=1e-12)
