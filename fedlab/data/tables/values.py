"""What loading returns: frozen values that carry their origin."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F32, I64, U64
from fedlab.core.validation import read_only
from fedlab.data.loading.registry import Origin
from fedlab.data.tables.targets import Target

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of numbers with a label each, ready to be spread over devices. Arrays are read-only.

    Attributes
    ----------
    x : ndarray of float32, shape (n, d)
        Finite features, a row each.
    y : ndarray, shape (n,)
        Classes: int64 positions in `classes`. Numbers: float64.
    classes : tuple or None
        The label that each position of `y` stands for; None where the labels are numbers.
    features : tuple of str
        Names of the d columns.
    origin : Origin
    device : ndarray or None, shape (n,)
        The device that each row belongs to, where the data tell.
    keys : ndarray of uint64, shape (n,), or None
        The rows' own keys; None where their places are.
    metadata : DataFrame or None
        What else is known of each row, for filters.

    Raises
    ------
    ValueError
        If shapes don't fit together, or a feature or number is not finite.

    Examples
    --------
    >>> here = Origin("made by hand", "", "0" * 64, 2, "", "")
    >>> data = Dataset(np.eye(2), np.array([1, 0]), ("no", "yes"), ("a", "b"), here)
    >>> data.x.dtype.name, data.classes[data.y[0]], len(data)
    ('float32', 'yes', 2)
    """

    x: F32
    y: NDArray[Any]
    classes: tuple[int | str, ...] | None
    features: tuple[str, ...]
    origin: Origin
    device: NDArray[Any] | None = None
    keys: U64 | None = None
    metadata: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):  # what overflows is refused below, by its row
            x = np.ascontiguousarray(self.x, dtype=np.float32)
        y = np.asarray(self.y, dtype=np.float64 if self.classes is None else np.int64)
        if x.ndim != 2 or y.shape != x.shape[:1] or len(self.features) != x.shape[1]:
            raise ValueError(
                f"x has shape {x.shape}, y {y.shape}, and there are {len(self.features)} names of "
                "features; they take (n, d), (n,) and d"
            )
        bad = np.flatnonzero(~np.isfinite(x).all(axis=1) | ~np.isfinite(y))
        if bad.size:
            raise ValueError(
                f"{bad.size} rows hold NaN, infinity or what float32 can't hold, among them "
                f"{bad[:5].tolist()}; x and y take finite numbers"
            )
        if self.classes is not None and y.size and not 0 <= y.min() <= y.max() < len(self.classes):
            raise ValueError(
                f"y holds {y.min()} ... {y.max()}; with {len(self.classes)} classes it takes "
                f"0 ... {len(self.classes) - 1}"
            )
        if self.device is not None:
            if np.shape(self.device) != y.shape:
                raise ValueError(f"device has shape {np.shape(self.device)}; it takes {y.shape}")
            object.__setattr__(self, "device", read_only(np.asarray(self.device)))
        object.__setattr__(self, "x", read_only(x))
        object.__setattr__(self, "y", read_only(y))

    def take(self, rows: I64) -> Dataset:
        """Return a data set of some of the rows, in the order given."""
        device, keys = (None if one is None else one[rows] for one in (self.device, self.keys))
        meta = None if self.metadata is None else self.metadata.iloc[rows].reset_index(drop=True)
        return replace(
            self, x=self.x[rows], y=self.y[rows], device=device, keys=keys, metadata=meta
        )

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, eq=False)
class Table:
    """A mixed table with missing values: its columns and what each is for.

    `fedlab.data.ColumnSums` and `fedlab.data.Preparation` make numbers of it.

    Attributes
    ----------
    frame : DataFrame
        The columns named here and no others; missing values stay missing.
    label : str
        The column to predict; no value is missing.
    device : str or None
        The column that tells each row's device; no value is missing.
    numeric, categorical : tuple of str
        Features by kind; categorical ones hold text.
    target : Target
        Whether the label is a class or a number, its values as an array, and its classes.
    origin : Origin
    keys : ndarray of uint64, shape (n,), or None
        The rows' own keys, distinct on each device; None where their places are.
    metadata : DataFrame or None
        Columns that are kept as they are, for filters.
    group : str or None
        The column of the metadata that tells each row's group, such as its patient.
    """

    frame: pd.DataFrame
    label: str
    device: str | None
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    target: Target
    origin: Origin
    keys: U64 | None = None
    metadata: pd.DataFrame | None = None
    group: str | None = None

    @property
    def y(self) -> NDArray[Any]:
        """Labels as numbers, shape (n,): positions in `classes` (int64), or float64."""
        return self.target.y

    @property
    def classes(self) -> tuple[int | str, ...] | None:
        """The classes in order; None where the label is a number."""
        return self.target.classes

    @property
    def devices(self) -> NDArray[Any]:
        """The device of each row, shape (n,).

        Raises
        ------
        ValueError
            If the table has no device column.
        """
        if self.device is None:
            raise ValueError(
                "this table was read without a device column; read it with device=..., or split "
                "its rows with iid or dirichlet"
            )
        return self.frame[self.device].to_numpy()

    @property
    def groups(self) -> NDArray[Any] | None:
        """The group of each row, shape (n,); None where the table has no group column."""
        if self.group is None or self.metadata is None:
            return None
        return self.metadata[self.group].to_numpy()

    def take(self, rows: I64) -> Table:
        """Return a table of some of the rows, in the order given; classes stay the same."""
        target = Target(self.y[rows], self.classes)
        keys = None if self.keys is None else self.keys[rows]
        about = None if self.metadata is None else self.metadata.iloc[rows].reset_index(drop=True)
        frame = self.frame.iloc[rows].reset_index(drop=True)
        return replace(self, frame=frame, target=target, keys=keys, metadata=about)

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Words and a vector for each, most frequent first. The array is read-only.

    Attributes
    ----------
    words : tuple of str
        n distinct words.
    vectors : ndarray of float32, shape (n, d)
        Not normalised.
    origin : Origin
    """

    words: tuple[str, ...]
    vectors: F32
    origin: Origin

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.words) != len(self.vectors):
            raise ValueError(
                f"{len(self.words)} words but vectors of shape {self.vectors.shape}; "
                "they take n and (n, d)"
            )
        object.__setattr__(self, "vectors", read_only(self.vectors))

    def __len__(self) -> int:
        return len(self.words)
