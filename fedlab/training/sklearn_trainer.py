"""Estimators of scikit-learn: a device calls `partial_fit` on each of its batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlab.core.typing import Places
from fedlab.device.device import Device
from fedlab.models import SklearnModel
from fedlab.training.local import LocalSGD, Update, rows_to_train_on
from fedlab.training.trainer import Backend, Job, Part, Plain, Ready, Trainer, trainer_of
from fedlab.training.work import Phase


def train_in_sklearn(
    device: Device, model: SklearnModel, phase: Phase, local: LocalSGD, *, rate: float, **when: int
) -> Update:
    """Return what a device sends whose estimator started from the phase's start."""
    assert phase.start is not None
    x, y = rows_to_train_on(device, model)
    estimator, losses = model.at(phase.start, rate), []
    for some in local.batches(len(x), device=device.id, **when):
        losses.append(model.measures(estimator, x[some], y[some])["loss"])
        if hasattr(estimator, "coefs_"):
            estimator.batch_size = len(x[some])  # else it cuts large batches
        estimator.partial_fit(x[some], y[some])
    change = (model.parameters_of(estimator) - phase.start).astype(phase.start.dtype)
    return Update(change, len(x), when["epochs"], len(losses), float(np.mean(losses)))


@dataclass(frozen=True)
class PartialFit(Plain):
    """Devices whose estimators step by themselves: what would change their steps is refused."""

    def train(self, ready: Ready, places: Places, phase: Phase, job: Job) -> Part:
        added = {
            "a pull towards an anchor": phase.mu,
            "an offset of gradients": phase.offset is not None,
            "a mask of what trains": phase.trained is not None,
            "a loss of the algorithm's": phase.objective is not None,
            "a gradient to send": phase.gradient,
        }
        own = {name: getattr(job.local, name) for name in ("momentum", "weight_decay", "clip")}
        asked = [name for name, value in added.items() if value]
        if asked := asked + [f"{name}={value}" for name, value in own.items() if value]:
            raise ValueError(
                f"the algorithm, or LocalSGD, asks for {asked[0]}, which no partial_fit takes; "
                "choose FedAvg, or a TorchModel of the same network, which takes any algorithm; "
                "steps have the estimator's own settings (alpha, momentum)"
            )
        return super().train(ready, places, phase, job)


@trainer_of.register(SklearnModel)
def _sklearn(model: SklearnModel, backend: Backend = "auto") -> Trainer:
    if backend != "auto":
        raise ValueError(f"engine is {backend!r}; an estimator steps by itself: choose 'auto'")
    return PartialFit(model, "sklearn", train_in_sklearn)
