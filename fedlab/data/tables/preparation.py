"""Imputing, scaling and one-hot encoding from federated sums: no row leaves a device.

Each device sends `ColumnSums` of its **training** rows; their merge gives the one
`Preparation` that every device applies to its own rows. The result equals what
scikit-learn's ``SimpleImputer``, ``StandardScaler`` and ``OneHotEncoder`` give when fitted on the
pooled rows.

What sums disclose
------------------
Sums are not rows, but of few rows they tell much: a count of 1 makes the mean a patient's value; a
category with count 1 tells that someone there has it; sums sent twice, with a row in between, give
that row away by difference. Secure summation hides the single device's sums (all fields can be
written as plain sums), noise hides rows; neither is done here.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlab.core.typing import F32, F64, I64, Bool
from fedlab.data.tables.columns import column_of, numbers_of, rows_text, text_of

if TYPE_CHECKING:
    import pandas as pd

Categories = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, eq=False)
class ColumnSums:
    """What a device tells about its columns: counts, means, squared deviations, categories.

    Means and squared deviations stand for sums and sums of squares, whose difference would lose all
    digits for a column such as a year (mean large, spread small).

    Attributes
    ----------
    rows : int
        Rows, with or without missing values.
    numeric : tuple of str
        The c numeric columns.
    count : ndarray of int64, shape (c,)
        Values present.
    mean, m2 : ndarray of float64, shape (c,)
        Of the values present: mean, and sum of squared deviations from it.
    categories : mapping of str to mapping of str to int
        For each categorical column, how often each category is present.
    """

    rows: int
    numeric: tuple[str, ...]
    count: I64
    mean: F64
    m2: F64
    categories: Categories

    @classmethod
    def of(
        cls, frame: pd.DataFrame, numeric: Sequence[str], categorical: Sequence[str]
    ) -> ColumnSums:
        """Sum up a device's training rows; a frame without rows gives sums of nothing.

        Raises
        ------
        ValueError
            If a column does not exist, a numeric one holds text or infinity.

        Examples
        --------
        >>> import pandas as pd
        >>> ward = pd.DataFrame({"age": [60.0, None, 40.0], "sex": ["f", "m", "f"]})
        >>> sums = ColumnSums.of(ward, ["age"], ["sex"])
        >>> sums.count, sums.mean, sums.m2, dict(sums.categories["sex"])
        (array([2]), array([50.]), array([200.]), {'f': 2, 'm': 1})
        """
        values = _numbers(frame, numeric)
        present = ~np.isnan(values)
        count = present.sum(axis=0)
        some = np.maximum(count, 1)
        # Deviations from a first guess: exact for a constant column, sound for a large mean.
        guess = _first_present(values, present)
        mean = guess + np.where(present, values - guess, 0.0).sum(axis=0) / some
        m2 = (np.where(present, values - mean, 0.0) ** 2).sum(axis=0)
        categories = {
            name: _sorted(text_of(column_of(frame, name), name).value_counts().to_dict())
            for name in categorical
        }
        return cls(len(frame), tuple(numeric), count, mean, m2, categories)

    @classmethod
    def merge(cls, sums: Iterable[ColumnSums]) -> ColumnSums:
        """Merge the sums of several devices, in the order given, into those of all their rows.

        Means and squared deviations by the pairwise update of Chan, Golub and LeVeque, "Updating
        formulae and a pairwise algorithm for computing sample variances" (1979), eq. 2.1.

        Raises
        ------
        ValueError
            If there are none, or they are of different columns.

        Examples
        --------
        >>> import pandas as pd
        >>> wards = [pd.DataFrame({"age": [60.0, 40.0]}), pd.DataFrame({"age": [20.0]})]
        >>> both = ColumnSums.merge(ColumnSums.of(ward, ["age"], []) for ward in wards)
        >>> both.rows, both.mean, both.m2
        (3, array([40.]), array([800.]))
        """
        every = list(sums)
        if not every:
            raise ValueError("there are no sums to merge; give those of one device at least")
        merged = every[0]
        for other in every[1:]:
            merged = merged._with(other)
        return merged

    def _with(self, other: ColumnSums) -> ColumnSums:
        ours, theirs = ((sums.numeric, tuple(sums.categories)) for sums in (self, other))
        if ours != theirs:
            raise ValueError(
                f"sums are of different columns: {ours} and {theirs}; all devices sum the same ones"
            )
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        apart = other.mean - self.mean
        categories = {
            column: _sorted(Counter(mine) + Counter(other.categories[column]))
            for column, mine in self.categories.items()
        }
        return ColumnSums(
            rows=self.rows + other.rows,
            numeric=self.numeric,
            count=count,
            # Both ends are exact: a device without values leaves the other's mean untouched.
            mean=np.where(self.count == 0, other.mean, self.mean + apart * share),
            m2=self.m2 + other.m2 + np.where(self.count == 0, 0.0, apart**2 * self.count * share),
            categories=categories,
        )

    @property
    def nbytes(self) -> int:
        """Bytes that a device sends: 8 for the rows, 24 a numeric column; for each category its
        name in UTF-8 and 8 for the count. The columns' names are known to all."""
        names = (name for counts in self.categories.values() for name in counts)
        return 8 + 24 * len(self.numeric) + sum(8 + len(name.encode()) for name in names)


@dataclass(frozen=True, eq=False)
class Preparation:
    """How rows become vectors, the same on every device.

    Columns of the result, in this order: each numeric column, its mean imputed, standardised
    (imputed first, as in ``make_pipeline(SimpleImputer(), StandardScaler())``, so that the column
    has unit variance over the training rows); a 0/1 column for each numeric column that misses
    values in training; a 0/1 column for each category seen in training, sorted. A category that is
    missing or was not seen is 0 in all of them. A column with no value at all in training is left
    out. A constant column has scale 1.

    Attributes
    ----------
    numeric : tuple of str
        The c numeric columns that have values.
    mean, scale : ndarray of float64, shape (c,)
    indicated : tuple of str
        Those of them that miss values in training.
    categories : mapping of str to tuple of str
        The categories of each categorical column.
    """

    numeric: tuple[str, ...]
    mean: F64
    scale: F64
    indicated: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]

    @classmethod
    def from_sums(cls, sums: ColumnSums) -> Preparation:
        """Make a preparation from the merged sums of all devices' training rows.

        Raises
        ------
        ValueError
            If the sums are of no rows.

        Examples
        --------
        >>> import pandas as pd
        >>> ward = pd.DataFrame({"age": [60.0, None, 40.0], "sex": ["f", "m", "f"]})
        >>> preparation = Preparation.from_sums(ColumnSums.of(ward, ["age"], ["sex"]))
        >>> preparation.features
        ('age', 'age missing', 'sex=f', 'sex=m')
        >>> x, names = preparation.apply(ward)
        >>> x[1].tolist()  # the age is imputed, and said to be
        [0.0, 1.0, 0.0, 1.0]
        """
        if sums.rows == 0:
            raise ValueError("the sums are of no rows; there is nothing to prepare from")
        seen = sums.count > 0
        mean, variance = sums.mean[seen], sums.m2[seen] / sums.rows
        names = [name for name, there in zip(sums.numeric, seen, strict=True) if there]
        partial = sums.count[seen] < sums.rows
        # The rounding error that a variance of equal values can have, as StandardScaler bounds it.
        eps = np.finfo(np.float64).eps
        constant = variance <= sums.rows * eps * variance + (sums.rows * mean * eps) ** 2
        categories = {name: tuple(sorted(counts)) for name, counts in sums.categories.items()}
        return cls(
            numeric=tuple(names),
            mean=mean,
            scale=np.where(constant, 1.0, np.sqrt(variance)),
            indicated=tuple(name for name, some in zip(names, partial, strict=True) if some),
            categories=categories,
        )

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the d columns that `apply` makes."""
        missing = (f"{name} missing" for name in self.indicated)
        one_hot = (f"{name}={c}" for name, cs in self.categories.items() for c in cs)
        return (*self.numeric, *missing, *one_hot)

    def apply(self, frame: pd.DataFrame) -> tuple[F32, tuple[str, ...]]:
        """Return rows as a matrix, shape (n, d), float32, and the names of its columns.

        Raises
        ------
        ValueError
            If a column does not exist, or a numeric one holds text or infinity.

        Warns
        -----
        UserWarning
            Of categories that were not seen in training: they are 0 everywhere, as missing ones
            are. A code that lost its leading zero looks like that, too.
        """
        matrix, unseen = self.coded(frame)
        if unseen:
            warnings.warn(
                "categories that were not seen in training are 0 in all columns: "
                f"{'; '.join(unseen)}",
                stacklevel=2,
            )
        return matrix, self.features

    def coded(self, frame: pd.DataFrame) -> tuple[F32, list[str]]:
        """Return the matrix of `apply`, and in words which categories training had not seen."""
        values = _numbers(frame, self.numeric)
        absent = np.isnan(values)
        scaled = (np.where(absent, self.mean, values) - self.mean) / self.scale
        flagged = [self.numeric.index(name) for name in self.indicated]
        blocks = [scaled, absent[:, flagged]]
        unseen = []
        for name, known in self.categories.items():
            text = text_of(column_of(frame, name), name)
            blocks.append(text.to_numpy()[:, None] == np.array(known, object))
            strange = text[text.notna() & ~text.isin(known)]
            if len(strange):
                some = ", ".join(map(repr, strange.unique()[:5]))
                unseen.append(f"{name!r} holds {some} in {rows_text(strange.index)}")
        return np.concatenate(blocks, axis=1, dtype=np.float32), unseen


def _numbers(frame: pd.DataFrame, columns: Sequence[str]) -> F64:
    """Return columns as float64, shape (n, c), NaN where a value is missing."""
    values = np.empty((len(frame), len(columns)))
    for i, name in enumerate(columns):
        values[:, i] = numbers_of(column_of(frame, name), name)
    return values


def _first_present(values: F64, present: Bool) -> F64:
    if len(values) == 0:
        return np.zeros(values.shape[1])
    first = values[present.argmax(axis=0), np.arange(values.shape[1])]
    return np.where(present.any(axis=0), first, 0.0)


def _sorted(counts: Mapping[Any, int]) -> Mapping[str, int]:
    return {str(name): int(counts[name]) for name in sorted(counts)}
