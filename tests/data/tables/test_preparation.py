"""Federated sums against scikit-learn on the pooled rows."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fedlab.data import ColumnSums, Preparation, load_heart

NUMERIC, CATEGORICAL = ("a", "b", "c"), ("k", "m")


def made_up(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    values = rng.normal(size=(rows, 3)) * [1, 1e-3, 50] + [0, 1e4, -7]
    values[rng.random(values.shape) < [0.3, 0.1, 0.0]] = np.nan
    text = rng.choice(np.array(["x", "y", "z", None], dtype=object), size=(rows, 2))
    return pd.DataFrame(values, columns=list(NUMERIC)).assign(k=text[:, 0], m=text[:, 1])


def federated(frame: pd.DataFrame, device: np.ndarray) -> ColumnSums:
    parts = [frame[device == name] for name in np.unique(device)]
    return ColumnSums.merge(ColumnSums.of(part, NUMERIC, CATEGORICAL) for part in parts)


def pooled(train: pd.DataFrame, frame: pd.DataFrame, numeric: tuple[str, ...]) -> np.ndarray:
    """What scikit-learn makes of `frame`, fitted on all rows of `train` together."""
    columns = list(numeric)
    scaler = make_pipeline(SimpleImputer(), StandardScaler()).fit(train[columns])
    missing = MissingIndicator(features="missing-only", error_on_new=False).fit(train[columns])
    blocks = [scaler.transform(frame[columns]), missing.transform(frame[columns])]
    for name in CATEGORICAL:
        known = sorted(train[name].dropna().unique())
        encoder = OneHotEncoder(categories=[known], handle_unknown="ignore", sparse_output=False)
        if known:
            fitted = encoder.fit(train[[name]].dropna().to_numpy(dtype=object))
            blocks.append(fitted.transform(frame[[name]].fillna("?").to_numpy(dtype=object)))
    return np.hstack(blocks)


@pytest.mark.filterwarnings("ignore:categories that were not seen")
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(2, 80), st.integers(1, 9))
def test_federated_sums_equal_scikit_learn_on_pooled_rows(
    seed: int, rows: int, devices: int
) -> None:
    rng = np.random.default_rng(seed)
    train, held_out = made_up(rng, rows), made_up(rng, 10)
    sums = federated(train, rng.integers(devices, size=rows))
    preparation = Preparation.from_sums(sums)
    for frame in (train, held_out):
        x, names = preparation.apply(frame)
        expected = pooled(train, frame, preparation.numeric)
        assert x.shape == (len(frame), len(names)) == expected.shape
        np.testing.assert_allclose(x, expected, atol=2e-6, rtol=2e-6)  # float32's own rounding
    present = train[list(preparation.numeric)]
    scaler = StandardScaler().fit(present)
    seen = sums.count > 0
    np.testing.assert_allclose(preparation.mean, scaler.mean_, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(sums.m2[seen] / sums.count[seen], scaler.var_, rtol=1e-6, atol=1e-18)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 30))
def test_how_rows_are_spread_does_not_matter(seed: int, rows: int, devices: int) -> None:
    rng = np.random.default_rng(seed)
    frame = made_up(rng, rows)
    one = federated(frame, np.zeros(rows))
    many = federated(frame, rng.integers(devices, size=rows))
    assert (one.rows, one.count.tolist(), one.categories) == (
        many.rows, many.count.tolist(), many.categories
    )  # fmt: skip
    np.testing.assert_allclose(many.mean, one.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(many.m2, one.m2, rtol=1e-6, atol=1e-15)


def test_a_large_mean_does_not_swallow_the_spread() -> None:
    """Sums of squares would lose it: 1e9 squared has no digit left for a variance of 2/3."""
    values = 1e9 + np.tile([-1.0, 0.0, 1.0], 1000)
    frame = pd.DataFrame({"year": values})
    parts = [ColumnSums.of(part, ["year"], []) for part in (frame[:7], frame[7:1000], frame[1000:])]
    merged = ColumnSums.merge(parts)
    assert merged.mean[0] == pytest.approx(1e9, abs=1e-6)
    assert merged.m2[0] / merged.rows == pytest.approx(2 / 3, rel=1e-9)
    naive = (values**2).mean() - values.mean() ** 2
    assert abs(naive - 2 / 3) > 0.1  # the fault that this avoids


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e9, 1e-9, 1 / 3])
def test_a_constant_column_has_scale_one_however_it_is_spread(constant: float) -> None:
    frame = pd.DataFrame({"a": np.full(1000, constant)})
    sums = ColumnSums.merge(ColumnSums.of(frame[i::7], ["a"], []) for i in range(7))
    preparation = Preparation.from_sums(sums)
    assert preparation.scale.tolist() == [1.0]
    assert np.abs(preparation.apply(frame)[0]).max() == 0.0


def test_an_empty_device_changes_nothing() -> None:
    frame = made_up(np.random.default_rng(0), 50)
    alone = ColumnSums.of(frame, NUMERIC, CATEGORICAL)
    nothing = ColumnSums.of(frame[:0], NUMERIC, CATEGORICAL)
    for merged in (ColumnSums.merge([nothing, alone]), ColumnSums.merge([alone, nothing])):
        assert merged.mean.tolist() == alone.mean.tolist()
        assert merged.m2.tolist() == alone.m2.tolist()
        assert (merged.rows, merged.categories) == (alone.rows, alone.categories)


def test_a_column_without_a_value_in_training_is_left_out() -> None:
    """As cholesterol in Switzerland: unscaled values of other hospitals must not come in."""
    train = pd.DataFrame({"a": [1.0, 2.0], "b": [np.nan, np.nan], "k": ["x", "y"]})
    preparation = Preparation.from_sums(ColumnSums.of(train, ["a", "b"], ["k"]))
    assert preparation.features == ("a", "k=x", "k=y")
    x, _ = preparation.apply(pd.DataFrame({"a": [1.5], "b": [240.0], "k": ["x"]}))
    assert x.tolist() == [[0.0, 1.0, 0.0]]


def test_missing_and_unseen_categories_are_zero_everywhere() -> None:
    train = pd.DataFrame({"k": ["x", "y", None]})
    preparation = Preparation.from_sums(ColumnSums.of(train, [], ["k"]))
    with pytest.warns(UserWarning, match="not seen in training"):
        x, names = preparation.apply(pd.DataFrame({"k": ["y", "new", None, np.nan]}))
    assert names == ("k=x", "k=y")
    assert x.tolist() == [[0, 1], [0, 0], [0, 0], [0, 0]]


def test_unseen_categories_are_told_once_by_column_value_and_row() -> None:
    train = pd.DataFrame({"ward": ["007", "012"], "sex": ["f", "m"]})
    preparation = Preparation.from_sums(ColumnSums.of(train, [], ["ward", "sex"]))
    new = pd.DataFrame({"ward": ["7", "012", "7", None], "sex": ["f", "m", "x", "f"]})
    with pytest.warns(UserWarning, match="not seen in training") as caught:
        preparation.apply(new)
    [told] = [str(one.message) for one in caught]
    assert "'ward' holds '7' in 2 rows (0, 2); 'sex' holds 'x' in 1 row (2)" in told
    with warnings.catch_warnings(action="error"):
        preparation.apply(new.iloc[[1]])


def test_bytes_are_those_of_the_numbers_and_the_categories_names() -> None:
    frame = pd.DataFrame({"a": [1.0], "b": [2.0], "k": ["é"]})
    assert ColumnSums.of(frame, ["a", "b"], ["k"]).nbytes == 8 + 2 * 3 * 8 + (2 + 8)


def test_sums_and_preparations_survive_pickling_to_another_process() -> None:
    sums = ColumnSums.of(made_up(np.random.default_rng(0), 5), NUMERIC, CATEGORICAL)
    again = pickle.loads(pickle.dumps(Preparation.from_sums(sums)))
    assert again.features == Preparation.from_sums(sums).features


def test_what_can_not_be_summed_is_refused() -> None:
    frame = made_up(np.random.default_rng(0), 5)
    sums = ColumnSums.of(frame, NUMERIC, CATEGORICAL)
    with pytest.raises(ValueError, match="no column 'z'; there are"):
        ColumnSums.of(frame, ["z"], [])
    with pytest.raises(ValueError, match="column 'k' takes numbers, and holds 'z' in 2 rows"):
        ColumnSums.of(frame, ["k"], [])
    with pytest.raises(ValueError, match=r"column 'a' is infinite in 1 row \(2\)"):
        ColumnSums.of(frame.assign(a=[0, 1, np.inf, 3, 4]), ["a"], [])
    with pytest.raises(ValueError, match="different columns"):
        ColumnSums.merge([sums, ColumnSums.of(frame, ["a"], [])])
    with pytest.raises(ValueError, match="no sums to merge"):
        ColumnSums.merge([])
    with pytest.raises(ValueError, match="no rows"):
        Preparation.from_sums(ColumnSums.of(frame[:0], NUMERIC, CATEGORICAL))


def test_the_hospitals_prepare_as_the_pooled_patients_would(pulled: Callable[[str], None]) -> None:
    pulled("heart")
    heart = load_heart()
    frame, numeric, categorical = heart.frame, list(heart.numeric), list(heart.categorical)
    parts = [part for _, part in frame.groupby(heart.device)]
    sums = [ColumnSums.of(part, numeric, categorical) for part in parts]
    preparation = Preparation.from_sums(ColumnSums.merge(sums))
    x, names = preparation.apply(frame)
    scaler = make_pipeline(SimpleImputer(), StandardScaler())
    np.testing.assert_allclose(x[:, :5], scaler.fit_transform(frame[numeric]), atol=1e-6)
    assert np.isfinite(x).all()
    assert "chol missing" in names
    assert "age missing" not in names
    assert max(part.nbytes for part in sums) < 500
