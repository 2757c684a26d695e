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
from fedlab.updates import Chain, ChainError, LocalNoise, PrivateMean, Updates
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
