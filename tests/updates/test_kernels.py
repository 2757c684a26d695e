"""Sums over a cohort: the plain loop's bits, in whatever parts rows come."""

import numpy as np
import pytest

from fedlab.updates import Mean
from fedlab.updates.kernels import squares
from fedlab.updates.mean import client_drift, weighted_average


@pytest.mark.parametrize("numbers", [np.float32, np.float64])
@pytest.mark.parametrize(("devices", "size"), [(1, 1), (3, 1023), (7, 1024), (5, 2500)])
def test_a_mean_has_the_bits_of_the_plain_loop_however_rows_are_cut(numbers, devices, size):
    draw = np.random.default_rng(devices * size)
    vectors = draw.normal(size=(devices, size)).astype(numbers)
    weights = draw.random(devices)
    weights /= weights.sum()
    expected = np.zeros(size)
    for weight, vector in zip(weights, vectors, strict=True):
        expected += weight * vector.astype(np.float64)
    for part in (1, 2, devices):
        held = Mean().begin(size)
        for start in range(0, devices, part):
            rows = slice(start, start + part)
            held = Mean().add(held, vectors[rows], weights[rows])
        assert Mean().done(held, share=1.0).tobytes() == expected.tobytes()
    np.testing.assert_allclose(weighted_average(list(vectors), weights), expected, rtol=1e-12)


def test_client_drift_is_the_spread_of_updates_around_their_average():
    draw = np.random.default_rng(0)
    vectors, weights = draw.normal(size=(6, 900)) + 1, draw.random(6)
    average = weighted_average(vectors, weights)
    lengths = np.empty(6)
    squares(vectors, lengths)
    np.testing.assert_allclose(lengths, np.square(vectors).sum(axis=1), rtol=1e-12)
    apart = np.square(vectors - average).sum(axis=1)
    expected = np.sqrt(np.average(apart, weights=weights)) / np.linalg.norm(average)
    assert client_drift(lengths, weights, average) == pytest.approx(expected, rel=1e-10)
    same = np.tile(vectors[:1], (6, 1))
    squares(same, lengths)
    assert client_drift(lengths, weights, weighted_average(same, weights)) == 0.0
    assert client_drift([1.0, 1.0], [1, 1], np.zeros(2)) == 0.0
