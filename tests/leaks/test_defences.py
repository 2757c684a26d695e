"""Protections keep what they promise: distances, their order, uniform shares, noise of its size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist

from fedlab.leaks import (
    DEFENCES,
    Counts,
    Noise,
    Quantised,
    Rotation,
    ScaleAndPerturb,
    Shares,
    Undefended,
)
from fedlab.leaks.defences import QUERIES, ROWS
from fedlab.privacy.fixed_point import FRACTION
from tests.leaks.clouds import independent, skewed

ROWS_OF = [each for each in DEFENCES if each.searchable]
every = pytest.mark.parametrize("defence", ROWS_OF, ids=lambda p: f"{p.name} {p.setting}")


@every
def test_a_seed_and_a_part_say_everything(defence):
    rows = skewed(30, 8)
    once, again = (defence.protect(rows, 3, ROWS) for _ in range(2))
    np.testing.assert_array_equal(once.held, again.held)
    assert once.held.shape == once.used.shape == rows.shape
    assert rows.flags.writeable
    np.testing.assert_array_equal(rows, skewed(30, 8))


@every
def test_what_it_is_and_who_sees_what_is_said(defence):
    obfuscates = isinstance(defence, Rotation | ScaleAndPerturb)
    assert (defence.kind == "obfuscation, not encryption") == obfuscates
    assert defence.holder_sees
    assert defence.asker_sees


def test_a_rotation_keeps_all_distances_and_shows_no_coordinate():
    rows, queries = skewed(200, 50), skewed(40, 50, seed=1)
    held = Rotation().protect(rows, 0, ROWS).held
    asked = Rotation().protect(queries, 0, QUERIES).held
    np.testing.assert_allclose(cdist(asked, held), cdist(queries, rows), atol=1e-12)
    assert np.abs(stats.pearsonr(held, rows, axis=0).statistic).mean() < 0.5
    assert not np.allclose(held, Rotation().protect(rows, 1, ROWS).held)


@given(st.floats(0.05, 8), st.integers(0, 1000), st.integers(2, 40))
def test_scale_and_perturb_keeps_the_order_of_distances_that_differ_by_beta(beta, seed, dimensions):
    rows = independent(12, dimensions, seed)
    defence = ScaleAndPerturb(beta)
    held = defence.protect(rows, seed, ROWS).held
    plain, seen = cdist(rows, rows), cdist(held, held)
    # Fuchsbauer et al., definition of beta-DCP: o-x nearer than o-y by more than beta stays nearer.
    surely = plain[:, :, None] < plain[:, None, :] - beta
    assert (seen[:, :, None] < seen[:, None, :])[surely].all()


def test_scale_and_perturb_moves_uniformly_in_a_ball_of_its_radius():
    rows, beta = independent(4000, 6), 2.0
    held = ScaleAndPerturb(beta).protect(rows, 5, ROWS).held
    protected_zero = ScaleAndPerturb(beta).protect(np.zeros((4000, 6)), 5, ROWS).held
    scale = np.linalg.norm(held - protected_zero, axis=1)  # same noise, so rows alone remain
    np.testing.assert_allclose(scale, scale[0])
    assert 1 <= scale[0] <= 100
    radii = np.linalg.norm(protected_zero, axis=1) / (scale[0] * beta / 4)
    assert radii.max() <= 1 + 1e-12
    # Uniform in a ball of 6 dimensions: the 6th power of the radius is uniform.
    assert stats.kstest(radii**6, "uniform").pvalue > 0.01
    told = ScaleAndPerturb(beta).noise_power(6)
    assert np.square(radii * beta / 4).mean() == pytest.approx(told, rel=0.05)


@pytest.mark.parametrize("defence", [Noise(0.7), Rotation(0.7)])
def test_noise_has_its_size_and_is_new_for_queries(defence):
    nothing = np.zeros((3000, 20))
    rows, queries = (defence.protect(nothing, 0, part).held for part in (ROWS, QUERIES))
    assert np.square(rows).sum(axis=1).mean() == pytest.approx(0.49, rel=0.05)
    assert defence.noise_power(20) == pytest.approx(0.49)
    assert abs(np.corrcoef(rows.ravel(), queries.ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("server", [0, 1])
def test_a_share_is_uniform_whatever_the_rows_are(server):
    for rows in (np.ones((400, 10)), np.zeros((400, 10)), skewed(400, 10)):
        held = Shares(server).protect(rows, 7, ROWS).held
        places = held.ravel() * 2.0**FRACTION / 2.0**64 + 0.5
        assert stats.kstest(places, "uniform").pvalue > 0.001


def test_both_shares_together_give_fixed_point_numbers():
    rows = skewed(50, 10)
    one, other = (Shares(server).protect(rows, 7, ROWS) for server in (0, 1))
    np.testing.assert_allclose(one.used, rows, atol=2.0 ** -(FRACTION + 1))
    np.testing.assert_array_equal(one.used, other.used)
    # Their sum is the row, up to a multiple of 2**64 / 2**28 and to float64's digits.
    total = (one.held + other.held) / 2.0 ** (64 - FRACTION)
    np.testing.assert_allclose(total, total.round(), atol=1e-9)


def test_one_bit_is_the_sign_and_eight_bits_are_close():
    rows = skewed(50, 16)
    np.testing.assert_array_equal(np.sign(Quantised("b1").public(rows)), np.sign(rows))
    np.testing.assert_allclose(Quantised("i8").public(rows), rows, atol=1 / 254)


def test_released_counts_have_discrete_laplace_noise_of_scale_one_over_epsilon():
    counts = np.zeros(20_000, np.int64)
    noise = Counts(0.5).released(counts, seed=0)
    sizes = np.bincount(np.minimum(np.abs(noise), 12).astype(int))
    shares = stats.dlaplace(0.5).pmf(np.arange(12)) * np.where(np.arange(12), 2, 1)
    expected = 20_000 * np.append(shares, 1 - shares.sum())
    assert stats.chisquare(sizes, expected).pvalue > 0.01
    assert stats.binomtest((noise > 0).sum(), (noise != 0).sum()).pvalue > 0.01
    with pytest.raises(TypeError, match="no rows"):
        Counts(0.5).protect(np.eye(2), 0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Noise(0.0), "sigma is 0.0"),
        (lambda: Noise(np.inf), "positive number"),
        (lambda: Rotation(-1.0), "sigma is -1.0"),
        (lambda: ScaleAndPerturb(np.nan), "beta is nan"),
        (lambda: Quantised("f16"), "choose one of i8, b1"),
        (lambda: Counts(0.0), "epsilon is 0.0"),
        (lambda: Counts(-np.inf), "epsilon is -inf"),
        (lambda: Shares(2), "server is 2"),
    ],
)
def test_settings_out_of_bounds_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_plain_is_plain():
    rows = skewed(5, 3)
    assert Undefended().protect(rows, 0).held is rows
