"""Loaders against facts about the data that don't come from this code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pandas as pd
import pytest

from fedlab.data import (
    Dataset,
    Origin,
    load_diabetes,
    load_digits,
    load_glove,
    load_heart,
    load_mnist5k,
    source,
    sources,
    train_test,
)
from fedlab.data.loading.registry import folder

Ensure = Callable[[str], None]
ORIGIN = Origin("a test", "", "0" * 64, 2, "", "")


def test_digits_are_scikit_learns_scaled_to_one() -> None:
    from sklearn.datasets import load_digits as reference

    digits, bundled = load_digits(), reference()
    np.testing.assert_array_equal(digits.x * 16, bundled.data)
    np.testing.assert_array_equal(digits.y, bundled.target)
    assert np.bincount(digits.y).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]  # UCI


def test_diabetes_are_in_natural_units() -> None:
    diabetes = load_diabetes()
    assert diabetes.x.shape == (442, 10)
    assert diabetes.classes is None
    # Table 1 of Efron et al. (2004): the first patient, and the last.
    np.testing.assert_allclose(diabetes.x[0, [0, 1, 2, 3]], [59, 2, 32.1, 101], rtol=1e-6)
    np.testing.assert_allclose(diabetes.x[-1, [0, 1, 2, 3]], [36, 1, 19.6, 71], rtol=1e-6)
    assert diabetes.y[[0, 1, 2, 3, 4, -1]].tolist() == [151, 75, 141, 206, 135, 57]


def test_mnist5k_has_500_of_each_digit_in_unit_range(pulled: Ensure) -> None:
    pulled("mnist5k")
    mnist = load_mnist5k()
    assert mnist.x.shape == (5000, 784)
    assert np.bincount(mnist.y).tolist() == [500] * 10
    assert (float(mnist.x.min()), float(mnist.x.max())) == (0.0, 1.0)
    # MNIST's mean and deviation over all pixels of the 60,000 (.1307, .3081) hold for an excerpt.
    assert mnist.x.mean() == pytest.approx(0.1307, abs=0.004)
    assert mnist.x.std() == pytest.approx(0.3081, abs=0.004)


def test_mnist5k_shows_digits(pulled: Ensure) -> None:
    """A linear classifier reads them as it reads MNIST: the labels stand at the right rows."""
    from sklearn.linear_model import RidgeClassifier

    pulled("mnist5k")
    mnist = load_mnist5k()
    held_out = np.arange(len(mnist)) % 5 == 0
    model = RidgeClassifier(alpha=10).fit(mnist.x[~held_out], mnist.y[~held_out])
    assert 0.78 < model.score(mnist.x[held_out], mnist.y[held_out]) < 0.92


def test_heart_has_the_hospitals_and_base_rates_of_the_original(pulled: Ensure) -> None:
    pulled("heart")
    heart = load_heart()
    by_hospital = heart.frame.groupby(heart.device)[heart.label].agg(["size", "mean"])
    assert by_hospital["size"].to_dict() == {
        "Cleveland": 303, "Hungary": 294, "Switzerland": 123, "VA Long Beach": 200
    }  # fmt: skip
    # The sick, by the documentation of the UCI repository.
    expected = {"Cleveland": 139, "Hungary": 106, "Switzerland": 115, "VA Long Beach": 149}
    assert (by_hospital["size"] * by_hospital["mean"]).round().astype(int).to_dict() == expected


def test_heart_is_cleaned_as_documented_and_no_further(pulled: Ensure) -> None:
    pulled("heart")
    raw = pd.read_csv(folder() / "heart" / "heart_disease_uci.csv")
    heart = load_heart()
    frame = heart.frame
    assert set(frame.columns) == {*heart.numeric, *heart.categorical, "hospital", "disease"}
    assert not {"id", "ca", "thal", "num", "dataset"} & set(frame.columns)
    assert frame.loc[raw["id"] == 304, "hospital"].tolist() == ["Hungary"]
    assert frame.loc[frame["hospital"] == "Switzerland", "chol"].isna().all()
    for column in ("age", "thalch", "oldpeak"):
        pd.testing.assert_series_equal(frame[column], raw[column], check_dtype=False)
    for column in ("chol", "trestbps"):
        pd.testing.assert_series_equal(frame[column], raw[column].replace(0, np.nan))
    assert frame["trestbps"].isna().sum() == raw["trestbps"].isna().sum() + 1
    for column in ("sex", "cp", "restecg", "slope"):
        assert frame[column].dropna().tolist() == raw[column].dropna().tolist()
    for column in ("fbs", "exang"):
        meaning = {"yes": True, "no": False}
        assert frame[column].dropna().map(meaning).tolist() == raw[column].dropna().tolist()
        assert frame[column].isna().sum() == raw[column].isna().sum()
    assert heart.y.tolist() == (raw["num"] > 0).astype(int).tolist()


def test_glove_knows_its_words(pulled: Ensure) -> None:
    pytest.importorskip("pyarrow")
    pulled("glove")
    glove = load_glove(50_000)
    assert glove.vectors.shape == (50_000, 50)
    assert glove.vectors.dtype == np.float32
    assert glove.words[:5] == ("the", ",", ".", "of", "to")
    # The first numbers of "the" in the published glove.6B.50d.txt.
    np.testing.assert_allclose(glove.vectors[0, :4], [0.418, 0.24968, -0.41242, 0.1217], atol=1e-6)
    at = {word: row for row, word in enumerate(glove.words)}
    unit = glove.vectors / np.linalg.norm(glove.vectors, axis=1, keepdims=True)
    king = unit[at["king"]] - unit[at["man"]] + unit[at["woman"]]
    near = np.argsort(-(unit @ king))[:4]
    assert "queen" in {glove.words[row] for row in near}  # Mikolov's analogy


def test_glove_keeps_words_that_look_like_missing_values(pulled: Ensure) -> None:
    pytest.importorskip("pyarrow")
    pulled("glove")
    words = load_glove(400_000).words
    assert len(set(words)) == 400_000
    assert {"null", "nan", "none", "na", "n/a", "true"} <= set(words)


@pytest.mark.parametrize("rows", [0, -1, 400_001])
def test_glove_refuses_rows_that_it_does_not_have(rows: int) -> None:
    with pytest.raises(ValueError, match=rf"rows is {rows}.*1 \.\.\. 400000"):
        load_glove(rows)


def test_without_pyarrow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):  # another test may have imported either
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"fedlab-workbench\[workbench\]"):
        load_glove(10)


def test_the_origin_says_what_was_loaded() -> None:
    origin = load_digits().origin
    assert origin.rows == 1797
    assert origin.describe().startswith("Optical digits (scikit-learn) ")
    assert set(asdict(origin)) == {"source", "version", "sha256", "rows", "licence", "citation"}
    assert origin == load_digits().origin


def test_a_pulled_origin_carries_the_pinned_hash(pulled: Ensure) -> None:
    pulled("heart")
    origin = load_heart().origin
    assert origin.sha256 == source("heart").members[0].sha256
    assert (origin.version, origin.rows) == ("0.1.0", 920)


def test_values_are_frozen_and_leave_the_callers_array_writeable() -> None:
    mine = np.eye(2, dtype=np.float32)
    data = Dataset(mine, np.array([0, 1]), ("a", "b"), ("p", "q"), ORIGIN)
    with pytest.raises(ValueError, match="read-only"):
        data.x[0, 0] = 5
    with pytest.raises(FrozenInstanceError):
        data.x = mine  # type: ignore[misc]
    mine[0, 0] = 1.0


@pytest.mark.parametrize(
    ("x", "y", "classes", "message"),
    [
        (np.eye(2), [0, 1, 1], ("a", "b"), r"x has shape \(2, 2\), y \(3,\)"),
        (np.ones(2), [0, 1], ("a", "b"), r"x has shape \(2,\)"),
        ([[1, np.nan], [1, 1]], [0, 1], ("a", "b"), r"1 rows hold NaN.*\[0\]"),
        ([[1, 1], [1, 1e300]], [0, 1], ("a", "b"), r"float32 can't hold, among them \[1\]"),
        (np.eye(2), [0, 2], ("a", "b"), r"y holds 0 \.\.\. 2; with 2 classes"),
        (np.eye(2), [0, np.inf], None, r"NaN, infinity"),
    ],
)
def test_a_dataset_that_does_not_fit_together_is_refused(
    x: object, y: object, classes: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Dataset(np.asarray(x), np.asarray(y), classes, ("p", "q"), ORIGIN)


def test_every_source_names_a_bundled_alternative_and_a_licence() -> None:
    for name, what in sources().items():
        assert what.licence, name
        assert what.citation, name
        weights = name in ("minilm", "smollm2")  # no data: what to use instead is another encoder
        assert what.bundled or weights or sources()[what.instead].bundled, name


def test_an_unknown_source_is_answered_with_the_closest() -> None:
    with pytest.raises(
        ValueError,
        match=r"no source is called 'mnist' \(did you mean 'mnist5k'\?\); there are heart",
    ):
        source("mnist")


def test_the_folder_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLAB_DATA", "/somewhere else")
    assert str(folder()) == "/somewhere else"
    monkeypatch.delenv("FEDLAB_DATA")
    assert (folder() / "sources.toml").is_file()


def test_importing_loads_nothing_heavy() -> None:
    heavy = "pandas", "sklearn", "pyarrow", "scipy", "matplotlib"
    script = f"import sys, fedlab.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("share", [50, 1.0, 0.0, -0.2])
def test_a_share_in_percent_or_of_rows_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"share is .*between 0 and 1"):
        train_test(load_digits(), share=share, seed=0)
