"""Attacks succeed where nothing protects, and have no more than chance where nothing leaks."""

from dataclasses import dataclass

import numpy as np
import pytest

from fedlab.leaks import (
    Counts,
    KnownPairs,
    Linkage,
    Membership,
    Noise,
    Quantised,
    Rotation,
    ScaleAndPerturb,
    Shares,
    Trilateration,
    Undefended,
)
from fedlab.leaks.defences import Defence, Seen
from tests.leaks.clouds import independent, measured, scene, skewed

ALL = (
    Linkage(),
    KnownPairs((8, 64)),
    Trilateration(),
    Trilateration(top=10),
    Membership(),
)


@dataclass(frozen=True)
class Unrelated(Defence):
    """Rows that have nothing to do with the true ones: what no attack can win against."""

    name, kind, holder_sees = "unrelated", "a test's", "nothing"
    secret_axes = True

    def protect(self, vectors, seed, part=1):
        rows = independent(*vectors.shape, seed=1000 * seed + part)
        return Seen(rows, rows)


@pytest.mark.parametrize("defence", [Undefended(), Rotation(), ScaleAndPerturb(1e-6)])
@pytest.mark.parametrize("attack", ALL, ids=str)
def test_everything_falls_where_distances_are_kept(defence, attack):
    for (_, metric), found in measured(attack, scene(defence)).items():
        if metric == "recovery, 8 pairs" and isinstance(defence, Rotation):
            assert found.chance < found.value < 0.999  # 8 pairs do not determine 12 axes
        else:
            assert found.value > 0.999, metric


def near_chance(found, rows):
    """Within three or four standard errors of chance, by what kind of number it is."""
    if found.metric == "linkage":
        return found.value <= found.chance + 4 * np.sqrt(found.chance / rows)
    if found.metric == "membership":
        return abs(found.value - 0.5) < 4 * np.sqrt(1 / 6 / rows)
    return found.value < found.chance + 0.03


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("attack", ALL, ids=str)
def test_nothing_is_found_in_unrelated_rows(attack, seed):
    for found in measured(attack, scene(Unrelated(), seed=seed)).values():
        assert near_chance(found, 400), found


@pytest.mark.parametrize("server", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_one_server_s_share_tells_nothing_and_the_asker_s_distances_everything(server, seed):
    where = scene(Shares(server), seed=seed)
    for attack in ALL:
        for (who, metric), found in measured(attack, where).items():
            if who == "holder":
                assert near_chance(found, 400), (metric, found)
            else:
                assert found.value > 0.99, (metric, found)


@pytest.mark.parametrize("defence", [Undefended(), ScaleAndPerturb(0.5), Rotation()])
def test_a_link_names_the_row_s_place_though_the_pool_is_shuffled(defence):
    where = scene(defence)
    linked, missed = Linkage().link(where)
    assert (linked == np.arange(400)).mean() > 0.97
    assert not (where.pool[1][:400] == np.arange(400)).all()
    assert missed.max() < 0.2


def test_axes_that_never_vary_do_not_stop_an_attack():
    # As in images, where some pixels are always black: covariances have no inverse.
    vectors = np.hstack([skewed(820, 10), np.zeros((820, 4))])
    for defence in (Undefended(), Rotation(), Noise(0.5)):
        for attack in ALL:
            found = measured(attack, scene(defence, vectors)).values()
            assert all(np.isfinite(each.value) for each in found)
            if not isinstance(defence, Noise):
                assert max(each.value for each in found) > 0.99


def test_chance_is_what_guessing_gives():
    where = scene(Undefended())
    found = measured(Linkage(), where)
    assert found["holder", "linkage"].chance == 1 / 800
    mean = where.outside.mean(axis=0)
    expected = where.inside @ mean / np.linalg.norm(mean)
    assert found["holder", "recovery, 0 pairs"].chance == pytest.approx(expected.mean())


def test_more_noise_leaves_less():
    for make in (Noise, Rotation, ScaleAndPerturb):
        strengths = (0.1, 1.0, 3.0) if make is not ScaleAndPerturb else (0.4, 4.0, 12.0)
        for attack in ALL:
            values = [measured(attack, scene(make(strength))) for strength in strengths]
            for key in values[0]:
                first, *_, last = (found[key].value for found in values)
                assert first > last, (make, key)


def test_distances_of_the_top_k_suffice_but_rounded_ones_lose_something():
    fine, coarse = (
        measured(Trilateration(top=5, decimals=decimals), scene(Undefended()))
        for decimals in (6, 1)
    )
    [(name, exact)], [(_, rounded)] = fine.items(), coarse.items()
    assert name == ("asker", "trilateration, top 5, 6 decimals")
    assert exact.value > 0.999 > rounded.value > rounded.chance


def test_more_places_than_rows_show_all_rows():
    [found] = Trilateration(top=5_000, targets=3).measure(scene(Undefended()))
    assert found.value > 0.999


def test_a_row_that_is_never_in_sight_is_not_recovered():
    # The attacker's queries lie far out, where other rows are nearer than one at the centre.
    vectors = skewed(420, 6)
    vectors[20] *= 0.01
    vectors[220:] *= 5
    where = scene(Undefended(), vectors)
    [found] = Trilateration(top=1, targets=1).measure(where)
    assert found.value == pytest.approx(found.chance, abs=1e-9)
    assert found.chance < 0.99


def test_membership_of_noisy_counts_is_what_laplace_noise_allows():
    # P(1 + L > L') + P(1 + L = L') / 2 for independent discrete Laplace noise of scale 1/eps.
    vectors = skewed(4020, 6)
    for epsilon in (0.5, 1.0, 3.0):
        [found] = Membership().measure(scene(Counts(epsilon), vectors))
        expected = 1 / (1 + np.exp(-epsilon))
        assert found.value == pytest.approx(expected, abs=0.05)
    [exact] = Membership().measure(scene(Counts(np.inf), vectors))
    assert exact.value == 1.0


def test_one_bit_a_number_still_links_rows():
    found = measured(Linkage(), scene(Quantised("b1"), skewed(820, 64)))
    assert found["holder", "linkage"].value > 0.9


def test_too_many_pairs_and_bad_settings_are_refused():
    with pytest.raises(ValueError, match="400 known pairs were asked for, of 400 rows"):
        list(KnownPairs((400,)).measure(scene(Undefended())))
    with pytest.raises(ValueError, match="pairs is 1"):
        KnownPairs((1,))
    with pytest.raises(ValueError, match="top is 0"):
        Trilateration(top=0)
    with pytest.raises(ValueError, match="decimals is 16"):
        Trilateration(decimals=16)
