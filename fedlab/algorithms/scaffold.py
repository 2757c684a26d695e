"""SCAFFOLD: control variates undo client drift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from fedlab.algorithms.base import Reported, State
from fedlab.core.typing import F64, Array, Places
from fedlab.core.validation import one_of
from fedlab.device.states import DeviceStates
from fedlab.models.base import Layout
from fedlab.training.local import LocalSGD
from fedlab.training.work import Phase, Work
from fedlab.updates.sent import Updates


@dataclass(frozen=True)
class Scaffold:
    """Devices step along g + c - c_i; the server averages uniformly.

    A device keeps its variate c_i, and sends its change and how c_i changed; the server keeps c.

    Parameters
    ----------
    option : {2, 1}
        How a device renews its control variate: 2, from its own change, c_i - c + (x - y) / (K
        eta); 1, the gradient of its whole loss at x, which costs another pass over its rows.

    Source: Karimireddy et al., "SCAFFOLD: stochastic controlled averaging for federated learning",
    ICML 2020, algorithm 1. All variates start at zero, and c is their mean over *all* devices; the
    paper's eta_g is the server's step: ``server=SGD(rate)``.

    Examples
    --------
    >>> Scaffold().init(np.zeros(2), 10, Layout((("weights", (2,)),)))["control"]
    array([0., 0.])
    """

    option: Literal[1, 2] = 2

    weights: ClassVar[Literal["uniform"]] = "uniform"

    def __post_init__(self) -> None:
        one_of(self.option, (1, 2), "option")

    def check(self, local: LocalSGD) -> None:
        for name in ("momentum", "weight_decay", "clip"):
            if self.option == 2 and getattr(local, name):
                raise ValueError(
                    f"Scaffold(option=2) was given with LocalSGD({name}={getattr(local, name)}): "
                    "(x - y) / (K eta) is then no gradient; leave it out, or take option=1"
                )

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        return {"control": np.zeros(len(parameters)), "devices": devices}

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        offset = state["control"] - self._controls(state, places, kept)
        return Phase(parameters, offset=offset.astype(parameters.dtype), gradient=self.option == 1)

    def _controls(self, state: State, places: Places, kept: DeviceStates) -> F64:
        return kept.rows("control", places, np.zeros_like(state["control"]))

    def report(self, state: State, sent: Updates, kept: DeviceStates) -> Reported:
        blocks = dict(sent.blocks)
        old, change = self._controls(state, sent.places, kept), blocks["change"]
        if self.option == 1:
            new = blocks.pop("gradient").astype(np.float64)
        else:
            new = (
                old
                - state["control"]
                - change / (sent.stats["steps"] * sent.stats["rate"])[:, None]
            )
        # What is kept is what was sent, so that c stays the mean of the c_i to rounding.
        blocks["control"] = (new - old).astype(change.dtype)
        return replace(sent, blocks=blocks), kept.put(
            "control", sent.places, old + blocks["control"]
        )

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        control = state["control"] + devices / state["devices"] * means["control"]
        return means["change"], {**state, "control": control}
