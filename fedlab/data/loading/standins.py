"""What the notebooks load: a source, or a bundled set where the source can't be had.

The stand-in is never quiet: a warning says what is missing, and what is used instead.
"""

from __future__ import annotations

import warnings

import numpy as np

from fedlab.core.validation import proportion
from fedlab.data.loading.loaders import (
    load_breast_cancer,
    load_digits,
    load_glove,
    load_heart,
    load_mnist5k,
)
from fedlab.data.loading.registry import DataUnavailable
from fedlab.data.partitions.schemes import dirichlet
from fedlab.data.tables.targets import Target
from fedlab.data.tables.values import Dataset, Table, WordVectors


def load_images() -> Dataset:
    """Load MNIST-5k, or else scikit-learn's smaller digits, with a warning."""
    try:
        return load_mnist5k()
    except DataUnavailable as error:
        _say(error, "1,797 digits of 8 x 8 pixels")
        return load_digits()


def load_words(rows: int) -> WordVectors:
    """Load the most frequent GloVe words, or else digits under made-up names, with a warning.

    Parameters
    ----------
    rows : int
        How many; of the stand-in, at most 1,797.
    """
    try:
        return load_glove(rows)
    except DataUnavailable as error:
        _say(error, "at most 1,797 images of digits, named like words")
        digits = load_digits()
        names = tuple(f"a {digit} (no. {place})" for place, digit in enumerate(digits.y.tolist()))
        return WordVectors(names[:rows], digits.x[:rows].copy(), digits.origin)


def load_clinics() -> Table:
    """Load UCI heart with its four hospitals, or else breast tumours dealt to four made-up ones."""
    try:
        return load_heart()
    except DataUnavailable as error:
        _say(error, "569 breast tumours, dealt to four made-up hospitals with unlike shares of ill")
        return _made_up_clinics()


def _made_up_clinics() -> Table:
    import pandas as pd

    tumours = load_breast_cancer()
    split = dirichlet(tumours.y, devices=4, alpha=1.0, seed=0, min_rows=40)
    hospital = np.empty(len(tumours), dtype=object)
    for name, rows in zip(("A", "B", "C", "D"), split.rows, strict=True):
        hospital[rows] = f"hospital {name}"
    frame = pd.DataFrame(tumours.x, columns=list(tumours.features))
    frame = frame.assign(hospital=hospital.astype(str), disease=tumours.y)
    target = Target(tumours.y, (0, 1))
    return Table(frame, "disease", "hospital", tumours.features, (), target, tumours.origin)


def _say(error: DataUnavailable, instead: str) -> None:
    warnings.warn(
        f"{error} This run uses {instead}; the text speaks of the real source.", stacklevel=3
    )


def train_test(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split a data set in two, each class in the same share.

    Parameters
    ----------
    data : Dataset
        With classes.
    share : float
        Part that is held back for the test, 0 < share < 1.
    seed : int

    Raises
    ------
    ValueError
        If the share is none, or a class has fewer than two rows.

    Examples
    --------
    >>> train, test = train_test(load_digits(), share=0.2, seed=0)
    >>> len(train), len(test)
    (1437, 360)
    """
    from sklearn.model_selection import train_test_split

    proportion(share=share)
    parts = train_test_split(
        np.arange(len(data)), test_size=share, stratify=data.y, random_state=seed
    )
    train, test = (data.take(np.sort(rows)) for rows in parts)
    return train, test
