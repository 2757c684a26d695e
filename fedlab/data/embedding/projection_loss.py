"""What a projection loses: variance, neighbours, distances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from fedlab.core.typing import F32, F64, I64
from fedlab.metrics.retrieval import recall

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

#: Squared distance below which float32 rows count as alike.
_ALIKE = 1e-6


@dataclass(frozen=True)
class ProjectionLoss:
    """What was lost between sparse rows and their dense vectors, on a sample.

    Attributes
    ----------
    variance_kept : float
        Total variance of the vectors as a share of that of the rows. An SVD keeps less than all of
        it, and the rest is lost; a random projection keeps about 1 by construction, which says
        nothing of its neighbours.
    recall : float
        Of each row's `k` nearest others by cosine, the share that is among its `k` nearest after
        the projection.
    distortion : mapping of float to float
        Quantiles, over all pairs of rows that differ, of distance after / distance before, both
        Euclidean: {.05: .7, .5: .8, ...}. Distances that all shrink alike harm nothing; a wide
        range does.
    k, rows : int
        Neighbours compared, and rows in the sample.
    """

    variance_kept: float
    recall: float
    distortion: Mapping[float, float]
    k: int
    rows: int

    def describe(self) -> str:
        """Return one readable line."""
        low, middle, high = (self.distortion[quantile] for quantile in (0.05, 0.5, 0.95))
        return (
            f"variance kept {self.variance_kept:.3f}, recall@{self.k} {self.recall:.3f}, distances "
            f"x {middle:.2f} (90% of them {low:.2f} ... {high:.2f}), on {self.rows:,} rows"
        )


def measured(table: Any, vectors: F32, k: int) -> ProjectionLoss:
    """Compare sparse rows with their vectors, all pairs of them.

    Parameters
    ----------
    table : sparse float32 array, shape (n, features)
        No row is empty.
    vectors : ndarray, shape (n, d)
        Those rows after the projection.
    k : int
        Neighbours, 1 ... n - 1.
    """
    before = (table @ table.T).toarray().astype(np.float64)
    dense = vectors.astype(np.float64)
    after = dense @ dense.T
    own = np.arange(len(dense))
    if not (_squared(before) > _ALIKE).any():
        raise ValueError("all rows are alike: there is neither variance nor distance to compare")
    return ProjectionLoss(
        variance_kept=_variance(after) / _variance(before),
        recall=recall(_nearest(after, own, k), _nearest(before, own, k)),
        distortion=_distortion(before, after),
        k=k,
        rows=len(dense),
    )


def _variance(products: F64) -> float:
    """Total variance of rows, from their inner products: mean square less the mean's square."""
    return float(np.trace(products) / len(products) - products.mean())


def _nearest(products: F64, own: I64, k: int) -> I64:
    lengths = np.sqrt(np.diagonal(products))
    # A vector of zeros has no direction; it is as far as can be from all others.
    scale = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    cosines = products * scale[:, None] * scale[None, :]
    cosines[own, own] = -np.inf
    return np.argsort(-cosines, axis=1, kind="stable")[:, :k]


def _distortion(before: F64, after: F64) -> Mapping[float, float]:
    upper = np.triu_indices(len(before), 1)
    first, second = (_squared(products)[upper] for products in (before, after))
    differ = first > _ALIKE
    ratios = np.sqrt(second[differ] / first[differ])
    quantiles = np.quantile(ratios, _QUANTILES).tolist()
    return MappingProxyType(dict(zip(_QUANTILES, quantiles, strict=True)))


def _squared(products: F64) -> F64:
    squares = np.diagonal(products)
    return np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0)
