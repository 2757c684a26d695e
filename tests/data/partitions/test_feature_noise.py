"""Feature noise: its standard deviation is the rule's, device by device, and nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedlab.data import Dataset, Origin, by_quantity, iid, with_feature_noise


def zeros(rows: int = 4000, width: int = 10) -> Dataset:
    origin = Origin("zeros", "", "0" * 64, rows, "", "")
    names = tuple(f"f{j}" for j in range(width))
    return Dataset(np.zeros((rows, width)), np.arange(rows) % 3, (0, 1, 2), names, origin)


def test_noise_is_gaussian_of_the_stated_deviation() -> None:
    data = zeros()
    split = by_quantity(len(data), 5, 2.0, 0, min_rows=200)
    noisy = with_feature_noise(data, split, 0.8, seed=1)
    assert not noisy.x[split.rows[0]].any()
    for place, rows in enumerate(split.rows[1:], 1):
        z = noisy.x[rows].ravel().astype(float) / (0.8 * place / 4)
        assert stats.kstest(z, "norm").pvalue > 1e-4
        # Variance within five standard errors: sqrt(2 / n) for a Gaussian.
        assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)


def test_noise_of_devices_is_independent() -> None:
    data = zeros()
    noise = with_feature_noise(data, iid(len(data), 4, 0), 1.0, seed=0)
    parts = np.array([noise.x[rows].ravel() for rows in iid(len(data), 4, 0).rows[1:]])
    correlation = np.corrcoef(parts)[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(parts.shape[1])


def test_labels_order_and_the_original_stay() -> None:
    data = zeros()
    split = iid(len(data), 4, 0)
    noisy = with_feature_noise(data, split, 0.1, seed=0)
    assert (noisy.y == data.y).all()
    assert not data.x.any()
    assert "feature noise 0 ... 0.1 (seed 0)" in noisy.origin.source
    assert (noisy.x == with_feature_noise(data, split, 0.1, seed=0).x).all()
    assert (noisy.x != with_feature_noise(data, split, 0.1, seed=1).x).any()
    assert (with_feature_noise(data, split, 0.0, seed=0).x == data.x).all()


@pytest.mark.parametrize(
    ("level", "split", "message"),
    [
        (-0.1, iid(4000, 4, 0), "level is -0.1"),
        (float("nan"), iid(4000, 4, 0), "level is nan"),
        (float("inf"), iid(4000, 4, 0), "level is inf"),
        (0.1, iid(3999, 4, 0), "splits 3999 rows; the data have 4000"),
        (0.1, iid(4000, 1, 0), "takes two"),
    ],
)
def test_noise_that_can_not_be_is_refused(level: float, split: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_feature_noise(zeros(), split, level, 0)  # type: ignore[arg-type]
