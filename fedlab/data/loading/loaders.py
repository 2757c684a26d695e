"""Loading the sources: plain formats only, each file's hash checked first.

A loader pulls what is not there yet. Where that can't be done it raises
`fedlab.data.DataUnavailable`, which names a bundled set to use instead.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.data.loading.pull import opened
from fedlab.data.loading.registry import DataError, Origin, source
from fedlab.data.tables.targets import target_of
from fedlab.data.tables.values import Dataset, Table, WordVectors

_HOSPITALS = {"Cleveland": 303, "Hungary": 294, "Switzerland": 123, "VA Long Beach": 200}
_HEART_NUMERIC = ("age", "trestbps", "chol", "thalch", "oldpeak")
_HEART_CATEGORICAL = ("sex", "cp", "fbs", "restecg", "exang", "slope")


def load_digits() -> Dataset:
    """Load 1,797 digits of 8 x 8 pixels, scaled to [0, 1]; bundled with scikit-learn.

    Returns
    -------
    Dataset
        x (1797, 64), classes 0 ... 9.

    Examples
    --------
    >>> digits = load_digits()
    >>> digits.x.shape, float(digits.x.max()), digits.classes
    ((1797, 64), 1.0, (0, 1, 2, 3, 4, 5, 6, 7, 8, 9))
    """
    from sklearn.datasets import load_digits as bundled

    pixels, digit = bundled(return_X_y=True)
    names = tuple(f"pixel {row},{column}" for row in range(8) for column in range(8))
    origin = _bundled_origin("digits", pixels, digit)
    return Dataset(pixels / 16, digit, tuple(range(10)), names, origin)


def load_diabetes() -> Dataset:
    """Load 442 diabetes patients in natural units; bundled with scikit-learn.

    Values are as measured (years, kg/m2, mm Hg, ...), not standardised: fit a
    `fedlab.data.Preparation` on federated sums. `y` is the disease's progression after a
    year, 25 ... 346.

    Returns
    -------
    Dataset
        x (442, 10), y numbers.

    Examples
    --------
    >>> diabetes = load_diabetes()
    >>> diabetes.features[:4], diabetes.y[:2].tolist()
    (('age', 'sex', 'bmi', 'bp'), [151.0, 75.0])
    """
    from sklearn.datasets import load_diabetes as bundled

    loaded = bundled(scaled=False)
    origin = _bundled_origin("diabetes", loaded.data, loaded.target)
    return Dataset(loaded.data, loaded.target, None, tuple(loaded.feature_names), origin)


def load_breast_cancer() -> Dataset:
    """Load 569 breast tumours, 30 measurements each; 1 is malignant; bundled with scikit-learn.

    Returns
    -------
    Dataset
        x (569, 30) in natural units, classes 0 and 1.

    Examples
    --------
    >>> tumours = load_breast_cancer()
    >>> tumours.x.shape, int(tumours.y.sum())
    ((569, 30), 212)
    """
    from sklearn.datasets import load_breast_cancer as bundled

    loaded = bundled()
    malignant = 1 - loaded.target
    origin = _bundled_origin("breast_cancer", loaded.data, malignant)
    return Dataset(loaded.data, malignant, (0, 1), tuple(map(str, loaded.feature_names)), origin)


def load_mnist5k() -> Dataset:
    """Load 5,000 digits of MNIST, 500 of each, scaled to [0, 1]. Rows are sorted by digit.

    Returns
    -------
    Dataset
        x (5000, 784), classes 0 ... 9.

    Raises
    ------
    DataUnavailable, DataChanged
        As `fedlab.data.pull` does.

    Examples
    --------
    ::

        mnist = load_mnist5k()
        mnist.x.shape, mnist.origin.describe()
    """
    what = source("mnist5k")
    with opened(what, what.members[0]) as handle:
        text = gzip.decompress(handle.read())
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8)
    expect(table.shape == (5000, 785), "mnist5k", f"a table of shape {table.shape}")
    pixels, digit = table[:, :-1], table[:, -1]
    expect(np.bincount(digit).tolist() == [500] * 10, "mnist5k", "digits not 500 of each")
    names = tuple(f"pixel {row},{column}" for row in range(28) for column in range(28))
    scaled = pixels.astype(np.float32) / np.float32(255)
    return Dataset(scaled, digit, tuple(range(10)), names, what.origin_of(len(digit)))


def load_heart() -> Table:
    """Load the UCI heart data: 920 patients, label ``disease``, device ``hospital``.

    ``disease`` is 1 where the diagnosis ``num`` is above 0. Cleaned as the data's known faults
    demand, and no further: the row with id 304 belongs to Hungary; a serum cholesterol (``chol``)
    or resting blood pressure (``trestbps``) of 0 means missing; ``ca`` and ``thal`` are left out,
    since outside Cleveland nearly all are missing, and so is ``id``. Two pairs of rows (Hungary, VA
    Long Beach) are alike in every column but the id; nothing tells whether they are one patient, so
    they stay.

    Returns
    -------
    Table
        Hospitals Cleveland (303 rows), Hungary (294), Switzerland (123), VA Long Beach (200).

    Raises
    ------
    DataUnavailable, DataChanged
        As `fedlab.data.pull` does.

    Examples
    --------
    ::

        heart = load_heart()
        heart.frame.groupby(heart.device)[heart.label].agg(["size", "mean"])
    """
    import pandas as pd

    what = source("heart")
    with opened(what, what.members[0]) as handle:
        raw = pd.read_csv(handle, dtype=dict.fromkeys(_HEART_CATEGORICAL, "str"))
    raw.loc[raw["id"] == 304, "dataset"] = "Hungary"
    frame = raw[[*_HEART_NUMERIC, *_HEART_CATEGORICAL]].copy()
    for column in ("chol", "trestbps"):
        frame[column] = frame[column].where(frame[column] != 0)
    for column in ("fbs", "exang"):
        frame[column] = frame[column].map({"TRUE": "yes", "FALSE": "no"})
    frame["hospital"] = raw["dataset"]
    frame["disease"] = (raw["num"] > 0).astype("int64")
    counts = frame["hospital"].value_counts().to_dict()
    expect(counts == _HOSPITALS, "heart", f"hospitals {counts}")
    return Table(
        frame=frame,
        label="disease",
        device="hospital",
        numeric=_HEART_NUMERIC,
        categorical=_HEART_CATEGORICAL,
        target=target_of(frame["disease"], "disease", "class"),
        origin=what.origin_of(len(frame)),
    )


def load_glove(rows: int = 50_000) -> WordVectors:
    """Load the `rows` most frequent of 400,000 GloVe word vectors (50 dimensions).

    Parameters
    ----------
    rows : int
        1 ... 400,000.

    Raises
    ------
    ValueError
        If `rows` is out of range.
    ImportError
        If pyarrow, which reads the words, is not installed.
    DataUnavailable, DataChanged
        As `fedlab.data.pull` does.

    Examples
    --------
    ::

        glove = load_glove(1000)
        glove.words[:3]  # ('the', ',', '.')
    """
    most = 400_000
    if not 1 <= rows <= most:
        raise ValueError(f"rows is {rows}; there are 400,000 words, so it takes 1 ... {most}")
    parquet = parquet_reader()
    what = source("glove")
    vectors_file, words_file = what.members
    with opened(what, words_file) as handle:
        # The words "null" and "nan" are words: Arrow's strings keep them, a CSV reader would not.
        words = parquet.read_table(handle, columns=["index"]).column("index")
        expect(len(words) == most and words.null_count == 0, "glove", f"{len(words)} words")
        words = tuple(words.slice(0, rows).to_pylist())
    with opened(what, vectors_file) as handle:
        table = np.load(handle, allow_pickle=False)
    shape = f"{table.dtype} of shape {table.shape}"
    expect(table.shape == (most, 50) and table.dtype == np.float32, "glove", shape)
    return WordVectors(words, table[:rows].copy(), what.origin_of(rows))


def parquet_reader() -> Any:
    """Return ``pyarrow.parquet``, or raise ImportError with the extra that brings it."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            "reading Parquet takes pyarrow, which is not installed; it comes with the extra "
            "'workbench': pip install -e '.[workbench]' in the clone (fedlab-workbench[workbench])"
        ) from error
    return parquet


def _bundled_origin(name: str, x: NDArray[Any], y: NDArray[Any]) -> Origin:
    digest = hashlib.sha256(np.ascontiguousarray(x, "<f8").tobytes())
    digest.update(np.ascontiguousarray(y, "<f8").tobytes())
    return source(name).origin_of(len(y), digest.hexdigest())


def expect(holds: bool, name: str, found: str) -> None:
    """Stop where verified bytes don't read as they must: a reader's release has changed."""
    if not holds:
        raise DataError(
            f"{name!r} has the right bytes but was read as {found}; the installed reader "
            "(NumPy, pandas or pyarrow) reads it in another way than this release was tested with"
        )
