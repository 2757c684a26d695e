"""Fairness against scikit-learn's kin, closed forms and SciPy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fedlab.metrics import fairness


def test_gini_entropy_and_variance_are_those_of_their_definitions():
    draw = np.random.default_rng(0)
    for n in (2, 7, 40):
        values = draw.uniform(0, 1, n)
        told = fairness(values)
        pairs = np.abs(values[:, None] - values[None, :]).sum()
        assert told.gini == pytest.approx(pairs / (2 * n**2 * values.mean()), rel=1e-12)
        assert told.entropy == pytest.approx(stats.entropy(values) / np.log(n), rel=1e-12)
        assert told.variance == pytest.approx(np.var(values), rel=1e-12)
        assert told.mean == pytest.approx(values.mean(), rel=1e-12)


def test_even_and_wholly_uneven():
    even = fairness([0.5] * 8)
    assert (even.gini, even.variance) == (0, 0)
    assert even.entropy == pytest.approx(1)
    one = fairness([0, 0, 0, 1.0])
    assert (one.gini, one.entropy) == (0.75, 0)
    assert fairness([0.3]).entropy == 1


def test_the_worst_tenth_and_below_ten_devices_the_worst_one_by_name():
    values = pd.Series([0.9, 0.2, 0.8, 0.2], index=["a", "b", "c", "d"])
    told = fairness(values)
    assert (told.worst, told.worst_devices) == (0.2, ("b",))
    draw = np.random.default_rng(1)
    many = draw.permutation(np.arange(30) / 30)
    told = fairness(many, [f"d{n}" for n in range(30)])
    assert told.worst == pytest.approx((0 + 1 + 2) / 3 / 30)
    assert told.worst_devices == tuple(f"d{np.flatnonzero(many == k / 30)[0]}" for k in range(3))
    assert len(fairness(np.arange(19.0)).worst_devices) == 1  # never more than a tenth


def test_of_losses_the_highest_is_the_worst():
    told = fairness([0.1, 2.0, 0.4], ["a", "b", "c"], better="lower")
    assert (told.worst, told.worst_devices) == (2.0, ("b",))
    with pytest.raises(ValueError, match="'highest'"):
        fairness([0.1], better="highest")


def test_weights_are_those_of_the_mean():
    told = fairness([1.0, 0.0], weights=[3, 1])
    assert told.mean == 0.75
    assert told.variance == 0.25


@pytest.mark.parametrize("values", [[-0.5, 0.5, 1.0], [0.0, 0.0, 0.0]])
def test_shares_of_what_has_none_are_nan(values):
    told = fairness(values)
    assert np.isnan([told.gini, told.entropy]).all()
    assert told.variance == pytest.approx(np.var(values))


def test_what_is_no_value_for_each_device_is_refused():
    with pytest.raises(ValueError, match=r"\['b'\] have NaN"):
        fairness(pd.Series([0.5, np.nan], index=["a", "b"]))
    with pytest.raises(ValueError, match="one value for each"):
        fairness([])
    with pytest.raises(ValueError, match="3 devices"):
        fairness([0.1, 0.2], ["a", "b", "c"])
