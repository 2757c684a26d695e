"""Compiled sums over a cohort have the bits of the plain ones."""

import numpy as np
import pytest

from fedlab.updates.mean import drift, weighted_sum


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (50, 11), (20, 1024), (7, 5000)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_weighted_sum_does_not_depend_on_the_door(shape, dtype):
    draw = np.random.default_rng(shape)
    vectors = (draw.normal(size=shape) * 10.0 ** draw.integers(-6, 6, shape)).astype(dtype)
    weights = draw.random(shape[0])
    plain = weighted_sum(list(vectors), weights)
    assert weighted_sum(vectors, weights).tobytes() == plain.tobytes()
    assert weighted_sum(vectors, weights).dtype == np.float64


def test_drift_does_not_depend_on_the_door():
    draw = np.random.default_rng(0)
    vectors, weights = draw.normal(size=(9, 300)).astype(np.float32), draw.random(9)
    average = weighted_sum(vectors, weights / weights.sum())
    plain = drift(list(vectors), weights, average)
    assert drift(vectors, weights, average) == pytest.approx(plain, rel=1e-12)


def test_nothing_to_add_up_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        weighted_sum(np.empty((0, 3)), [])
