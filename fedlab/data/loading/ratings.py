"""Who rated what, and when: MovieLens, or made-up tastes where it can't be had."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F32, F64, I64, Bool
from fedlab.core.validation import of_kind, read_only
from fedlab.data.loading.loaders import expect
from fedlab.data.loading.pull import opened
from fedlab.data.loading.registry import Origin, source
from fedlab.data.loading.standins import either
from fedlab.data.tables.reading import frame_sha256
from fedlab.data.tables.values import Dataset

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("user", "item", "rating", "time")
_DECADES = np.arange(1930, 2000, 10)


@dataclass(frozen=True, eq=False)
class Ratings:
    """Ratings, and what is publicly known of the items. Arrays are read-only.

    Attributes
    ----------
    user, item : (n,) int64 arrays
        Users 0 ... users - 1; items as places in `titles`.
    rating : (n,) float64 array
    time : (n,) int64 array
        In seconds, or as places in order.
    titles : tuple of str
    content : (items, c) float32 array
        What is known of each item; rows of length one.
    origin : Origin

    Examples
    --------
    >>> here = Origin("made by hand", "", "0" * 64, 3, "", "")
    >>> both = np.array([0, 0, 1]), np.array([1, 0, 1])
    >>> films = ("Heat", "Big")
    >>> ratings = Ratings(*both, np.array([4.0, 5, 1]), np.array([9, 7, 8]), films, np.eye(2), here)
    >>> ratings.users, ratings.latest(1)
    (2, array([ True, False,  True]))
    """

    user: I64
    item: I64
    rating: F64
    time: I64
    titles: tuple[str, ...]
    content: F32
    origin: Origin

    def __post_init__(self) -> None:
        n, items = len(self.user), len(self.titles)
        shapes = self.user.shape, self.item.shape, self.rating.shape, self.time.shape
        if set(shapes) != {(n,)} or self.content.shape[:1] != (items,):
            raise ValueError(
                f"users, items, ratings and times have the shapes {shapes}, and there are {items} "
                f"titles for content of shape {self.content.shape}; they must fit together"
            )
        if n and not (self.user.min() >= 0 and 0 <= self.item.min() <= self.item.max() < items):
            raise ValueError(
                f"users {self.user.min()} ... and items {self.item.min()} ... {self.item.max()} "
                f"were given; users count from 0, and items are places among {items} titles"
            )
        for name in (*_COLUMNS, "content"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @classmethod
    def of(cls, table: pd.DataFrame, name: str = "ratings of one's own") -> Ratings:
        """Return the ratings that stand in a table.

        Parameters
        ----------
        table : DataFrame
            Columns ``user`` and ``item``, names or numbers; where they are there, ``rating`` (else
            1) and ``time``, numbers or dates (else the order of the lines).
        name : str
            Of its origin.

        Raises
        ------
        ValueError
            If a column is missing, or a value is, a rating is no finite number, a time is text, or
            a user rates an item twice.

        Examples
        --------
        >>> import pandas as pd
        >>> ratings = Ratings.of(pd.DataFrame({"user": ["eve", "bob"], "item": ["Heat", "Big"]}))
        >>> ratings.user, ratings.titles
        (array([1, 0]), ('Big', 'Heat'))
        """
        import pandas as pd

        of_kind(table, pd.DataFrame, "table")
        if odd := sorted({"user", "item"} - {*table.columns}):
            raise ValueError(f"the table has no column {odd[0]!r}; it needs user and item")
        if table.empty:
            raise ValueError("the table has no lines; a rating is a line")
        usual = {"rating": np.ones(len(table)), "time": np.arange(len(table))}
        whole = table.assign(**{n: c for n, c in usual.items() if n not in table})[[*_COLUMNS]]
        numbers = pd.to_numeric(whole.rating, errors="coerce").astype(np.float64)
        whole["rating"] = numbers.where(np.isfinite(numbers))
        if (lost := whole.isna()).any(axis=None):
            line, column = np.argwhere(lost.to_numpy())[0]
            wanted = f"{whole.columns[column]}{', a finite number' if column == 2 else ''}"
            raise ValueError(f"line {line} of the table has no {wanted}; drop it")
        kinds = pd.api.types
        if not (kinds.is_numeric_dtype(whole.time) or kinds.is_datetime64_any_dtype(whole.time)):
            raise ValueError(
                f"times are of {whole.time.dtype}, and text does not sort by time; give numbers or "
                "dates: pd.to_datetime(table.time)"
            )
        if (twice := whole.duplicated(["user", "item"])).any():
            raise ValueError(
                f"line {twice.argmax()} of the table rates an item that its user rated before; "
                "keep one: table.drop_duplicates(['user', 'item'], keep='last')"
            )
        (user, _), (item, titles), (time, _) = (
            pd.factorize(whole[column], sort=True) for column in ("user", "item", "time")
        )
        return cls(
            user=user.astype(np.int64),
            item=item.astype(np.int64),
            rating=whole.rating.to_numpy(),
            time=time.astype(np.int64),
            titles=tuple(map(str, titles)),
            content=np.zeros((len(titles), 0), np.float32),
            origin=Origin(name, "", frame_sha256(whole), len(table), "", ""),
        )

    def __len__(self) -> int:
        return len(self.user)

    @property
    def users(self) -> int:
        """How many users there are."""
        return int(self.user.max(initial=-1)) + 1

    def latest(self, count: int = 1) -> Bool:
        """Return which are each user's last ratings, (n,); of equal times, those that stand first.

        Held out, they make the split that is called leave-one-out.
        """
        place = np.arange(len(self))
        order = np.lexsort((place, -self.time, self.user))
        first = np.searchsorted(self.user[order], self.user[order])
        chosen = np.zeros(len(self), np.bool_)
        chosen[order] = place - first < count
        return chosen

    def rows(self, liked: bool) -> Dataset:
        """Return a row for each rating, which holds the item's number alone.

        Its label is 1 for that a user chose it (`liked`), whatever the rating, or the rating.
        """
        of_item = np.asarray(self.item, np.float32)[:, None]
        if liked:
            ones = np.ones(len(self), np.int64)
            return Dataset(of_item, ones, (0, 1), ("item",), self.origin, self.user)
        return Dataset(of_item, self.rating, None, ("item",), self.origin, self.user)


def load_movielens() -> Ratings:
    """Load MovieLens-100k: 100,000 ratings of 1,682 films by 943 users, 1 to 5, with times.

    Content of a film: its genres, and the decade it is of.

    Raises
    ------
    DataUnavailable, DataChanged
        As `fedlab.data.pull` does.

    Examples
    --------
    ::

        ratings = load_movielens()
        ratings.users, len(ratings.titles)  # (943, 1682)
    """
    import pandas as pd

    what = source("movielens")

    def read(place: int) -> pd.DataFrame:
        with opened(what, what.members[place]) as handle:
            table = pd.read_csv(handle, sep="\t", quoting=csv.QUOTE_NONE, keep_default_na=False)
        return table.rename(columns=lambda name: name.partition(":")[0])

    acts, films = read(0), read(1)
    counts = (len(acts), acts.user_id.nunique(), len(films), acts.item_id.max())
    expect(counts == (100_000, 943, 1682, 1682), "movielens", f"{counts} ratings, users, films")
    kinds = films["class"].str.get_dummies(" ")
    year = pd.to_numeric(films.release_year, errors="coerce").to_numpy()
    decade = (np.clip(year[:, None] // 10 * 10, _DECADES[0], None) == _DECADES).astype(np.float32)
    content = np.column_stack([kinds.to_numpy(np.float32), decade])
    return Ratings(
        user=acts.user_id.to_numpy(np.int64) - 1,
        item=acts.item_id.to_numpy(np.int64) - 1,
        rating=acts.rating.to_numpy(np.float64),
        time=acts.timestamp.to_numpy(np.int64),
        titles=tuple(films.movie_title),
        content=_of_length_one(content),
        origin=what.origin_of(len(acts)),
    )


def load_ratings() -> Ratings:
    """Load MovieLens-100k, or else made-up ratings of 200 users, with a warning."""
    return either(load_movielens, _made_up, "12,000 made-up ratings by 200 users of 400 items")


def _made_up(users: int = 200, items: int = 400, each: int = 60) -> Ratings:
    """Return ratings by which users with tastes choose items of kinds, the popular ones first."""
    draw = generator(0, Purpose.SYNTHETIC)
    tastes, kinds = draw.normal(size=(users, 6)), draw.normal(size=(items, 6))
    fame = -0.7 * np.log1p(np.arange(items))
    wanted = tastes @ kinds.T + fame + draw.gumbel(size=(users, items))
    item = np.argsort(-wanted, axis=1)[:, :each]
    who = np.repeat(np.arange(users), each)
    liking = np.take_along_axis(tastes @ kinds.T, item, axis=1).ravel()
    rating = np.clip(np.round(3.5 + 0.5 * liking + draw.normal(0, 0.7, len(who))), 1, 5)
    time = draw.permuted(np.tile(np.arange(each), (users, 1)), axis=1).ravel()
    digest = hashlib.sha256(item.astype("<i8").tobytes() + rating.tobytes()).hexdigest()
    origin = Origin("made-up ratings", "", digest, len(who), "", "")
    titles = tuple(f"item {place}" for place in range(items))
    content = _of_length_one(kinds > 0.5)
    return Ratings(who, item.ravel(), rating, time, titles, content, origin)


def _of_length_one(content: NDArray[np.generic]) -> F32:
    rows = np.asarray(content, np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1))
