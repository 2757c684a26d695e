"""FedProx's synthetic(α, β): federations whose heterogeneity is set by two numbers.

α sets how far devices' labelling models differ, β how far their features do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F32, F64
from fedlab.core.validation import not_negative, read_only, whole_number
from fedlab.data.loading.registry import Origin
from fedlab.data.partitions.partition import Partition, by_column
from fedlab.data.tables.values import Dataset

DEVICES, SHARED = 0, 1  # parts of the address (seed, SYNTHETIC, device)
FEATURES, CLASSES = 60, 10
TRAIN_SHARE = 0.9
_SPREAD = np.arange(1, FEATURES + 1) ** -0.6  # standard deviations; variances are j^-1.2
_CITATION = (
    "T. Li, A. K. Sahu, M. Zaheer, M. Sanjabi, A. Talwalkar, V. Smith: Federated optimization in "
    "heterogeneous networks. MLSys 2020"
)


@dataclass(frozen=True, eq=False)
class Synthetic:
    """A synthetic federation, and the law that each device's rows were drawn from.

    Attributes
    ----------
    train, test : Dataset
        60 features and 10 classes, with a `device` column of 0, 1, ...; nine tenths of each
        device's rows are for training.
    means : ndarray of float64, shape (devices, 60)
        v_k, the means of the features.
    weights, biases : ndarray of float64, shapes (devices, 60, 10) and (devices, 10)
        W_k and b_k, by which a row's label is argmax(x W + b).
    """

    train: Dataset
    test: Dataset
    means: F64
    weights: F64
    biases: F64

    def __post_init__(self) -> None:
        for name in ("means", "weights", "biases"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @property
    def train_partition(self) -> Partition:
        """Which rows of `train` are whose."""
        return _by_device(self.train)

    @property
    def test_partition(self) -> Partition:
        """Which rows of `test` are whose."""
        return _by_device(self.test)


def synthetic(alpha: float, beta: float, seed: int, *, devices: int = 30) -> Synthetic:
    """Draw FedProx's synthetic(α, β).

    Of device k, with α and β as standard deviations::

        n_k = int(lognormal(4, 2)) + 50 rows        u_k ~ N(0, α), B_k ~ N(0, β)
        v_k ~ N(B_k, 1)^60                          W_k ~ N(u_k, 1)^(60 x 10), b_k ~ N(u_k, 1)^10
        x ~ N(v_k, diag(j^-1.2)), j = 1 ... 60      y = argmax(x W_k + b_k)

    and, after a shuffle, the first int(0.9 n_k) rows are for training.

    Parameters
    ----------
    alpha : float
        How far models of devices differ, at least 0. The paper has 0, 0.5 and 1.
    beta : float
        How far features of devices differ, at least 0.
    seed : int
        The experiment's seed. A device's rows depend on it and the device's number alone, so more
        devices leave the first ones as they were.
    devices : int
        The paper has 30.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Notes
    -----
    ``synthetic(0, 0, ...)`` is not IID: models still differ by N(0, 1); see `synthetic_iid`.
    Where the paper writes N(0, α), its code takes α as the standard deviation; so does this. That
    code puts a softmax before the argmax, which changes nothing until exp overflows (logits above
    709); labels here are those of the logits.

    Source: T. Li, A. K. Sahu, M. Zaheer, M. Sanjabi, A. Talwalkar, V. Smith: Federated optimization
    in heterogeneous networks. MLSys 2020, section 5.1; ``generate_synthetic.py`` in its code.

    Examples
    --------
    >>> federation = synthetic(1, 1, seed=0)
    >>> federation.train.x.shape[1], len(federation.train.classes), len(federation.train_partition)
    (60, 10, 30)
    """
    not_negative(alpha=alpha, beta=beta)
    draws = _draws(seed, devices)
    laws = [_Law.of_device(draw, alpha, beta) for draw in draws]
    return _federation(f"synthetic({alpha:g}, {beta:g}), seed {seed}", draws, laws)


def synthetic_iid(seed: int, *, devices: int = 30) -> Synthetic:
    """Draw FedProx's synthetic IID set: the sizes of `synthetic`, one law for all devices.

    W ~ N(0, 1)^(60 x 10) and b ~ N(0, 1)^10 are shared, and every v_k is 0.

    Parameters
    ----------
    seed : int
        The experiment's seed.
    devices : int
        The paper has 30.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Source: As of `synthetic`; ``generate_iid.py`` in its code.

    Examples
    --------
    >>> federation = synthetic_iid(seed=0)
    >>> bool((federation.weights[0] == federation.weights[29]).all()), federation.means.any()
    (True, np.False_)
    """
    draws = _draws(seed, devices)
    shared = generator(seed, Purpose.SYNTHETIC, part=SHARED)
    weights = shared.standard_normal((FEATURES, CLASSES))
    law = _Law(np.zeros(FEATURES), weights, shared.standard_normal(CLASSES))
    return _federation(f"synthetic IID, seed {seed}", draws, [law] * devices)


@dataclass(frozen=True, eq=False)
class _Law:
    """What a device's rows are drawn from: means (60,), weights (60, 10) and biases (10,)."""

    means: F64
    weights: F64
    biases: F64

    @classmethod
    def of_device(cls, draw: np.random.Generator, alpha: float, beta: float) -> _Law:
        model_mean, feature_mean = draw.normal(0, alpha), draw.normal(0, beta)
        return cls(
            draw.normal(feature_mean, 1, FEATURES),
            draw.normal(model_mean, 1, (FEATURES, CLASSES)),
            draw.normal(model_mean, 1, CLASSES),
        )

    def rows(self, draw: np.random.Generator) -> tuple[F32, F64]:
        """Draw a device's rows, shuffled, and the logits of each."""
        size = int(draw.lognormal(4, 2)) + 50
        x = self.means + draw.standard_normal((size, FEATURES)) * _SPREAD
        # Labels are those of the rows as they are kept, in float32.
        kept = draw.permutation(x).astype(np.float32)
        return kept, kept @ self.weights + self.biases


def _draws(seed: int, devices: int) -> list[np.random.Generator]:
    whole_number(devices, "devices", 1)
    return [
        generator(seed, Purpose.SYNTHETIC, device=place, part=DEVICES) for place in range(devices)
    ]


def _federation(what: str, draws: Sequence[np.random.Generator], laws: Sequence[_Law]) -> Synthetic:
    train, test = [], []
    for place, (draw, law) in enumerate(zip(draws, laws, strict=True)):
        x, logits = law.rows(draw)
        y, device = logits.argmax(axis=1), np.full(len(x), place)
        cut = int(TRAIN_SHARE * len(x))
        train.append((x[:cut], y[:cut], device[:cut]))
        test.append((x[cut:], y[cut:], device[cut:]))
    return Synthetic(
        _dataset(f"{what}, train", train),
        _dataset(f"{what}, test", test),
        np.stack([law.means for law in laws]),
        np.stack([law.weights for law in laws]),
        np.stack([law.biases for law in laws]),
    )


def _dataset(what: str, parts: Sequence[tuple[NDArray[np.generic], ...]]) -> Dataset:
    x, y, device = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    digest = hashlib.sha256(x.astype("<f4").tobytes())
    digest.update(y.astype("<i8").tobytes())
    origin = Origin(what, "", digest.hexdigest(), len(y), "", _CITATION)
    features = tuple(f"x{j}" for j in range(1, FEATURES + 1))
    return Dataset(x, y, tuple(range(CLASSES)), features, origin, device)


def _by_device(data: Dataset) -> Partition:
    if data.device is None:
        raise ValueError("these rows don't tell whose they are")
    return by_column(data.device)
