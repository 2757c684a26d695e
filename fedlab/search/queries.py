"""Queries in fewer bits: most of what a search across devices sends is the query itself.

A question of d numbers of b bytes to D devices that answer with k' hits each takes D (d b + 16 k')
bytes and a few more: at 384 dimensions and k' = 10 in float32, nine tenths of them are the query.
Devices decode what they receive and search for that; distances in their answers are to it, unless
the best hits are measured again (``FederatedSearch(rescore=...)``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.typing import F32, Places
from fedlab.core.validation import one_of, read_only
from fedlab.index.encoding import DTYPES, codes_in, decode, encode, refuse_large, rounded
from fedlab.index.ingest import as_lengths, as_vectors
from fedlab.index.scan import METRICS

#: How a query can travel: 4, 2, 2, 1 or an eighth of a byte a number (i8 and b1: 4 more, a scale).
QUERY_TYPES = tuple(DTYPES)


@dataclass(frozen=True, eq=False)
class PackedQueries:
    """Queries as they travel.

    Attributes
    ----------
    dtype : {"f32", "f16", "bf16", "i8", "b1"}
    dimensions : int
    codes : (q, d) array, or (q, ceil(d / 8)) uint8 under b1
    scales : (q,) float32 array, or None
        By which codes are multiplied, under i8 and b1.
    """

    dtype: str
    dimensions: int
    codes: NDArray[np.generic]
    scales: F32 | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, which: slice | Places) -> PackedQueries:
        scales = None if self.scales is None else self.scales[which]
        return PackedQueries(self.dtype, self.dimensions, self.codes[which], scales)

    @property
    def nbytes(self) -> int:
        """Bytes of all queries; `bytes_a_query` for each."""
        return self.codes.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def decoded(self) -> F32:
        """Return what a device searches for, (q, d)."""
        return decode(self.codes, self.scales, self.dimensions)


def bytes_a_query(dimensions: int, dtype: str) -> int:
    """Return the bytes of one query.

    Examples
    --------
    >>> [bytes_a_query(384, dtype) for dtype in QUERY_TYPES]
    [1536, 768, 768, 388, 52]
    """
    one_of(dtype, QUERY_TYPES, "query")
    scale = 4 if dtype in ("i8", "b1") else 0
    return codes_in(dimensions, dtype) * DTYPES[dtype].itemsize + scale


def pack(queries: ArrayLike, dimensions: int, metric: str, dtype: str) -> PackedQueries:
    """Encode queries as they travel.

    f32 is sent as it is. Under cosine the others lose their length first, which means nothing
    there; so no direction is too long or too short for a type. Then they are encoded as rows are
    (`fedlab.index.encoding.encode`); b1, of signs, suits vectors whose numbers lie on both sides of
    zero.

    Parameters
    ----------
    queries : (q, d) or (d,) array
    dimensions : int
        d.
    metric : {"cosine", "inner", "l2sq"}
    dtype : {"f32", "f16", "bf16", "i8", "b1"}

    Raises
    ------
    ValueError
        If a query is refused, or too large for its type (under inner product: or too small).

    Examples
    --------
    >>> packed = pack([0.5, -2.0, 3.5], 3, "l2sq", "b1")
    >>> packed.decoded(), packed.nbytes
    (array([[ 2., -2.,  2.]], dtype=float32), 5)
    """
    one_of(dtype, QUERY_TYPES, "query")
    one_of(metric, METRICS, "metric")
    rows = as_vectors(queries, dimensions, "queries")
    as_lengths(rows, metric, "queries")
    return packed(rows, metric, dtype)


def packed(rows: F32, metric: str, dtype: str) -> PackedQueries:
    """Encode queries that have been checked; see `pack`."""
    if metric == "cosine" and dtype != "f32":
        lengths = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))
        rows = (rows / lengths[:, None]).astype(np.float32)
    if metric == "l2sq":  # a query near the origin is one at the origin
        refuse_large(rows, dtype)
        encoded = rounded(rows, dtype)
    else:
        encoded = encode(rows, dtype)
    # Devices in one process share them.
    parts = {name: read_only(part) for name, part in encoded.items()}
    return PackedQueries(dtype, rows.shape[1], **parts)
