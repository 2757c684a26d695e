"""Noise on the sum, and on each update: sensitivity, spread, and a clip that follows a quantile."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fedlab.core.settings import described
from fedlab.device.states import DeviceStates
from fedlab.privacy.noise import continuous_gaussian
from fedlab.updates import (
    Chain,
    ChainError,
    DistributedNoise,
    FixedPoint,
    LocalNoise,
    PrivateMean,
    Updates,
)
from fedlab.updates.stages import At, Rowwise

DRAW = np.random.default_rng(0)


def sent(**blocks: Any) -> Updates:
    count = len(next(iter(blocks.values())))
    return Updates(np.arange(count), blocks, np.ones(count), {})


def summed(mean: PrivateMean, clip: float, updates: Updates) -> dict[str, Any]:
    chain, sums = Chain((), mean), dict[str, Any]()
    chain.fold(sums, mean.bounded(clip, updates))
    return sums


@pytest.mark.parametrize("source", ["system", "simulated"])
def test_floating_noise_is_gaussian(source: str) -> None:
    own = {} if source == "system" else {"source": np.random.default_rng(3).bytes}
    found = continuous_gaussian(2.0, 20_001, **own)
    # A right sampler fails this once in a million runs.
    assert stats.kstest(found, stats.norm(scale=2.0).cdf).pvalue > 1e-6
    assert len(found) == 20_001


def test_no_device_moves_the_sum_by_more_than_the_clip_over_all_blocks() -> None:
    """Add a device: whatever it sends, in however many blocks."""
    mean = PrivateMean(clip=0.7, noise_multiplier=1.0, delta=1e-5)
    few = {name: DRAW.normal(size=(6, n)).astype("f4") for name, n in (("change", 9), ("c", 4))}
    for scale in (1e-3, 1.0, 1e30):
        more = {n: np.vstack([b, scale * np.ones((1, b.shape[1]), "f4")]) for n, b in few.items()}
        before, after = summed(mean, 0.7, sent(**few)), summed(mean, 0.7, sent(**more))
        moved = math.sqrt(sum(np.square(after[n] - before[n]).sum() for n in few))
        assert moved <= 0.7 * (1 + 1e-12)
        assert moved == pytest.approx(min(0.7, scale * math.sqrt(13)), rel=1e-6)


@pytest.mark.parametrize("part", [PrivateMean, LocalNoise])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_device_with_nan_sends_zeros(part: Any, odd: float) -> None:
    blocks = {"change": np.array([[1.0, odd], [0.3, 0.4]]), "c": np.ones((2, 1)) * 0.0}
    private = part(clip=1.0, noise_multiplier=1e-9, delta=1e-5)
    if part is PrivateMean:
        np.testing.assert_allclose(summed(private, 1.0, sent(**blocks))["change"], [0.3, 0.4])
    else:
        noised = private.apply({}, sent(**blocks), DeviceStates(), At(0, 1))[0]
        np.testing.assert_allclose(noised.blocks["change"], [[0, 0], [0.3, 0.4]], atol=1e-7)


def test_noise_is_that_of_the_sum_over_the_expected_number_whoever_came() -> None:
    mean = PrivateMean(clip=0.5, noise_multiplier=3.0, delta=1e-5)
    for came in (0, 4):
        sums = summed(mean, 0.5, sent(change=np.ones((came, 50_000))))
        release, clip = mean.release(0.5, sums, 8.0, At(0, 1))
        each = came * 0.5 / math.sqrt(50_000) / 8.0
        assert clip == 0.5
        # Four standard errors.
        assert release["change"].std() == pytest.approx(3.0 * 0.5 / 8, rel=4 / math.sqrt(1e5))
        assert abs(release["change"].mean() - each) < 4 * 3.0 * 0.5 / 8 / math.sqrt(50_000)


def test_noise_is_new_each_time_unless_simulated() -> None:
    sums = {"change": np.zeros(3)}
    real = PrivateMean(1.0, 1.0, delta=1e-5)
    assert (real.release(1.0, sums, 1, At(0, 1))[0]["change"] != 0).all()
    once, again = (real.release(1.0, sums, 1, At(0, 1))[0]["change"] for _ in range(2))
    assert not np.array_equal(once, again)
    model = PrivateMean(1.0, 1.0, delta=1e-5, simulated=True)
    once, again, later = (
        model.release(1.0, sums, 1, At(0, n))[0]["change"].tolist() for n in (1, 1, 2)
    )
    assert once == again != later
    assert "seed" not in described(model)


def test_the_clip_follows_the_quantile_and_z_holds_for_update_and_count_together() -> None:
    """Andrew et al., algorithm 1 and theorem 1."""
    mean = PrivateMean(
        1.0, 1.5, delta=1e-5, quantile=0.8, count_noise=1.0, clip_rate=0.5, simulated=True
    )
    count, z = mean.counting(100.0)
    assert count == 1.0
    assert z**-2 + (2 * count) ** -2 == pytest.approx(1.5**-2)
    lengths = np.linspace(0.1, 10.0, 4000)
    updates, clip = sent(change=lengths[:, None]), 1.0
    for number in range(1, 60):
        sums = summed(mean, clip, updates)
        means, clip = mean.release(clip, sums, 4000.0, At(0, number))
        assert set(means) == {"change"}
    assert clip == pytest.approx(np.quantile(lengths, 0.8), rel=0.02)
    one = summed(mean, 1.0, sent(change=np.array([[0.5], [3.0], [4.0]])))
    assert one["within"].tolist() == [-0.5]
    _, after = mean.release(1.0, one, 1e9, At(0, 1))  # noise over 1e9 is nothing
    assert after == pytest.approx(math.exp(-0.5 * (0.5 - 0.8)))


def test_a_count_that_tells_too_much_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has noise 0\.5, and must have more.*= 0\.5; give"):
        PrivateMean(1.0, 1.0, delta=1e-5, quantile=0.5).counting(10.0)


def test_local_noise_is_each_devices_own_and_after_its_clip() -> None:
    stage = LocalNoise(2.0, 0.5, delta=1e-5, simulated=True)
    updates = sent(change=np.full((3, 40_000), 0.1), c=np.zeros((3, 4)))
    noised = stage.apply({}, updates, DeviceStates(), At(0, 1))[0].blocks
    clipped = 0.1 * 2.0 / 20.0
    errors = noised["change"] - clipped
    assert errors.std() == pytest.approx(1.0, rel=4 / math.sqrt(2 * 120_000))
    assert abs(np.corrcoef(errors)[0, 1]) < 4 / math.sqrt(40_000)
    assert (noised["c"] != 0).all()
    alone = Updates(np.array([2]), {n: b[2:] for n, b in updates.blocks.items()}, np.ones(1), {})
    again = stage.apply({}, alone, DeviceStates(), At(0, 1))[0].blocks["change"]
    np.testing.assert_array_equal(again[0], noised["change"][2])


class Hides(Rowwise):
    takes = frozenset({"rows"})

    def apply(self, state: Any, sent: Updates, kept: DeviceStates, at: At) -> Any:
        return sent, state, kept


def test_what_can_not_be_clipped_is_refused() -> None:
    mean = PrivateMean(1.0, 1.0, delta=1e-5)
    with pytest.raises(
        ChainError, match="PrivateMean needs each device's own numbers, which Hides"
    ):
        Chain((Hides(),), mean)
    with pytest.raises(TypeError, match="no sum without noise"):
        mean.done(np.zeros(1), 1.0)
    weighed = Updates(np.arange(1), {"a": np.ones((1, 1))}, np.ones(1), {}, {"a": np.ones(1)})
    with pytest.raises(ValueError, match=r"\['a'\] have weights"):
        mean.bounded(1.0, weighed)
    for given, says in (
        ({"clip": 0.0}, "clip is 0.0"),
        ({"noise_multiplier": 0.0}, "noise_multiplier is 0.0"),
        ({"delta": 1.0}, "delta is 1.0"),
        ({"adversary": "god"}, "no adversary is called 'god'"),
        ({"quantile": 1.0}, "quantile is 1.0"),
    ):
        with pytest.raises(ValueError, match=says):
            PrivateMean(**{"clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-5, **given})


# -- noise that devices share ---------------------------------------------------------------------


def shared(**given: Any) -> DistributedNoise:
    settings = {"clip": 0.7, "noise_multiplier": 2.0, "delta": 1e-5, "survivors": 8}
    return DistributedNoise(**{**settings, "simulated": True, **given})


def whole(part: DistributedNoise, updates: Updates, monkeypatch: Any) -> dict[str, Any]:
    """What devices send but for the noise."""
    with monkeypatch.context() as without:
        without.setattr("fedlab.updates.private.discrete_gaussian", lambda s, n, _: np.zeros(n))
        return dict(part.apply({}, updates, DeviceStates(), At(0, 1))[0].blocks)


@pytest.mark.parametrize("bits", [12, 24, 30])
def test_no_update_is_longer_than_the_clip_in_whole_numbers(bits: int, monkeypatch: Any) -> None:
    """Exactly, in whole numbers: what is cut off makes none longer, however many numbers."""
    part = shared(bits=bits)
    for scale in (1e-4, 1.0, 1e20):
        blocks = {
            n: scale * DRAW.normal(size=(10, k)).astype("f4") for n, k in (("a", 999), ("b", 3))
        }
        blocks["a"][0] = 0
        updates = Updates(np.arange(10), blocks, np.full(10, 0.1), {})
        made = whole(part, updates, monkeypatch)
        most = 0.1 * 0.7 / part.step
        for row in range(10):
            square = sum(int(v) ** 2 for block in made.values() for v in block[row])
            assert square <= most**2
        if scale == 1 and bits > 12:
            assert math.sqrt(square) > 0.99 * most
        lengths = np.linalg.norm(np.hstack([*blocks.values()]).astype("f8"), axis=1)
        exact = blocks["a"] * (0.7 / np.maximum(lengths, 0.7) * 0.1 / part.step)[:, None]
        assert (np.abs(made["a"] - exact) <= 1 + 1e-6 * most).all()


@pytest.mark.parametrize("bits", [8, 16, 24, 30])
@pytest.mark.parametrize("z", [0.1, 1.0, 30.0])
@pytest.mark.parametrize(("survivors", "colluders"), [(1, 0), (8, 3), (1000, 0)])
def test_twelve_deviations_and_the_clip_never_wrap(
    bits: int, z: float, survivors: int, colluders: int
) -> None:
    part = shared(bits=bits, noise_multiplier=z, survivors=survivors, colluders=colluders)
    for came in (survivors, 2 * survivors):
        weight, half = 1 / came, 2.0 ** (bits - 2)
        room = weight * 0.7 / part.step + 12 * weight * z * 0.7 / part.step / math.sqrt(part.honest)
        assert room <= weight * half
        if bits > 8 or z == 1:
            assert room > weight * half / 2.01
        width = float(part.deviation(weight))
        want = z * weight * 0.7 / part.step / math.sqrt(part.honest)
        assert want <= width <= want + (1 / 16 if want <= 255 else 1)


def test_the_fewest_survivors_less_colluders_have_all_of_the_noise_together(
    monkeypatch: Any,
) -> None:
    part = shared(survivors=6, colluders=2)
    updates = Updates(
        np.arange(6), {"change": DRAW.normal(size=(6, 30_000))}, np.full(6, 1 / 6), {}
    )
    noised = part.apply({}, updates, DeviceStates(), At(0, 1))[0].blocks["change"]
    each = (noised - whole(part, updates, monkeypatch)["change"]) * part.step
    total = each[2:].sum(axis=0)
    assert total.std() == pytest.approx(2.0 * 0.7 / 6, rel=4 / math.sqrt(60_000))
    assert abs(total.mean()) < 4 * total.std() / math.sqrt(30_000)
    assert np.abs(np.corrcoef(each) - np.eye(6)).max() < 5 / math.sqrt(30_000)
    steps = each[0] / part.step
    assert (steps == np.rint(steps)).all()
    # Its own, whoever else is there, and new each round; the system's by default.
    alone = Updates(np.array([2]), {"change": updates.blocks["change"][2:3]}, np.full(1, 1 / 6), {})
    again, later = (
        part.apply({}, alone, DeviceStates(), At(0, n))[0].blocks["change"][0] for n in (1, 2)
    )
    np.testing.assert_array_equal(again, noised[2])
    assert (again != later).mean() > 0.99
    real = shared(survivors=6, simulated=False)
    once, twice = (
        real.apply({}, alone, DeviceStates(), At(0, 1))[0].blocks["change"] for _ in "ab"
    )
    assert (once != twice).mean() > 0.99


def test_a_device_with_nan_sends_noise_alone(monkeypatch: Any) -> None:
    blocks = {"a": np.array([[1.0, np.nan], [0.3, 0.4]])}
    updates = Updates(np.arange(2), blocks, np.full(2, 0.5), {})
    np.testing.assert_array_equal(whole(shared(), updates, monkeypatch)["a"][0], [0, 0])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"clip": 0.0}, "clip is 0.0"),
        ({"survivors": 0}, "survivors is 0"),
        ({"colluders": 8}, "colluders is 8; it must be .* at most 7"),
        ({"bits": 31}, "bits is 31; .* at most 30"),
        ({"epsilon": -1.0}, "epsilon is -1.0"),
    ],
)
def test_settings_of_shared_noise_that_are_none_are_refused(given: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        shared(**given)
    assert shared(bits=24).step == FixedPoint(0.7 * (1 + 24 / math.sqrt(8)), 24).step
