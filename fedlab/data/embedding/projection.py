"""From texts and sparse rows to dense vectors, with what is lost on the way measured.

Two linear maps. A **truncated SVD** keeps what varies most (latent semantic analysis; Deerwester et
al., JASIS 1990), but has to be fitted, and its basis is learned from the rows that it is fitted on:
fit it on public rows or on one's own, never on devices' rows put together, and count the basis
among what devices are sent. A **random projection** (Achlioptas, JCSS 2003; Li, Hastie, Church, KDD
2006) is fitted on nothing: devices draw the same one from a seed, and it keeps all distances nearly
(Johnson, Lindenstrauss 1984), at the price of more dimensions for the same neighbours.

Texts are counted into hashed columns first (Weinberger et al., ICML 2009): no vocabulary is
learned from anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F32, I64
from fedlab.core.validation import share_of_one, whole_number
from fedlab.metrics.retrieval import recall

#: A scipy sparse matrix or array; scipy's stubs are not needed to run.
Sparse = Any

_FEATURES = 1 << 16


def hashed(texts: Sequence[str], features: int = _FEATURES) -> Sparse:
    """Count the words of texts into hashed columns; stateless, so that nothing is learned.

    Words of two letters or more, in lower case, without English stop words; a word seen c times
    counts 1 + ln c; each row has length 1, or 0 where a text has no such word.

    Parameters
    ----------
    texts : sequence of str
        n texts.
    features : int
        Columns. Words that share one can't be told apart.

    Returns
    -------
    sparse float32 array, shape (n, features)

    Raises
    ------
    TypeError
        If what was given is one text, or holds what is no text.

    Examples
    --------
    >>> rows = hashed(["Cats purr", "cats purr, cats purr", "the of and"])
    >>> rows.shape, (rows @ rows.T).toarray().round(3).tolist()[0]
    ((3, 65536), [1.0, 1.0, 0.0])
    """
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    width, given = whole_number(features, "features", 2, 1 << 24), as_texts(texts)
    if not given:  # scikit-learn looks at the first
        return csr_array((0, width), dtype=np.float32)
    counter = HashingVectorizer(
        n_features=width, stop_words="english", norm=None, alternate_sign=False, dtype=np.float32
    )
    counts = counter.transform(given)
    return TfidfTransformer(use_idf=False, sublinear_tf=True).fit_transform(counts)


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
        Of each row's k nearest others by cosine, the share that is among its k nearest after the
        projection.
    """

    variance_kept: float
    recall: float


@dataclass(frozen=True, eq=False)
class Projection:
    """A linear map from hashed texts or sparse rows to dense vectors.

    Made by `fitted` or `random`; then called with rows.

    Attributes
    ----------
    matrix : sparse or dense float32 array, shape (features, dimensions)
        What sparse rows are multiplied by.
    weights : ndarray of float32, shape (features,), or None
        What hashed words count by before that (rare words more), where it was fitted on texts.
    made : str
        How it was made, and from what: for the record.
    sent : int
        Bytes that a device is sent to have the same map.
    texts : bool
        Whether it takes texts; a map fitted on sparse rows knows columns, not words.

    Examples
    --------
    >>> animals = ["cats purr and sleep", "dogs bark and sleep", "cats and dogs", "a cat"]
    >>> project = Projection.random(8, seed=3)
    >>> project(animals).shape, project.sent
    ((4, 8), 16)
    """

    matrix: Any
    weights: F32 | None
    made: str
    sent: int
    texts: bool = True

    @classmethod
    def fitted(
        cls, rows: Sequence[str] | Sparse, dimensions: int, *, seed: int = 0, features: int = 0
    ) -> Projection:
        """Fit a truncated SVD on rows that may be known to all: public ones, or one's own.

        Parameters
        ----------
        rows : sequence of str or sparse array, shape (n, features)
            More rows than dimensions. Texts are hashed, and rare words weighted up by how few of
            these rows have them (smoothed idf).
        dimensions : int
            Of the vectors; at most n - 1.
        seed : int
            Of the randomised solver (Halko et al., SIAM Review 2011), purpose PROJECTION.
        features : int
            Hashed columns, for texts; 65,536 unless said.

        Raises
        ------
        ValueError, TypeError
            If there are too few rows, or they are neither texts nor sparse numbers.
        """
        from sklearn.decomposition import TruncatedSVD
        from threadpoolctl import threadpool_limits

        sparse = None if _are_texts(rows) else _as_sparse(rows)
        table = hashed(rows, features or _FEATURES) if sparse is None else sparse
        used = np.unique(table.indices)  # columns of zeros would only take time
        most = min(table.shape[0], len(used)) - 1
        whole_number(dimensions, "dimensions", 1)
        if dimensions > most:
            raise ValueError(
                f"dimensions is {dimensions}, but {table.shape[0]} rows with {len(used)} columns "
                f"in use were given to fit on, which have at most {max(most, 0)} directions to "
                "choose from: give more rows, or use Projection.random, which is fitted on nothing"
            )
        weights = _rarity(table) if sparse is None else None
        draw = int(generator(seed, Purpose.PROJECTION).integers(1 << 32))
        svd = TruncatedSVD(dimensions, random_state=draw)
        with threadpool_limits(1, "blas"):  # several would add up in another order
            svd.fit(_weighted(table, weights)[:, used])
        matrix = np.zeros((table.shape[1], dimensions), np.float32)
        matrix[used] = svd.components_.T
        kind = "texts" if sparse is None else "sparse rows"
        made = f"SVD of {dimensions} dimensions, fitted on {table.shape[0]:,} {kind}, seed {seed}"
        # For each column in use its place, its weight if there is one, and its row of the basis.
        sent = 4 * len(used) * (dimensions + 1 + (weights is not None))
        return cls(matrix, weights, made, sent, texts=sparse is None)

    @classmethod
    def random(
        cls, dimensions: int, *, seed: int = 0, features: int = _FEATURES, density: float = 1 / 3
    ) -> Projection:
        """Draw a sparse random projection; nothing is fitted, a seed is all that is sent.

        Parameters
        ----------
        dimensions : int
            Of the vectors. All squared distances between n rows are kept within 1 ± ε where it is
            at least 4 ln n / (ε²/2 - ε³/3) (Dasgupta, Gupta 2003).
        seed : int
            Address of the draw, with purpose PROJECTION.
        features : int
            Columns of the rows: those of the sparse table, or hashed ones.
        density : float
            Share of entries that are not 0: 1/3 as Achlioptas has it, or 0 for 1/sqrt(features), as
            Li et al. recommend for long rows. Rows of a few words would lose most of them so.
        """
        from scipy.sparse import csr_array
        from sklearn.random_projection import SparseRandomProjection

        whole_number(features, "features", 1, 1 << 24)
        share_of_one(density=density)
        draw = int(generator(seed, Purpose.PROJECTION).integers(1 << 32))
        maker = SparseRandomProjection(
            whole_number(dimensions, "dimensions", 1, features),
            density=density or "auto",
            random_state=draw,
        )
        maker.fit(np.zeros((1, features), np.float32))  # it looks at the shape only
        matrix = csr_array(maker.components_.T, dtype=np.float32)
        made = f"random projection to {dimensions} dimensions, seed {seed}"
        return cls(matrix, None, made, 16)  # the seed and the dimensions

    @property
    def features(self) -> int:
        """Columns of the rows that it takes."""
        return int(self.matrix.shape[0])

    @property
    def dimensions(self) -> int:
        """Numbers in a vector."""
        return int(self.matrix.shape[1])

    def __call__(self, rows: Sequence[str] | Sparse) -> F32:
        """Return dense float32 vectors, (n, dimensions).

        A text without a word, and an empty sparse row, become a vector of zeros: cosine has no
        direction for it, so leave it out (``vectors.any(axis=1)``).

        Raises
        ------
        TypeError, ValueError
            If the rows are neither texts nor sparse numbers, or of another width.
        """
        return self._dense(self._sparse(rows))

    def loss(
        self, rows: Sequence[str] | Sparse, *, k: int = 10, sample: int = 1000, seed: int = 0
    ) -> ProjectionLoss:
        """Measure on a sample of rows what the map loses; see `ProjectionLoss`.

        Parameters
        ----------
        rows : sequence of str or sparse array
            Those to be projected; never only those that a map was fitted on.
        k : int
            Neighbours to compare.
        sample : int
            At most so many rows are drawn, and compared with one another.
        seed : int
            Address of that draw, with purpose PROJECTION.
        """
        table = self._sparse(rows)
        table = table[np.flatnonzero(np.diff(table.indptr))]  # an empty row has no neighbours
        whole_number(k, "k", 1)
        if table.shape[0] <= k:
            raise ValueError(
                f"{table.shape[0]} rows that are not empty were given; more than k = {k} are needed"
            )
        drawn = generator(seed, Purpose.PROJECTION, part=1).permutation(table.shape[0])
        table = table[np.sort(drawn[: whole_number(sample, "sample", k + 1)])]
        vectors = self._dense(table)
        variance = _variance(table)
        if variance < 1e-9:
            raise ValueError("all rows are alike: there is no variance, and no neighbour, to keep")
        found = recall(_nearest(vectors, k), _nearest(table, k))
        return ProjectionLoss(_variance(vectors) / variance, found)

    def _dense(self, table: Sparse) -> F32:
        product = table @ self.matrix
        dense = product.toarray() if hasattr(product, "toarray") else product
        return np.ascontiguousarray(dense, dtype=np.float32)

    def _sparse(self, rows: Sequence[str] | Sparse) -> Sparse:
        if _are_texts(rows):
            if not self.texts:
                raise TypeError(
                    "texts were given to a map that was fitted on sparse rows; give sparse rows "
                    "with the same columns, or fit another on texts"
                )
            return _weighted(hashed(rows, self.features), self.weights)
        table = _as_sparse(rows)
        if table.shape[1] != self.features:
            raise ValueError(
                f"rows of {table.shape[1]} columns were given; this map takes {self.features}"
            )
        if self.weights is not None:
            raise TypeError(
                "sparse rows were given to a map that was fitted on texts; give texts, or fit "
                "another on sparse rows"
            )
        return table


def _are_texts(rows: Any) -> bool:
    if hasattr(rows, "tocsr"):
        return False
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "fiub":
        raise TypeError(
            f"a dense array of {rows.dtype} was given: it needs no projection to enter an index; "
            "to shorten its rows all the same, give scipy.sparse.csr_array(rows)"
        )
    return True


def as_texts(texts: Any) -> list[str]:
    """Return texts as a list, or say what was given instead."""
    if isinstance(texts, str | bytes):
        raise TypeError("one text was given; a sequence of texts is needed: put it in a list")
    given = list(texts)
    for place, text in enumerate(given):
        if not isinstance(text, str):
            raise TypeError(
                f"row {place} is {type(text).__name__}, not a text; give texts, or a sparse array "
                "of numbers (a table of mixed columns becomes numbers by fedlab.data.Preparation)"
            )
    return given


def _as_sparse(rows: Any) -> Sparse:
    from scipy.sparse import csr_array

    table = csr_array(rows, copy=False)
    if table.ndim != 2 or table.dtype.kind not in "fiub":
        raise TypeError(
            f"sparse rows of type {table.dtype} and shape {table.shape} were given; "
            "numbers of shape (n, features) are needed"
        )
    with np.errstate(over="ignore"):
        rows = table.astype(np.float32)
    if not np.isfinite(rows.data).all():
        raise ValueError(
            "sparse rows hold NaN or infinity, or numbers beyond float32; fill in or leave out "
            "what is missing, and scale what is too large"
        )
    return rows


def _variance(rows: Sparse | F32) -> float:
    from sklearn.preprocessing import StandardScaler

    return float(StandardScaler(with_mean=False).fit(rows.astype(np.float64)).var_.sum())


def _nearest(rows: Sparse | F32, k: int) -> I64:
    """Return each row's k nearest others by cosine; a vector of zeros is as far as can be."""
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute")
    nearest: I64 = neighbours.fit(rows.astype(np.float64)).kneighbors(return_distance=False)
    return nearest


def _rarity(table: Sparse) -> F32:
    """Return ln((1 + n)/(1 + rows with the word)) + 1 for each column."""
    n = table.shape[0]
    having = np.bincount(table.indices, minlength=table.shape[1])
    return np.asarray(np.log((1 + n) / (1 + having)) + 1, np.float32)


def _weighted(table: Sparse, weights: F32 | None) -> Sparse:
    """Weight columns, and bring rows to length 1 again."""
    from scipy.sparse import csr_array
    from sklearn.preprocessing import normalize

    if weights is None or not table.shape[0]:
        return csr_array(table)
    scaled = csr_array(
        (table.data * weights[table.indices], table.indices, table.indptr), shape=table.shape
    )
    return csr_array(normalize(scaled, copy=False))
