"""What the notebooks load: a source, or a bundled set where the source can't be had.

The stand-in is never quiet: a warning says what is missing, and what is used instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.randomness import Purpose, generator
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
from fedlab.metrics.folds import held_out_groups

T = TypeVar("T")


def load_images() -> Dataset:
    """Load MNIST-5k, or else scikit-learn's smaller digits, with a warning."""
    return either(load_mnist5k, load_digits, "1,797 digits of 8 x 8 pixels")


def load_words(rows: int) -> WordVectors:
    """Load the most frequent GloVe words, or else digits under made-up names, with a warning.

    Parameters
    ----------
    rows : int
        How many; of the stand-in, at most 1,797.
    """

    def named() -> WordVectors:
        digits = load_digits()
        names = tuple(f"a {digit} (no. {place})" for place, digit in enumerate(digits.y.tolist()))
        return WordVectors(names[:rows], digits.x[:rows].copy(), digits.origin)

    what = "at most 1,797 images of digits, named like words"
    return either(lambda: load_glove(rows), named, what)


def load_clinics() -> Table:
    """Load UCI heart with its four hospitals, or else breast tumours dealt to four made-up ones."""
    what = "569 breast tumours, dealt to four made-up hospitals with unlike shares of ill"
    return either(load_heart, _made_up_clinics, what)


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


def either(load: Callable[[], T], other: Callable[[], T], what: str) -> T:
    """Return what one function loads, or else, with a warning, what another one does."""
    try:
        return load()
    except DataUnavailable as error:
        said = f"{error} This run uses {what}; the text speaks of the real source."
        warnings.warn(said, stacklevel=3)
        return other()


def train_test(
    data: Dataset, share: float, seed: int, groups: ArrayLike | None = None
) -> tuple[Dataset, Dataset]:
    """Split a data set in two, each class in the same share.

    Parameters
    ----------
    data : Dataset
        With classes.
    share : float
        Part that is held back for the test, 0 < share < 1.
    seed : int
    groups : (n,) array, optional
        The group of each row, such as a patient: no group stands on both sides, and shares are met
        as near as whole groups let them be.

    Raises
    ------
    ValueError
        If the share is none, a class has fewer than two rows, or no group could be held back.

    Examples
    --------
    >>> train, test = train_test(load_digits(), share=0.2, seed=0)
    >>> len(train), len(test)
    (1437, 360)
    """
    from sklearn.model_selection import train_test_split

    proportion(share=share)
    if groups is not None:
        of_class = data.y if data.classes is not None else np.zeros(len(data))
        aside = held_out_groups(of_class, groups, share, generator(seed, Purpose.VALIDATION))
        if not aside.any():
            raise ValueError(
                f"no group can be held back for a share of {share}: each is too large, or has a "
                "class alone; ask for a larger share"
            )
        return data.take(np.flatnonzero(~aside)), data.take(np.flatnonzero(aside))
    parts = train_test_split(
        np.arange(len(data)), test_size=share, stratify=data.y, random_state=seed
    )
    train, test = (data.take(np.sort(rows)) for rows in parts)
    return train, test
