"""What stands under every format: columns that are read by batches, and the roles they play.

A reader finds a `Store` in a file or a database. `VectorSource` says which of its columns holds
vectors, which labels and keys, and checks what comes. Nothing is held but the batch that is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import U64
from fedlab.core.validation import whole_number
from fedlab.data.tables.columns import rows_text
from fedlab.data.tables.targets import refuse_missing
from fedlab.data.tables.uses import kept_as_metadata, keys_of

if TYPE_CHECKING:
    import pandas as pd

#: Rows of a batch, unless another number is asked for; and its bytes, at most.
ROWS, BYTES = 1 << 16, 1 << 26
#: Numbers of a row, at most; as an index takes them.
WIDEST = 1 << 16
#: Where another reading would go on, and columns by name; one after another.
Steps = Iterator[tuple[int, dict[str, Any]]]


@dataclass(frozen=True, eq=False)
class Store:
    """What a reader finds: columns, each an array or what is sliced like one.

    Attributes
    ----------
    name : str
        What it is called in errors and in an `Origin`: nothing that is secret.
    columns : mapping of str to what has a dtype and a shape, (n,) or (n, d)
    metric : str or None
        The metric that the vectors were made for, where the store tells it.
    key : str or None
        The column of keys, where the store tells it.
    where : str
        Where it lies, by which stores of one name are told apart; without a user or a password.
    """

    name: str
    columns: Mapping[str, Any]
    metric: str | None = None
    key: str | None = None
    where: str = ""

    def reading(self) -> AbstractContextManager[Store]:
        """Return the store as it stands at one moment, however often it is then read."""
        return nullcontext(self)

    def read(self, names: Sequence[str], size: int, after: int | None, since: Any) -> Steps:
        """Yield columns of `size` rows at a time, all or those behind `after`.

        Rows whose column ``since[0]`` is below ``since[1]`` may be left out: a database does.
        """
        rows = self.columns[names[0]].shape[0]
        for start in range(after or 0, rows, size):
            stop = min(start + size, rows)
            yield stop, {name: np.asarray(self.columns[name][start:stop]) for name in names}


class Batch(NamedTuple):
    """Rows that stand together in a source.

    Attributes
    ----------
    keys : (n,) uint64 array
    rows : (n, d) array
        Finite numbers, of the type that the source has.
    labels : (n,) array or None
    metadata : DataFrame or None
    end : int
        Where another reading goes on: ``batches(after=end)``.
    """

    keys: U64
    rows: NDArray[Any]
    labels: NDArray[Any] | None
    metadata: pd.DataFrame | None
    end: int


Batches = Iterator[Batch]


@dataclass(frozen=True, eq=False)
class VectorSource:
    """Vectors in a file or a database, with keys, labels and metadata: read by batches, not held.

    `fedlab.data.open_vectors` makes it.

    Attributes
    ----------
    store : Store
    vectors : str
        The column of vectors.
    labels, key, changed : str or None
        Columns; without a key, a row's key is its place, from 0. `changed` is the time, or number,
        of a row's last change.
    metadata : tuple of str
    """

    store: Store
    vectors: str
    labels: str | None = None
    key: str | None = None
    metadata: tuple[str, ...] = ()
    changed: str | None = None

    def __post_init__(self) -> None:
        there = {name: (*one.shape, str(one.dtype)) for name, one in self.store.columns.items()}
        if lost := [name for name in self.used if name not in there]:
            raise ValueError(f"{self.store.name} has no column {lost[0]!r}; there are {there}")
        *shape, _ = there[self.vectors]
        # Of lists, or of a database, no row tells no dimensions.
        good = len(shape) == 2 and (1 if shape[0] else 0) <= shape[1] <= WIDEST
        if not good or any(there[name][:-1] != (shape[0],) for name in self.used[1:]):
            said = f"vectors, of 1 ... {WIDEST} numbers, and columns of a value for each"
            raise ValueError(f"{self.store.name}: {self.used} are to be {said}; there are {there}")

    @property
    def used(self) -> list[str]:
        """Names of the columns that are read; first that of vectors."""
        named = (self.vectors, self.key, self.labels, *self.metadata, self.changed)
        return [*dict.fromkeys(name for name in named if name is not None)]

    @property
    def dimensions(self) -> int:
        """Numbers in a vector; 0 where there are no rows that would tell."""
        return int(self.store.columns[self.vectors].shape[1])

    def __len__(self) -> int:
        return int(self.store.columns[self.vectors].shape[0])

    def __repr__(self) -> str:
        kind = self.store.columns[self.vectors].dtype
        return f"VectorSource({self.store.name}: {len(self):,} rows of {self.dimensions} in {kind})"

    def batches(self, size: int = ROWS, after: int | None = None, since: Any = None) -> Batches:
        """Yield rows in the source's order.

        Parameters
        ----------
        size : int
            Rows at a time; fewer where they would take more than 64 MiB.
        after : int, optional
            `Batch.end` of the last batch that was read; left out, all are.
        since : number or datetime, optional
            Rows whose `changed` lies before may be left out (a database does).

        Raises
        ------
        ValueError
            If the source is not what it said, or has rows that are not finite numbers of the same
            dimensions, or misses a key or a label; the message tells where.
        """
        import pandas as pd

        size = min(whole_number(size, "size", 1), max(1, BYTES // (8 * self.dimensions or 1)))
        old = None if since is None or self.changed is None else (self.changed, since)
        place = after or 0
        with told(self.store.name):
            for end, columns in self.store.read(self.used, size, after, old):
                rows = columns.pop(self.vectors)
                beside = pd.DataFrame(columns, pd.RangeIndex(place, place := place + len(rows)))
                keys = np.array(beside.index, np.uint64)
                keys = keys if self.key is None else keys_of(beside[self.key], self.key, 0)
                with np.errstate(over="ignore", invalid="ignore"):
                    finite = np.isfinite(rows.astype(np.float32, copy=False)).all(axis=1)
                if bad := np.flatnonzero(~finite).tolist():
                    where = f"{rows_text(beside.index[bad])}, the first of key {keys[bad[0]]}"
                    raise ValueError(f"NaN, inf or beyond float32 in {where}; leave it out")
                if self.labels is not None:
                    refuse_missing(beside[self.labels], f"label {self.labels!r}")
                labels = None if self.labels is None else beside[self.labels].to_numpy()
                about = pd.DataFrame({n: kept_as_metadata(beside[n], n) for n in self.metadata})
                yield Batch(keys, rows, labels, about if self.metadata else None, end)

    def all_keys(self) -> tuple[U64, Any]:
        """Return the keys of all rows, and the latest of their changes where they are told."""
        import pandas as pd

        if self.key is None:
            return np.arange(len(self), dtype=np.uint64), None
        names = [self.key] if self.changed is None else [self.key, self.changed]
        with told(self.store.name):
            parts = (pd.DataFrame(some) for _, some in self.store.read(names, ROWS, None, None))
            none = [pd.DataFrame(columns=names, dtype=float)]
            whole = pd.concat([*parts] or none, ignore_index=True)
            latest = _latest(whole[self.changed].dropna()) if self.changed else None
            return keys_of(whole[self.key], self.key, 0), latest


def form_of(change: Any) -> Any:
    """Return what a text of a time is written like; None if it is none.

    Of one form, the later sorts behind the earlier; a part of a second may be left out, but before
    a Z, which sorts behind digits.

    Examples
    --------
    >>> form_of("2026-04-01 10:00"), form_of("yesterday")
    ('0000-00-00 00:00 None', None)
    """
    with suppress(TypeError, ValueError):
        zone = datetime.fromisoformat(change).utcoffset()
        return re.sub(r"\d", "0", re.sub(r"\.\d+(?!\d*Z)", "", change)) + f" {zone}"
    return None


def _latest(changes: pd.Series[Any]) -> Any:
    forms = {form_of(one): one for one in changes.unique() if isinstance(one, str)}
    if None in forms or len(forms) > 1:
        said = "text is to be times of ISO 8601, in one form and one zone, to sort by time"
        raise ValueError(f"{changes.name!r} holds changes at {[*forms.values()]}; {said}")
    return changes.max()


@contextmanager
def told(name: str) -> Iterator[None]:
    """Turn what a reader or its library raises into a ValueError that names the store."""
    try:
        yield
    except (ImportError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} can't be read ({said})") from error
