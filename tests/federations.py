"""Small federations that tests share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlab import Device, VectorIndex


def regression_device(name: int, rows: int, inputs: int, seed: int) -> Device:
    """A device of a linear-regression problem of its own: other rows, other solution."""
    draw = np.random.default_rng([seed, name])
    x = draw.normal(size=(rows, inputs)).astype(np.float32)
    y = x @ draw.normal(size=inputs) + draw.normal() + 0.1 * draw.normal(size=rows)
    index = VectorIndex(inputs, "l2sq")
    index.add(x, labels=y)
    return Device(name, index)


def class_device(name: int | str, labels: list[int], inputs: int = 4, seed: int = 0) -> Device:
    """A device whose rows lie around a centre of their class."""
    draw = np.random.default_rng([seed, len(labels), *labels])
    centres = np.random.default_rng(seed).normal(size=(10, inputs)) * 2
    x = (centres[labels] + draw.normal(size=(len(labels), inputs))).astype(np.float32)
    index = VectorIndex(inputs, "l2sq")
    if len(labels):
        index.add(x, labels=np.array(labels))
    return Device(name, index)


def quadratic(device: Device) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (H, c): the device's loss is (w - c)' H (w - c) / 2 + constant, bias last."""
    x, y = device.training()
    design = np.column_stack([x.astype(np.float64), np.ones(len(x))])
    hessian = design.T @ design / len(x)
    return hessian, np.linalg.solve(hessian, design.T @ y / len(x))
