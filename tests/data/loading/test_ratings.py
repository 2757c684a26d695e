"""MovieLens against what is published of it, and made-up ratings against how they are made."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedlab.data import DataUnavailable, Origin, Ratings, load_movielens, load_ratings
from fedlab.data.loading import ratings as room

Ensure = Callable[[str], None]
ORIGIN = Origin("a test", "", "0" * 64, 3, "", "")


def three(**given: object) -> Ratings:
    fields = {
        "user": np.array([0, 0, 1]),
        "item": np.array([1, 0, 1]),
        "rating": np.array([4.0, 5.0, 1.0]),
        "time": np.array([7, 7, 8]),
        "titles": ("Heat", "Big"),
        "content": np.eye(2, dtype=np.float32),
    }
    return Ratings(**(fields | given), origin=ORIGIN)


def test_movielens_is_that_of_the_literature(pulled: Ensure) -> None:
    pulled("movielens")
    ratings = load_movielens()
    assert (len(ratings), ratings.users, len(ratings.titles)) == (100_000, 943, 1682)
    # GroupLens' summary: 1 to 5 stars, the mean, at least 20 of each user; Star Wars leads.
    assert np.bincount(ratings.rating.astype(int))[1:].tolist() == [
        6110,
        11370,
        27145,
        34174,
        21201,
    ]
    assert ratings.rating.mean() == pytest.approx(3.52986)
    assert np.bincount(ratings.user).min() == 20
    counts = np.bincount(ratings.item)
    assert (ratings.titles[counts.argmax()], counts.max()) == ("Star Wars", 583)
    assert ratings.titles[0] == "Toy Story"
    np.testing.assert_allclose(np.linalg.norm(ratings.content, axis=1), 1, rtol=1e-6)
    genres = ratings.content[:, :19] > 0
    assert genres.sum() == 2893  # of u.item
    assert ratings.latest().sum() == 943


def test_no_user_rated_a_film_twice(pulled: Ensure) -> None:
    pulled("movielens")
    ratings = load_movielens()
    assert len(np.unique(ratings.user * 1682 + ratings.item)) == 100_000


def test_the_last_are_those_of_the_largest_times_and_of_equal_ones_the_first() -> None:
    assert three().latest().tolist() == [True, False, True]
    assert three(time=np.array([7, 9, 8])).latest().tolist() == [False, True, True]
    assert three().latest(2).all()


def test_a_row_is_an_item_with_what_its_user_made_of_it() -> None:
    liked, rated = three().rows(liked=True), three().rows(liked=False)
    assert liked.x.ravel().tolist() == rated.x.ravel().tolist() == [1, 0, 1]
    assert (liked.y.tolist(), liked.classes) == ([1, 1, 1], (0, 1))
    assert (rated.y.tolist(), rated.classes) == ([4, 5, 1], None)
    assert rated.device is not None
    assert rated.device.tolist() == [0, 0, 1]


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"have the shapes .*, and there are 2 titles"):
        three(time=np.array([1, 2]))
    with pytest.raises(ValueError, match=r"items 0 \.\.\. 2 were given; .* among 2 titles"):
        three(item=np.array([1, 0, 2]))


def test_where_it_cannot_be_had_ratings_are_made_up_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone() -> Ratings:
        raise DataUnavailable("'movielens' can't be had")

    monkeypatch.setattr(room, "load_movielens", gone)
    with pytest.warns(UserWarning, match="12,000 made-up ratings by 200 users of 400 items"):
        made = load_ratings()
    assert (len(made), made.users, len(made.titles)) == (12_000, 200, 400)
    assert len(np.unique(made.user * 400 + made.item)) == 12_000
    assert made.rating.min() >= 1
    assert made.rating.max() <= 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = load_ratings()
    assert (made.item == again.item).all()
    assert made.origin == again.origin


def test_a_table_of_one_s_own() -> None:
    days = pd.to_datetime(["2024-05-02", "2024-05-01", "2023-01-01"])
    table = pd.DataFrame({"user": ["b", "b", "a"], "item": [30, 7, 30], "time": days, "age": 3})
    ratings = Ratings.of(table)
    assert ratings.user.tolist() == [1, 1, 0]
    assert ratings.item.tolist() == [1, 0, 1]
    assert ratings.titles == ("7", "30")
    assert ratings.rating.tolist() == [1, 1, 1]
    assert ratings.latest().tolist() == [True, False, True]
    assert Ratings.of(table.assign(rating=[1, 2, 3])).rows(liked=False).y.tolist() == [1, 2, 3]
    assert Ratings.of(table.drop(columns="time")).latest().tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"user": [1], "items": [1]}, "no column 'item'; it needs user and item"),
        ({"user": [1, 1], "item": [2, None]}, "line 1 of the table has no item; drop it"),
        ({"user": [1], "item": [2], "rating": [np.nan]}, "line 0 of the table has no rating"),
        (
            {"user": [1, 1], "item": [2, 3], "rating": ["4", "good"]},
            "line 1 .* rating, a finite number",
        ),
        ({"user": [1], "item": [2], "rating": [np.inf]}, "line 0 .* finite number"),
        ({"user": [1], "item": [2], "time": ["10"]}, r"times are of .*pd\.to_datetime"),
        ({"user": [], "item": []}, "no lines"),
        ({"user": [1, 2, 1], "item": [2, 2, 2]}, r"line 2 .* keep one: table\.drop_duplicates"),
    ],
)
def test_a_table_that_lacks_something_is_refused(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Ratings.of(pd.DataFrame(table))
