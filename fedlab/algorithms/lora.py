"""How low-rank adapters are averaged: freezing A, stacking, adding a residual, truncating by SVD.

A layer computes (W + B A) x, where A, (r, inputs), and B, (outputs, r), train and W does not.
Averaging A and B apart (FedAvg) is inexact: sum_k p_k B_k A_k - B' A' = sum_k p_k (B_k - B') (A_k -
A') for the means A' and B'. The algorithms here differ in how they mend that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from fedlab.algorithms.base import Reported, State, Stateless
from fedlab.core.typing import F64, Array, Places
from fedlab.core.validation import whole_number
from fedlab.device.states import DeviceStates
from fedlab.models.base import Layout, Model
from fedlab.training.work import Phase, Work
from fedlab.updates.sent import Updates

#: What stands in the names of adapters' arrays, and of the layer's own weights, as PEFT has them.
_A, _B, _BASE = "lora_A.default", "lora_B.default", "base_layer"


def adapted(layout: Layout, based: bool = True) -> list[str]:
    """Return the names of the A of each adapted layer, or say what is missing.

    Parameters
    ----------
    layout : Layout
    based : bool
        Whether the layers' own weights must be there, too: they are what moves.
    """
    first = layout.names(f"*{_A}*")
    others = {name.replace(_A, new) for name in first for new in (_B, _BASE)[: 1 + based]}
    missing = sorted(others - set(layout.names()))
    if missing or not first:
        raise ValueError(
            f"there is no {', '.join(missing) or 'lora_A.default'} in the model's layout, which "
            f"has {', '.join(layout.names())}; adapters are named as PEFT names them"
            + (", and the weights that they adapt must be among the parameters" if based else "")
        )
    return first


def adapters_of(layout: Layout, vector: Array) -> Iterator[tuple[Array, Array, Any]]:
    """Yield A, B and W of each adapted layer, as views into a vector of parameters.

    W is None where the layers' own weights are not among them.
    """
    views = layout.views(vector)
    for name in adapted(layout, based=False):
        yield views[name], views[name.replace(_A, _B)], views.get(name.replace(_A, _BASE))


def _layout_in(state: State) -> Layout:
    """Return the layout that a state holds as a checkpoint can: names and shapes."""
    return Layout(tuple((name, tuple(shape)) for name, shape in state["shapes"]))


def products(model: Model, start: Array, end: Array, x: Array, y: Array) -> dict[str, Any]:
    """Return B A of all adapted layers one after another, as a device's phase ended."""
    pairs = adapters_of(model.layout, end)
    return {"product": np.concatenate([(b @ a).ravel() for a, b, _ in pairs])}


@dataclass(frozen=True)
class FFALoRA(Stateless):
    """A stays as it began, the same on all devices, and only B trains: the average is exact.

    Source: Sun et al., "Improving LoRA in privacy-preserving federated learning", ICLR 2024.

    Examples
    --------
    >>> FFALoRA()
    FFALoRA()
    """

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        names = adapted(layout, based=False)
        frozen = layout.mask(*names, *layout.names(f"*{_BASE}*"))
        return {"frozen": frozen, "sent": int((~frozen).sum()) * parameters.itemsize}

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        frozen = state["frozen"]
        return Phase(parameters, trained=~frozen, stays=frozen, received=state["sent"])


@dataclass(frozen=True)
class _Exact(Stateless):
    """What the algorithms share that learn the mean of the products B_k A_k."""

    reads: ClassVar[tuple[str, ...]] = ("parameters",)
    #: Whether W moves, so that a residual goes down.
    _residual: ClassVar[bool] = True

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        base = layout.mask(*(name.replace(_A, _BASE) for name in adapted(layout)))
        shapes = [[name, list(shape)] for name, shape in layout.shapes]
        sent = int((~base).sum()) * parameters.itemsize
        return {"base": base, "shapes": shapes, "sent": sent, "stacked": 0}

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        base = state["base"]
        return Phase(
            parameters,
            trained=~base,
            stays=base,
            observe=products,
            received=state["sent"] + state["stacked"],
        )

    def report(self, state: State, sent: Updates, kept: DeviceStates) -> Reported:
        # Whoever has A and B has their product: it costs no byte of its own.
        sizes = {**sent.sizes, "product": np.zeros(len(sent), np.int64)}
        return replace(sent, sizes=sizes), kept

    def learn(self, state: State, means: Mapping[str, F64], devices: int) -> tuple[F64, State]:
        layout = _layout_in(state)
        change, before = means["change"].copy(), means["parameters"]
        ends, at = before + change, 0
        steps = adapters_of(layout, change)
        for step, end, old in zip(
            steps, adapters_of(layout, ends), adapters_of(layout, before), strict=True
        ):
            shape = step[2].shape
            product = means["product"][at : at + math.prod(shape)].reshape(shape)
            at += product.size
            self._settle(product, step, end, old)
        # A residual of the cohort's rank goes down with the next round's model.
        rows = sum(sum(w.shape) * len(a) for a, _, w in adapters_of(layout, change))
        return change, {**state, "stacked": self._residual * devices * rows * 4}

    def _settle(self, product: F64, step: Any, end: Any, old: Any) -> None:
        """Write a layer's steps of A, B and W, given the mean product and means of A and B."""
        raise NotImplementedError


@dataclass(frozen=True)
class FedExLoRA(_Exact):
    """A and B are averaged apart, and what is lost by that is added to W: exact.

    Source: Singhal et al., "FedEx-LoRA: exact aggregation for federated and efficient fine-tuning
    of foundation models", 2024, equation 9.

    Examples
    --------
    >>> FedExLoRA()
    FedExLoRA()
    """

    def _settle(self, product: F64, step: Any, end: Any, old: Any) -> None:
        a, b, _ = end
        step[2][...] = product - b @ a


@dataclass(frozen=True)
class FLoRA(_Exact):
    """Adapters are stacked, which adds the mean of their products to W; they begin anew: exact.

    [p_1 B_1, p_2 B_2, ...] [A_1; A_2; ...] = sum_k p_k B_k A_k, whatever the ranks.

    Parameters
    ----------
    ranks : tuple of int
        Of the devices, by place and then over again; by default all have the model's.

    Source: Wang et al., "FLoRA: federated fine-tuning large language models with heterogeneous
    low-rank adaptations", NeurIPS 2024, equation 4.

    Examples
    --------
    >>> FLoRA(ranks=(2, 4))
    FLoRA(ranks=(2, 4))
    """

    ranks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for rank in self.ranks:
            whole_number(rank, "a rank", 1)

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        for a, b, _ in adapters_of(layout, parameters):
            if np.any(b):
                raise ValueError("FLoRA begins where adapters change nothing: B must be zero")
            if self.ranks and max(self.ranks) > len(a):
                raise ValueError(
                    f"ranks up to {max(self.ranks)} were given; the model's adapters have {len(a)}"
                )
        return super().init(parameters, devices, layout)

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        phase = super().work(state, parameters, places, kept)
        if not self.ranks:
            return phase
        # Rows of A beyond a device's rank are zero; with B at zero no gradient moves either.
        layout = _layout_in(state)
        start = np.repeat(parameters[None], len(places), axis=0)
        for row, rank in zip(start, self._ranks_of(places), strict=True):
            for a, _, _ in adapters_of(layout, row):
                a[rank:] = 0
        assert isinstance(phase, Phase)
        return replace(phase, start=start)

    def report(self, state: State, sent: Updates, kept: DeviceStates) -> Reported:
        sent, kept = super().report(state, sent, kept)
        if not self.ranks:
            return sent, kept
        layout = _layout_in(state)
        change = sent.blocks["change"]
        pairs = list(adapters_of(layout, change[0]))
        rows = sum(sum(w.shape) for _, _, w in pairs)
        others = int((~state["base"]).sum()) - sum(a.size + b.size for a, b, _ in pairs)
        own = np.array(self._ranks_of(sent.places))
        sizes = {**sent.sizes, "change": (own * rows + others) * change.itemsize}
        return replace(sent, sizes=sizes), kept

    def _ranks_of(self, places: Places) -> list[int]:
        return [self.ranks[place % len(self.ranks)] for place in places.tolist()]

    def _settle(self, product: F64, step: Any, end: Any, old: Any) -> None:
        step[0][...], step[1][...], step[2][...] = 0, 0, product


@dataclass(frozen=True)
class FlexLoRA(_Exact):
    """The mean of the products is cut to the adapters' rank by SVD: the nearest there is.

    Its squared error is the sum of the squared singular values that were cut off.

    Source: Bai et al., "Federated fine-tuning of large language models under heterogeneous tasks
    and client resources", NeurIPS 2024.

    Examples
    --------
    >>> FlexLoRA()
    FlexLoRA()
    """

    _residual: ClassVar[bool] = False

    def _settle(self, product: F64, step: Any, end: Any, old: Any) -> None:
        left, sizes, right = np.linalg.svd(product, full_matrices=False)
        rank = len(step[0])
        roots = np.sqrt(sizes[:rank])
        step[0][...] = roots[:, None] * right[:rank] - old[0]
        step[1][...] = left[:, :rank] * roots - old[1]
        step[2][...] = 0
