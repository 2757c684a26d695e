"""Torch modules: devices in a pool of threads, each stepping in the memory of its own vector.

What a module gives for a device is the same bits whoever else is in the cohort: one device at a
time, on one thread. Networks of affine layers with ReLU go through the compiled loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import Array, Places
from fedlab.device.device import Device
from fedlab.device.rows import Rows
from fedlab.models import MLP, SoftmaxRegression, TorchModel
from fedlab.models.torch_replica import aliased, one_torch_thread
from fedlab.training.compiled.stack import stack_of
from fedlab.training.compiled.trainer import Compiled
from fedlab.training.local import LocalSGD, Update, rows_to_train_on, train_device
from fedlab.training.trainer import (
    Backend,
    Job,
    Measures,
    Part,
    Plain,
    Ready,
    Trainer,
    refuse_unknown,
    trainer_of,
)
from fedlab.training.work import Phase


def train_in_torch(
    device: Device, model: TorchModel, phase: Phase, local: LocalSGD, *, rate: float, **when: int
) -> Update:
    """Return what `train_device` does, by steps that write into the vector's own memory."""
    import torch

    if phase.objective is not None:
        return train_device(device, model, phase, local, rate=rate, **when)
    assert phase.start is not None
    x, y = rows_to_train_on(device, model)
    vector = phase.start.copy()
    seed, round, part = when["seed"], when["round"], when["begun"]
    draw = generator(seed, Purpose.MODEL, round=round, device=device.id, part=part)
    chance, losses, blocks = draw if model.stochastic else None, [], {}
    with one_torch_thread():
        replica = model.replica(vector.dtype)
        replica.bind(vector)
        points, buffers = replica.points, replica.parts[len(replica.points) :]
        rows = replica.rows(x, model.shape, model.tokens)
        targets = model.target(replica, rows, y)

        def parts(array: Array | None, default: Array) -> list[torch.Tensor]:
            flat = aliased(default if array is None else array).to(replica.device)
            return list(replica.split(flat))

        anchor = parts(phase.anchor, phase.start)[: len(points)]
        offset = parts(phase.offset, phase.start)[: len(points)]
        mask = parts(phase.trained, np.ones(len(vector), np.bool_))
        velocity = [torch.zeros_like(point) for point in points if local.momentum]
        for some in local.batches(len(x), device=device.id, **when):
            loss, found = replica.gradients(rows[some], model.loss_against(targets[some]), chance)
            # Never in place: two parameters may have one gradient.
            if local.clip is not None:
                length = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(found))))
                if length > local.clip:
                    found = torch._foreach_mul(found, local.clip / length)
            if local.weight_decay:
                found = torch._foreach_add(found, points, alpha=local.weight_decay)
            if phase.mu:
                pull = torch._foreach_sub(points, anchor)
                found = torch._foreach_add(found, pull, alpha=phase.mu)
            if phase.offset is not None:
                found = torch._foreach_add(found, offset)
            if phase.trained is not None:
                found = [torch.where(m, g, 0) for m, g in zip(mask, found, strict=False)]
            if local.momentum:
                torch._foreach_mul_(velocity, local.momentum)
                torch._foreach_add_(velocity, found)
                found = velocity
            torch._foreach_add_(points, found, alpha=-rate)
            for held, renewed, m in zip(buffers, replica.buffers, mask[len(points) :], strict=True):
                held.copy_(torch.where(m, renewed.to(held.dtype), held))
            losses.append(loss)
        aliased(vector).copy_(replica.flat)  # from another device's memory
        if phase.gradient:
            gradient = model.loss_and_gradient(phase.start, x, y, chance)[1]
            if model.layout.buffered is not None:
                gradient[model.layout.buffered] = 0
            blocks["gradient"] = gradient
        mean = float(torch.stack(losses).double().mean())
    return Update(vector - phase.start, len(x), when["epochs"], len(losses), mean, blocks)


@dataclass(frozen=True)
class CompiledModule:
    """The compiled loops for a module of affine layers, whose weights torch keeps as (out, in)."""

    model: TorchModel
    inner: Compiled
    name: str = "compiled"

    @cached_property
    def _order(self) -> Places:
        """Where the module's vector has what the compiled one has, (p,)."""
        places = self.model.layout.views(np.arange(self.model.layout.size))
        return np.concatenate([part.T.ravel() for part in places.values()])

    def gather(self, devices: Sequence[Device]) -> Ready:
        return self.inner.gather(devices)

    def train(self, ready: Ready, places: Places, phase: Phase, job: Job) -> Part:
        if phase.objective is not None:
            return _plain(self.model).train(ready, places, phase, job)
        names = ("start", "anchor", "offset", "trained")
        given = {n: array for n in names if (array := getattr(phase, n)) is not None}
        phase = replace(phase, **{n: array[..., self._order] for n, array in given.items()})
        part = self.inner.train(ready, places, phase, job)
        back = np.argsort(self._order)
        gradients = None if part.gradients is None else part.gradients[..., back]
        return replace(part, changes=part.changes[..., back], gradients=gradients)

    def evaluate(self, rows: Sequence[Rows], parameters: Array, threads: int | None) -> Measures:
        if self.model.measures:
            return _plain(self.model).evaluate(rows, parameters, threads)
        return self.inner.evaluate(rows, parameters[..., self._order], threads)


def _twin(model: TorchModel) -> MLP | SoftmaxRegression | None:
    """Return the built-in model that is the same network under the same loss, if there is one."""
    from torch import nn

    layers = list(model.module) if type(model.module) is nn.Sequential else [model.module]
    if flat := bool(layers) and type(layers[0]) is nn.Flatten:
        layers = layers[1:]
    linear, between = layers[::2], layers[1::2]
    loss, parameters = model.loss, list(model.module.parameters())
    outputs = getattr(linear[-1], "out_features", 0) if linear else 0
    if (
        model.tokens
        or model.targets != "labels"
        or not (flat or len(model.shape) == 1)
        or len(linear) != len(between) + 1
        or {type(one) for one in linear} != {nn.Linear}
        or {type(one) for one in between} - {nn.ReLU}
        or any(one._forward_hooks or one._forward_pre_hooks for one in model.module.modules())
        or {(p.dtype.itemsize, p.requires_grad) for p in parameters} != {(4, True)}
        or len(parameters) != 2 * len(linear)
        or type(loss) is not nn.CrossEntropyLoss
        or loss.weight is not None
        or loss.label_smoothing
        or loss.ignore_index >= 0
        or outputs < 2
    ):
        return None
    if len(linear) == 1:
        return SoftmaxRegression(model.inputs, outputs)
    return MLP(model.inputs, tuple(one.out_features for one in linear[:-1]), outputs)


def _plain(model: TorchModel) -> Plain:
    return Plain(model, "torch", train_in_torch, pooled=True)


@trainer_of.register(TorchModel)
def _torch(model: TorchModel, backend: Backend = "auto") -> Trainer:
    refuse_unknown(backend)
    if backend == "plain" or type(model) is not TorchModel:
        return trainer_of.dispatch(object)(model, backend)
    twin = _twin(model) if model.device == "cpu" else None
    if twin is not None:
        return CompiledModule(model, Compiled(twin, stack_of(twin), chosen=backend == "auto"))
    if backend == "compiled":
        raise ValueError(
            "the compiled loops know nn.Linear with nn.ReLU between, under nn.CrossEntropyLoss; "
            "choose engine='auto' or 'plain'"
        )
    return _plain(model)
