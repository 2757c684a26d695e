"""What attackers send: values of the papers and of byzfl, who they are, and what stays as it is."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab.device.poison import LabelFlip
from fedlab.device.states import DeviceStates
from fedlab.updates import Chain, ChainError, ClipNorm, ErrorFeedback, TopK, Updates
from fedlab.updates.attacks import (
    ALIE,
    IPM,
    FreeRider,
    GaussianAttack,
    MinMax,
    SignFlip,
    z_max,
)
from fedlab.updates.stages import At
from tests.federations import class_device
from tests.updates.test_robust import ROWS

DEVICES = [class_device(n, [0, 1]) for n in range(11)]
LIARS = [9, 10]
ATTACKS = (SignFlip, GaussianAttack, FreeRider, IPM, ALIE, MinMax)
each = pytest.mark.parametrize("attack", ATTACKS)


def updates(rows=ROWS, places=None, **others):
    places = np.arange(len(rows)) if places is None else np.asarray(places)
    blocks = {"change": rows, **others}
    return Updates(places, blocks, np.full(len(rows), 1 / len(rows)), {"rows": places + 1})


def attacked(stage, sent=None, seed=0, number=1, devices=DEVICES):
    sent = updates() if sent is None else sent
    after, _, _ = stage.apply(stage.init(4), sent, DeviceStates(), At(seed, number, devices))
    return after


# -- values ---------------------------------------------------------------------------------------


def test_how_far_a_little_is_enough_reaches():
    assert z_max(25, 5) == pytest.approx(0.2533, abs=5e-5)
    assert z_max(50, 24) == pytest.approx(1.4261, abs=5e-5)
    assert z_max(2, 1) == z_max(9, 0) == 0.0  # nobody could vouch; nobody has to be won over
    assert np.isfinite(z_max(10, 9))


def test_values_are_those_of_byzfl():
    """byzfl 0.0.11: InnerProductManipulation(1.1) and ALittleIsEnough(1.5) of the honest nine."""
    ipm = [0.468111111111, -1.178222222222, -0.102666666667, -0.342222222222]
    alie = [0.868408798668, 2.143596542248, 13.033626510074, 0.408450722781]
    for stage, expected in ((IPM(LIARS, tau=1.1), ipm), (ALIE(LIARS, z=1.5), alie)):
        for row in attacked(stage).blocks["change"][LIARS]:
            np.testing.assert_allclose(row, expected, atol=1e-11)
    three = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 0]])
    given = attacked(ALIE([3], z=1.5), updates(three)).blocks["change"]
    np.testing.assert_allclose(given[3], [8.5, 9.5, 10.5], rtol=1e-15)


def test_alie_counts_the_cohort_and_its_attackers():
    draw = np.random.default_rng(0)
    rows, devices = draw.normal(size=(25, 3)), [class_device(n, [0]) for n in range(25)]
    given = attacked(ALIE(range(5)), updates(rows), devices=devices).blocks["change"]
    expected = rows[5:].mean(axis=0) + z_max(25, 5) * rows[5:].std(axis=0, ddof=1)
    np.testing.assert_allclose(given[:5], np.tile(expected, (5, 1)), rtol=1e-12)


def test_a_flipped_sign_and_a_free_ride():
    given = attacked(SignFlip(LIARS, scale=3.0)).blocks["change"]
    np.testing.assert_array_equal(given[LIARS], -3 * ROWS[LIARS])
    assert not attacked(FreeRider(LIARS)).blocks["change"][LIARS].any()


@pytest.mark.parametrize("seed", range(5))
def test_min_max_goes_as_far_as_its_constraint_lets_it_over_all_blocks(seed):
    draw = np.random.default_rng(seed)
    sent = updates(draw.normal(size=(11, 30)), buffers=5 * draw.normal(size=(11, 7)))
    after = attacked(MinMax(LIARS), sent)

    def vectors(one):
        return np.concatenate([one.blocks["change"], one.blocks["buffers"]], axis=1)

    honest, forged = vectors(sent)[:9], vectors(after)[9]
    between = np.linalg.norm(honest[:, None] - honest[None], axis=2).max()
    assert np.linalg.norm(honest - forged, axis=1).max() == pytest.approx(between, rel=1e-12)
    # On the line from the mean against the standard deviation, on the far side.
    away, std = forged - honest.mean(axis=0), honest.std(axis=0, ddof=1)
    np.testing.assert_allclose(away / std, away[0] / std[0], rtol=1e-9)
    assert away[0] < 0


def test_noise_has_its_scale_and_fades():
    wide = np.zeros((11, 20000))
    for stage, number, std in (
        (GaussianAttack(LIARS, std=3.0), 7, 3.0),
        (FreeRider(LIARS, std=2.0, decay=1.0), 4, 0.5),
    ):
        given = attacked(stage, updates(wide), number=number).blocks["change"][LIARS]
        np.testing.assert_allclose(given.std(axis=1), std, rtol=0.03)
        assert abs(np.corrcoef(given)[0, 1]) < 0.05


# -- who, and what stays --------------------------------------------------------------------------


@each
def test_honest_rows_and_what_devices_tell_stay_as_they_are(attack):
    sent = updates(ROWS.astype(np.float32), control=2 * ROWS)
    before = {name: block.copy() for name, block in sent.blocks.items()}
    after = attacked(attack(LIARS), sent)
    for name, block in after.blocks.items():
        assert block.dtype == before[name].dtype
        np.testing.assert_array_equal(block[:9], before[name][:9])
        np.testing.assert_array_equal(sent.blocks[name], before[name])
        assert (block[9:] != before[name][9:]).any()
    assert after.stats is sent.stats
    assert after.weights is sent.weights
    assert attacked(attack([]), sent) is sent


@each
def test_a_share_is_the_same_devices_in_all_rounds_and_cohorts(attack):
    changed = set()
    for number in range(1, 12):
        cohort = np.random.default_rng(number).permutation(11)[:5]
        sent = updates(ROWS[cohort] + 1, cohort)
        after = attacked(attack(0.3), sent, number=number).blocks["change"]
        changed |= set(cohort[(after != sent.blocks["change"]).any(axis=1)].tolist())
    assert len(changed) == 3  # of eleven, the nearest whole number
    seeds = {tuple(who_attacks(SignFlip(0.3), seed)) for seed in range(20)}
    assert len(seeds) > 10


def who_attacks(stage, seed):
    given = attacked(stage, updates(ROWS + 100), seed=seed).blocks["change"]
    return np.flatnonzero((given != ROWS + 100).any(axis=1)).tolist()


def test_all_and_nobody():
    assert who_attacks(SignFlip(1.0), 0) == list(range(11))
    assert who_attacks(SignFlip(0.0), 0) == []
    assert who_attacks(SignFlip({4}), 0) == [4]


@pytest.mark.parametrize("attack", [GaussianAttack, FreeRider])
def test_a_draw_depends_on_the_device_and_the_round_and_on_no_order(attack):
    stage = attack([2, 5, 7], std=1.0)
    whole = attacked(stage).blocks["change"]
    part = attacked(stage, updates(ROWS[[7, 1, 2]], [7, 1, 2])).blocks["change"]
    np.testing.assert_array_equal(part[[0, 2]], whole[[7, 2]])
    assert (attacked(stage, number=2).blocks["change"][2] != whole[2]).all()
    assert (attacked(stage, seed=1).blocks["change"][2] != whole[2]).all()


@each
def test_a_cohort_of_attackers_alone_sends_finite_numbers(attack):
    for places in ([9], [9, 10]):
        after = attacked(attack(LIARS), updates(ROWS[places], places))
        assert np.isfinite(after.blocks["change"]).all()


@pytest.mark.parametrize(
    ("who", "says"),
    [
        (1.5, "share is 1.5"),
        ("ward 3", "attackers are 'ward 3' .* a list of ids"),
        (3, "attackers are 3 .* as in 0.2"),
    ],
)
def test_who_is_a_share_or_names(who, says):
    with pytest.raises((ValueError, TypeError), match=says):
        SignFlip(who)
    with pytest.raises(ValueError, match="scale is -1; it must be zero or positive"):
        SignFlip(0.2, scale=-1)
    with pytest.raises(ValueError, match=r"not here: \['12', 'x'\]"):
        SignFlip([3, 12, "x"]).check(DEVICES)


@pytest.mark.parametrize("first", [ClipNorm(1.0), ErrorFeedback(TopK(0.1))])
def test_an_attack_behind_other_stages_is_refused(first) -> None:
    with pytest.raises(ChainError, match="put it before that one"):
        Chain((first, SignFlip(0.2)))
    assert len(Chain((SignFlip(0.2), FreeRider(0.1), first)).stages) == 3


def test_labels_beyond_the_classes_are_not_flipped() -> None:
    with pytest.raises(ValueError, match="labels from 0 to 9 can't be flipped within 3 classes"):
        LabelFlip(3)(np.zeros((2, 1)), np.array([0, 9]), np.random.default_rng(0))
    with pytest.raises(ValueError, match="classes"):
        LabelFlip(1)
