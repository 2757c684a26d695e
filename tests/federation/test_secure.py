"""Secure sums as part of a federated run: exact, whoever drops out; hidden; refused where wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import stats

from fedlab import (
    Device,
    Federation,
    LinearRegression,
    LocalSGD,
    SoftmaxRegression,
    VectorIndex,
)
from fedlab.algorithms import AFL, by_name
from fedlab.core.randomness import address_of
from fedlab.device.profile import Profile
from fedlab.device.states import DeviceStates
from fedlab.fleet import Deadline
from fedlab.privacy.secure_aggregation import SummingServer
from fedlab.updates import (
    EF21,
    Cast,
    Chain,
    ChainError,
    ClipNorm,
    Context,
    CountSketch,
    ErrorFeedback,
    FixedPoint,
    Mean,
    RandomK,
    SecureSum,
    TopK,
    Updates,
)
from fedlab.updates.secure import SummedUnderMasks
from fedlab.updates.stages import At, Rowwise
from tests.federations import class_device, regression_device

DEVICES = [regression_device(n, rows=20 + 10 * n, inputs=3, seed=7) for n in range(6)]
FULL = LocalSGD(epochs=2, batch_size=None, learning_rate=0.05)
SECURE = (ClipNorm(4.0), FixedPoint(4.0), SecureSum())


def federation(**given: Any) -> Federation:
    settings = {"local": FULL, "parameters": np.zeros(4), "updates": SECURE} | given
    return Federation(DEVICES, LinearRegression(3), **settings)


@dataclass(frozen=True)
class Multiples(Rowwise):
    """What FixedPoint sends, read as numbers: the plain sum that a secure one must equal."""

    fixed: FixedPoint

    def apply(self, state: Any, sent: Updates, kept: Any, at: At) -> Any:
        after, state, kept = self.fixed.apply(state, sent, kept, at)
        blocks = {name: block * self.fixed.step for name, block in after.blocks.items()}
        return after.with_blocks(**blocks), state, kept


@pytest.mark.parametrize("weights", ["rows", "uniform", {n: 5.0**-n for n in range(6)}])
@pytest.mark.parametrize("bits", [16, 24, 31, 32])
def test_a_run_is_that_of_the_plain_mean_of_the_fixed_point_updates_to_the_bit(
    bits: int, weights: Any
) -> None:
    fixed = FixedPoint(4.0, bits)
    plain = federation(updates=(ClipNorm(4.0), Multiples(fixed)), weights=weights, cohort=4)
    secure = federation(updates=(ClipNorm(4.0), fixed, SecureSum()), weights=weights, cohort=4)
    free = federation(updates=[ClipNorm(4.0)], weights=weights, cohort=4)
    for _ in range(3):
        start = secure.parameters
        for one in (plain, secure, free):
            one.parameters = start
            one.round()
        assert secure.parameters.tobytes() == plain.parameters.tobytes()
        # Four devices, each rounded to half a step.
        np.testing.assert_allclose(secure.parameters, free.parameters, rtol=0, atol=2 * fixed.step)
    for name in ("rows", "train_loss", "update_norm", "devices"):
        ours, theirs = (one.history.series(name).to_numpy() for one in (secure, plain))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=name)


def test_bits_do_not_depend_on_threads_nor_on_keys_and_a_run_resumes_to_them(tmp_path: Any) -> None:
    drops = (ClipNorm(1.0), FixedPoint(1.0), SecureSum(0.51, drops=(0.2, 0.2)))

    def made(threads: int = 1) -> Federation:
        devices = [class_device(n, [0, 1, 2] * (2 + n)) for n in range(10)]
        model = SoftmaxRegression(4, 3)
        given: Any = {"updates": drops, "algorithm": "scaffold", "seed": 4, "threads": threads}
        return Federation(devices, model, **given)

    whole, other, first, second = made(), made(2), made(), made()
    whole.run(5)
    other.run(5)
    first.run_to(3, tmp_path / "run")
    second.run_to(5, tmp_path / "run")
    assert whole.history.series("devices").tolist() == [8.0] * 5
    for one in (other, second):
        assert one.parameters.tobytes() == whole.parameters.tobytes()
        assert one.history.to_frame().equals(whole.history.to_frame())


@pytest.mark.parametrize(
    "name", ["fedprox", "scaffold", "fednova", "feddyn", "qffl", "ditto", "apfl", "ifca", "fedadam"]
)
def test_algorithms_learn_what_they_learn_without_it(name: str) -> None:
    secure = federation(
        algorithm=by_name(name), updates=(ClipNorm(8.0), FixedPoint(8.0, 32), SECURE[2])
    )
    plain = federation(algorithm=by_name(name), updates=[ClipNorm(8.0)])
    for one in (secure, plain):
        one.run(3)
    assert np.abs(plain.parameters).max() > 0.01
    np.testing.assert_allclose(secure.parameters, plain.parameters, rtol=0, atol=2e-6)


def test_devices_that_drop_out_before_they_send_are_as_if_not_drawn_and_after_as_if_there() -> None:
    after = federation(updates=(*SECURE[:2], SecureSum(drops=(0, 0.3))))
    none = federation()
    for one in (after, none):
        one.run(3)
    assert after.parameters.tobytes() == none.parameters.tobytes()
    assert after.history.series("dropped").tolist() == [2.0] * 3
    assert none.history.last("dropped") == 0
    before = federation(updates=(*SECURE[:2], SecureSum(drops=(0.3, 0))))
    report = before.round()
    assert len(report.senders) == 4
    left = Federation(
        [DEVICES[place] for place in report.senders.tolist()],
        LinearRegression(3),
        **{"local": FULL, "parameters": np.zeros(4), "updates": SECURE},
    )
    left.round()
    np.testing.assert_array_equal(before.parameters, left.parameters)
    # Another round, other devices.
    assert before.round().senders.tolist() != report.senders.tolist()


class Faulty(Device):
    def training_rows(self) -> Any:
        raise OSError("its disk is gone")


def test_a_loss_too_large_for_the_sum_stops_no_run() -> None:
    huge = VectorIndex(4, "l2sq")
    huge.add(np.full((12, 4), 4e17), labels=[0, 1, 2] * 4)
    devices = [class_device(0, [0, 1, 2] * 4), Device(9, huge)]
    one = Federation(devices, SoftmaxRegression(4, 3), updates=SECURE)
    one.run(2)
    assert one.history.last("devices") == 2
    assert one.history.last("train_loss") > 2.0**33 / 24


def test_what_a_round_sets_aside_drops_out_and_is_recovered() -> None:
    devices = [class_device(n, [0, 1, 2] * 4) for n in range(5)]
    broken = Faulty(9, class_device(9, [0, 1, 2] * 4).index)
    given: Any = {"updates": (ClipNorm(1.0), FixedPoint(1.0), SecureSum()), "seed": 1}
    some = Federation([*devices, broken], SoftmaxRegression(4, 3), **given)
    rest = Federation(devices, SoftmaxRegression(4, 3), **given)
    with pytest.warns(UserWarning, match="left out"):
        some.run(2)
    rest.run(2)
    assert some.history.series("devices").tolist() == [5.0, 5.0]
    np.testing.assert_array_equal(some.parameters, rest.parameters)


def test_a_round_below_the_threshold_is_skipped_and_says_why() -> None:
    for drops in ((0.5, 0), (0, 0.5)):
        few = federation(updates=(*SECURE[:2], SecureSum(drops=drops)))
        before = few.parameters
        with pytest.warns(UserWarning, match=r"skipped: 3 .* 4 are needed"):
            few.run(1)
        np.testing.assert_array_equal(few.parameters, before)
        assert few.round_number == 1
        assert "train_loss" not in few.history.to_frame().metric.tolist()
        assert not len(few.round().senders)
    with pytest.warns(UserWarning, match="a sum over one device hides nothing"):
        federation(cohort=1).run(1)


def paced(slow: int, given: Any) -> Federation:
    devices = [class_device(n, [0, 1, 2] * 4) for n in range(6)]
    for device in devices:
        device.profile = Profile(bandwidth=1e6, compute=1.0 if device.id < slow else 1e9)
    return Federation(devices, SoftmaxRegression(4, 3), schedule=Deadline(5.0, 1.0), **given)


def test_who_is_late_has_exchanged_keys_and_is_recovered() -> None:
    fixed = FixedPoint(4.0)
    secure = paced(2, {"updates": (ClipNorm(4.0), fixed, SecureSum())})
    plain = paced(2, {"updates": (ClipNorm(4.0), Multiples(fixed))})
    for one in (secure, plain):
        with pytest.warns(UserWarning, match="late"):
            one.run(2)
    assert secure.parameters.tobytes() == plain.parameters.tobytes()
    told = secure.history.wide().loc[1]
    assert (told.devices, told.late, told.dropped) == (4, 2, 0)
    # Six have keys and shares of five others, four send 15 numbers and 2, and tell six shares.
    sent = 6 * (64 + 5 * 88) + 4 * (45 + 16) + 4 * 6 * 36
    assert told.bytes_up == sent + told.bytes_up_lost
    drops = paced(1, {"updates": (ClipNorm(4.0), fixed, SecureSum(0.51, drops=(0.2, 0)))})
    assert drops.round().measures["dropped"] == 1
    assert drops.round().measures["devices"] == 4


def test_a_round_in_which_too_many_are_late_is_skipped() -> None:
    for slow, says in ((3, r"3 neighbours came, and 4 are needed"), (6, "no usable update")):
        late = paced(slow, {"updates": SECURE})
        before = late.parameters
        report = late.round()
        assert [text for _, text in report.remarks if says in text]
        np.testing.assert_array_equal(late.parameters, before)
        assert report.measures["bytes_up"] >= 6 * (64 + 5 * 88)


def test_bytes_are_those_of_every_message() -> None:
    one, plain = (
        federation(updates=(*SECURE[:2], SecureSum(drops=(0.2, 0.2)))),
        federation(updates=()),
    )
    one.round()
    plain.round()
    told = one.history.wide().loc[1]
    # Five of six send 4 numbers of 3 bytes and 2 of 8, four tell six shares of 36 bytes.
    assert told.bytes_up == 6 * (64 + 5 * 88) + 5 * (12 + 16) + 4 * 6 * 36
    model = plain.history.last("bytes_down")
    assert told.bytes_down == model + 6 * 5 * (64 + 88) + 4 * 1
    assert one.history.last("seconds") > plain.history.last("seconds")


def test_the_server_is_given_words_that_are_uniform_whatever_devices_send(monkeypatch: Any) -> None:
    """What comes in over 200 rounds, of updates that lie within a few steps of zero."""
    views: list[Any] = []
    add = SummingServer.add
    monkeypatch.setattr(SummingServer, "add", lambda s, p, m: (views.append(m), add(s, p, m))[1])
    still = federation(local=LocalSGD(epochs=1, batch_size=None, learning_rate=1e-9), cohort=3)
    for _ in range(200):
        still.round()
    words = np.concatenate([masked[0] for masked in views])
    told = np.concatenate([masked[1] for masked in views])
    assert len(words) == 200 * 3 * 4
    assert words.max() < 2**24
    for place in (0, 8, 20):
        counts = np.bincount(words >> np.uint32(place) & 15, minlength=16)
        assert stats.chisquare(counts).pvalue > 1e-6
    for place in (0, 30, 60):
        counts = np.bincount((told >> np.uint64(place)).astype(int) & 15, minlength=16)
        assert stats.chisquare(counts).pvalue > 1e-6
    assert np.abs(still.parameters).max() < 1e-6


def summed(places: int, fixed: FixedPoint, **given: Any) -> SummedUnderMasks:
    return SummedUnderMasks(SecureSum(**given), fixed, np.arange(places), At(0, 1))


@pytest.mark.parametrize("weights", [[0.25] * 4, [0.97, 0.01, 0.01, 0.01]])
def test_the_largest_numbers_do_not_wrap_and_larger_ones_are_refused(weights: list[float]) -> None:
    for limit, sign in ((1.0, 1), (3.0, -1)):
        fixed = FixedPoint(limit, 16)
        block = np.full((4, 5), sign * limit)
        sent = Updates(np.arange(4), {"change": block}, np.array(weights), {})
        whole, _, _ = fixed.apply({}, sent, DeviceStates(), At(0, 1))
        one = summed(4, fixed)
        one.add(whole, {"rows": np.full(4, 1e9)})
        sums, told = one.done()
        np.testing.assert_allclose(sums["change"], sign * limit, atol=2 * fixed.step)
        assert told == {"rows": 4e9}
        larger = whole.with_blocks(change=whole.blocks["change"] * 8)
        with pytest.raises(ValueError, match="the sum could wrap; put a ClipNorm in front"):
            summed(4, fixed).add(larger, {"rows": np.ones(4)})
        with pytest.raises(ValueError, match="aren't whole"):
            summed(4, fixed).add(sent.with_blocks(change=block * 0.3), {"rows": np.ones(4)})
        with pytest.raises(ValueError, match="rows of some devices are too large"):
            summed(4, fixed).add(whole, {"rows": np.full(4, 1e10)})


def test_a_run_whose_sum_could_wrap_stops_before_anything_changes() -> None:
    one = federation(updates=(FixedPoint(1e-6), SecureSum()))
    before = one.parameters
    with pytest.raises(ValueError, match=r"FixedPoint\(limit=1e-06, bits=24\), so that the sum"):
        one.round()
    np.testing.assert_array_equal(one.parameters, before)
    assert one.round_number == 0


def test_few_neighbours_give_the_same_sum_with_less_to_send() -> None:
    devices = [class_device(n, [0, 1, 2]) for n in range(60)]

    def made(**given: Any) -> Federation:
        updates = (ClipNorm(1.0), FixedPoint(1.0), SecureSum(**given))
        one = Federation(devices, SoftmaxRegression(4, 3), updates=updates)
        one.round()
        return one

    everyone, eight, few = made(), made(neighbours=8), made(neighbours="few")
    for one in (eight, few):
        np.testing.assert_array_equal(one.parameters, everyone.parameters)
        assert one.history.last("bytes_up") < everyone.history.last("bytes_up")
    # A pair's cost: keys, two shares encrypted, a share told; and one's own share.
    per = 64 + 12 * 0 + 15 * 3 + 16 + 36
    assert eight.history.last("bytes_up") == 60 * (per + 8 * (88 + 36))


def test_codecs_in_front_and_whole_noise_in_between_go_with_it() -> None:
    """Noise that is known, so that the sum is: place p adds p steps to each number."""

    @dataclass(frozen=True)
    class Noise(Rowwise):
        needs: ClassVar[frozenset[str]] = frozenset({"rows", "integer"})

        def apply(self, state: Any, sent: Updates, kept: Any, at: At) -> Any:
            more = sent.places[:, None]
            blocks = {name: block + more for name, block in sent.blocks.items()}
            return sent.with_blocks(**blocks), state, kept

    fixed = FixedPoint(4.0)
    front = (ClipNorm(4.0), RandomK(3, shared=True))
    plain = federation(updates=(*front, Multiples(fixed)))
    secure = federation(updates=(*front, fixed, SecureSum()))
    noisy = federation(updates=(*front, fixed, Noise(), SecureSum()))
    for one in (plain, secure, noisy):
        one.round()
    assert secure.parameters.tobytes() == plain.parameters.tobytes()
    moved = np.sort(noisy.parameters - secure.parameters)
    np.testing.assert_array_equal(moved, np.array([0, 15, 15, 15]) * fixed.step)


HALF = RandomK(0.5, shared=True)


@pytest.mark.parametrize(
    "front",
    [
        [ClipNorm(4.0), HALF],
        [RandomK(0.5, shared=True, scaled=True), ClipNorm(4.0)],
        [ErrorFeedback(HALF), ClipNorm(4.0)],
        [HALF, RandomK(1.0, shared=True), ClipNorm(4.0)],
    ],
    ids=repr,
)
def test_random_places_are_summed_as_if_each_device_had_been_decoded(front: Any) -> None:
    fixed = FixedPoint(4.0)
    for algorithm in ("fedavg", "scaffold"):
        plain = federation(updates=(*front, Multiples(fixed)), algorithm=algorithm, cohort=4)
        secure = federation(updates=(*front, fixed, SecureSum()), algorithm=algorithm, cohort=4)
        for one in (plain, secure):
            one.run(5)
        # Lengths are summed over fewer numbers, in another order: a step may go the other way.
        step = 5 * 4 * fixed.step
        np.testing.assert_allclose(secure.parameters, plain.parameters, rtol=0, atol=step)
        assert np.count_nonzero(secure.parameters) == 4


def test_sketches_are_decoded_once_after_the_sum() -> None:
    """Against the definition: the sketch of each device's update, summed, then read."""
    sketch, fixed = CountSketch(3, lines=3, keep=2), FixedPoint(8.0, 32)
    one = federation(updates=(sketch, ClipNorm(8.0), fixed, SecureSum()), weights="uniform")
    one.round()
    at = Context(4, np.dtype("f8"), part=address_of("change at 0"))
    changes = []
    for device in DEVICES:
        alone = Federation([device], LinearRegression(3), local=FULL, parameters=np.zeros(4))
        alone.round()
        changes.append(alone.parameters)
    total = np.sum([sketch.code(change, at)[0] for change in changes], axis=0) / 6
    each = np.mean([sketch.expand(sketch.code(change, at), at) for change in changes], axis=0)
    np.testing.assert_allclose(one.parameters, sketch.expand((total,), at), atol=6 * fixed.step)
    assert np.abs(one.parameters - each).max() > 1e-3
    assert np.count_nonzero(one.parameters) == 2


def test_only_messages_are_masked_and_counted() -> None:
    devices = [class_device(n, [0, 1, 2] * 4) for n in range(4)]
    keys = 4 * (64 + 3 * 88) + 4 * 4 * 36 + 4 * 16
    for front, numbers in (
        ([], 15),
        ([RandomK(5, shared=True)], 5),
        ([CountSketch(2, lines=3)], 6),
    ):
        updates = [*front, ClipNorm(1.0), FixedPoint(1.0), SecureSum()]
        one = Federation(devices, SoftmaxRegression(4, 3), updates=updates)
        one.round()
        assert one.history.last("bytes_up") == keys + 4 * 3 * numbers


def test_what_a_device_does_not_send_is_zeros_in_the_sum() -> None:
    """Clusters of IFCA: the server must not see by widths or bytes who is in which."""
    updates = [HALF, ClipNorm(8.0), FixedPoint(8.0), SecureSum()]
    secure = federation(algorithm=by_name("ifca"), updates=updates, local=FULL)
    plain = federation(algorithm=by_name("ifca"), updates=[HALF, ClipNorm(8.0)], local=FULL)
    for one in (secure, plain):
        one.run(3)
    np.testing.assert_allclose(secure.parameters, plain.parameters, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "codec", [TopK(0.5), Cast(), RandomK(0.5), ErrorFeedback(TopK(1)), EF21(HALF)]
)
def test_codecs_whose_messages_do_not_add_up_are_refused(codec: Any) -> None:
    says = rf"SecureSum needs .* {type(codec).__name__} takes away; take RandomK\(shared=True\), by"
    with pytest.raises(ChainError, match=says):
        federation(updates=(codec, *SECURE))


def test_feedback_under_masks_resumes_to_the_same_bits(tmp_path: Any) -> None:
    def made() -> Federation:
        masks = FixedPoint(4.0), SecureSum(0.51, drops=(0.2, 0.2))
        return federation(updates=(ErrorFeedback(HALF), ClipNorm(4.0), *masks), seed=3)

    whole, first, second = made(), made(), made()
    whole.run(5)
    first.run_to(3, tmp_path / "run")
    second.run_to(5, tmp_path / "run")
    assert second.parameters.tobytes() == whole.parameters.tobytes()
    assert second.history.to_frame().equals(whole.history.to_frame())


def test_whole_numbers_without_a_step_are_refused_before_anything_changes() -> None:
    @dataclass(frozen=True)
    class Whole(Rowwise):
        gives: ClassVar[frozenset[str]] = frozenset({"integer"})

        def apply(self, state: Any, sent: Updates, kept: Any, at: At) -> Any:
            return sent, state, kept

    one = federation(updates=[Whole(), SecureSum()])
    with pytest.raises(TypeError, match=r"the stage that makes whole numbers .* no bits, step"):
        one.round()
    assert one.round_number == 0


@dataclass(frozen=True)
class Median:
    needs: ClassVar[frozenset[str]] = frozenset({"rows"})

    def begin(self, size: int) -> Any:
        return []

    def add(self, held: Any, block: Any, weights: Any) -> Any:
        return [*held, block]

    def done(self, held: Any, share: float) -> Any:
        return np.median(np.concatenate(held), axis=0)


@dataclass(frozen=True)
class Other(Mean):
    needs: ClassVar[frozenset[str]] = frozenset({"linear"})


@pytest.mark.parametrize(
    ("stages", "aggregator", "says"),
    [
        ([ClipNorm(1.0), SecureSum()], Mean(), "SecureSum needs whole numbers; put a stage before"),
        (SECURE, Median(), r"Median needs each device's own numbers, which SecureSum takes away"),
        ([*SECURE, Cast()], Mean(), "Cast needs .*, which SecureSum takes away; put it before"),
        ([FixedPoint(1.0)], Mean(), "Mean needs blocks whose .*, which FixedPoint takes away"),
        (
            [FixedPoint(1.0), ClipNorm(1.0), SecureSum()],
            Mean(),
            "SecureSum needs whole numbers; .* which ClipNorm takes away",
        ),
        (SECURE, Other(), "SecureSum adds up itself; leave out aggregator="),
    ],
)
def test_what_makes_no_sense_with_it_is_refused(stages: Any, aggregator: Any, says: str) -> None:
    with pytest.raises(ChainError, match=says):
        Chain(tuple(stages), aggregator)


def test_what_reads_single_devices_is_refused() -> None:
    with pytest.raises(ChainError, match="AFL reads places, loss_at_start of each device, which"):
        federation(algorithm=AFL())
    with pytest.raises(ChainError, match="SecureSum hides single devices' numbers; take record="):
        federation(record="devices")
    told = federation(updates=[*SECURE]).round()
    assert "drift" not in told.measures
    assert not told.devices


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: FixedPoint(0.0), "limit is 0.0; it must be a positive number"),
        (lambda: FixedPoint(1.0, 33), "bits is 33; .* at most 32"),
        (lambda: SecureSum(0.5), "threshold is 0.5; it must be above 1/2"),
        (lambda: SecureSum(neighbours=1), "neighbours .* is 1; it must be a whole number"),
        (lambda: SecureSum(drops=(0.7, 0.5)), "together is 1.2"),
    ],
)
def test_settings_that_are_none_are_refused(made: Any, says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        made()
