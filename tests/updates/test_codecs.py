"""Codecs: bytes that are sent are those that are counted, and decode to what is passed on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedlab.core.randomness import address_of
from fedlab.device.states import DeviceStates
from fedlab.models.base import Layout
from fedlab.updates import (
    EF21,
    QSGD,
    Cast,
    Chain,
    ChainError,
    ClipNorm,
    Codec,
    Context,
    CountSketch,
    Drive,
    Eden,
    ErrorFeedback,
    LowRank,
    RandomK,
    Sign,
    TernGrad,
    TopK,
    Updates,
)
from fedlab.updates.codecs import fitted
from fedlab.updates.entropy import Symbols
from fedlab.updates.stages import At

CODECS: list[Codec] = [
    TopK(0.1),
    TopK(1.0),
    TopK(1),
    RandomK(0.1),
    RandomK(3, scaled=True),
    RandomK(0.5, shared=True),
    QSGD(),
    QSGD(127, "max"),
    QSGD(3, bucket=8),
    TernGrad(),
    Sign(),
    Sign(step=0.01),
    Drive(),
    Drive(unbiased=False),
    Eden(2),
    Eden(6, unbiased=False),
    CountSketch(),
    CountSketch(7, lines=3, keep=0.1),
    LowRank(),
    LowRank(1),
    Cast(),
    Cast("bf16"),
    Cast("i8"),
]
SHAPES = ((5, 4), (3,), (2, 3, 2), (1, 1))


def layout_of(size: int) -> Layout:
    """As many of some shapes as fit, and a vector."""
    shapes, left = [], size
    for shape in SHAPES:
        if np.prod(shape) <= left:
            shapes.append((f"part {len(shapes)}", shape))
            left -= int(np.prod(shape))
    return Layout((*shapes, ("rest", (left,))))


def updates(rows: Any) -> Updates:
    """Rows of the block `change`, from devices at places that are no range."""
    count = len(rows)
    places = 3 * np.arange(count)
    layouts = {"change": layout_of(rows.shape[1])}
    return Updates(places, {"change": rows}, np.ones(count), {}, layouts=layouts)


def context(sent: Updates, row: int, at: At) -> Context:
    block = sent.blocks["change"]
    return Context(
        block.shape[1],
        block.dtype,
        at.seed,
        at.round,
        int(sent.places[row]),
        address_of(f"change at {at.stage}"),
        sent.layouts["change"],
    )


NUMBERS = {
    kind: st.floats(width=width, allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -0.0, float(info.max), float(info.min), float(info.smallest_subnormal)])
    for kind, width, info in (
        (np.float32, 32, np.finfo(np.float32)),
        (np.float64, 64, np.finfo(np.float64)),
    )
}


@st.composite
def blocks(draw: Any) -> Any:
    kind = draw(st.sampled_from([np.float32, np.float64]))
    shape = (draw(st.integers(0, 3)), draw(st.integers(0, 70)))
    return draw(arrays(kind, shape, elements=NUMBERS[kind], fill=st.just(kind(0.5)) | st.nothing()))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("codec", CODECS, ids=repr)
@given(rows=blocks(), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=40, deadline=None)
def test_what_is_passed_on_is_what_the_bytes_that_are_counted_decode_to(
    codec: Codec, rows: Any, seed: int
) -> None:
    sent, kept, at = updates(rows), DeviceStates(), At(seed, 5, 2)
    before = rows.copy()
    starts: dict[int, Any] = {}
    for _ in range(2):  # the second time with what devices keep
        coded, state, kept = codec.apply({}, sent, kept, at)
        assert state == {}
        assert coded.blocks["change"].dtype == rows.dtype
        for row, seen in enumerate(coded.blocks["change"]):
            here = replace(context(sent, row, at), start=starts.get(row))
            if not here.size:  # there is nothing to send
                assert coded.nbytes_of("change")[row] == 0
                continue
            travels = codec.encode(rows[row], here)
            assert len(travels) == coded.nbytes_of("change")[row] == coded.nbytes[row] - 24
            assert codec.decode(travels, replace(here, start=None)).tobytes() == seen.tobytes()
            if codec.keeps(here):
                starts[row] = codec.code(fitted(rows[row], rows.dtype), here)[-1][
                    -codec.keeps(here) :
                ]
        assert np.isfinite(coded.blocks["change"]).all()
    assert rows.tobytes() == before.tobytes()


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@given(data=st.binary(max_size=120), size=st.integers(1, 60), flip=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_bytes_that_are_no_message_are_refused_or_decode_to_finite_numbers(
    codec: Codec, data: bytes, size: int, flip: int
) -> None:
    at = Context(size, np.dtype(np.float32), layout=layout_of(size))
    row = np.random.default_rng(size).normal(size=size).astype(np.float32)
    good = codec.encode(row, at)
    broken = bytearray(good)
    broken[flip % len(good)] ^= 1 << flip % 8
    for message in (data, bytes(broken), good[:-1], good + b"\0", good[: flip % len(good)]):
        try:
            decoded = codec.decode(message, at)
        except ValueError:
            continue
        assert decoded.shape == (size,)
        assert np.isfinite(decoded).all()


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_a_message_that_is_cut_or_goes_on_is_refused(codec: Codec) -> None:
    at = Context(64, np.dtype(np.float32), layout=layout_of(64))
    good = codec.encode(np.random.default_rng(0).normal(size=64).astype(np.float32), at)
    for message in (b"", good[:-1], good + b"\0", good + b"\1\1\1\1"):
        with pytest.raises(ValueError, match="message"):
            codec.decode(message, at)


def test_symbols_and_places_travel_in_as_few_bytes_as_their_entropy_and_headers() -> None:
    draw = np.random.default_rng(0)
    symbols = np.clip(np.rint(draw.normal(0, 2, 20_000)), -7, 7).astype(int) + 7
    shares = np.bincount(symbols, minlength=15) / len(symbols)
    entropy = -(shares[shares > 0] @ np.log2(shares[shares > 0])) * len(symbols) / 8
    field = Symbols(15, len(symbols))
    sent = field.pack(symbols)
    assert entropy < len(sent) < 1.002 * entropy + 1 + 2 * 15 + 8
    np.testing.assert_array_equal(field.read(sent)[0], symbols)
    flat = draw.integers(15, size=1000)
    assert len(Symbols(15, 1000).pack(flat)) == 1 + 1000 / 2  # four bits each: no gain in coding
    places = np.zeros(20_000, int)
    places[draw.choice(20_000, 200, replace=False)] = 1
    sent = Symbols(2, 20_000).pack(places)
    share = 200 / 20_000
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) * 20_000 / 8
    assert len(sent) < 1.002 * entropy + 1 + 2 * 2 + 8
    np.testing.assert_array_equal(Symbols(2, 20_000).read(sent)[0], places)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_threads_change_no_bit(codec: Codec, monkeypatch: Any) -> None:
    sent = updates(np.random.default_rng(0).normal(size=(12, 300)).astype(np.float32))
    made = []
    monkeypatch.setattr("fedlab.updates.codecs._WORTH_THREADS", 1)
    for threads in ("1", "4"):
        monkeypatch.setenv("FEDLAB_THREADS", threads)
        coded, _, kept = codec.apply({}, sent, DeviceStates(), At(3, 1))
        coded, _, _ = codec.apply({}, sent, kept, At(3, 2))
        made.append((coded.blocks["change"].tobytes(), coded.nbytes.tolist()))
    assert made[0] == made[1]


# -- proven errors -----------------------------------------------------------------------------


def row_of(size: int, seed: int = 0, numbers: Any = np.float64) -> Any:
    return np.random.default_rng(seed).standard_t(3, size=size).astype(numbers)


def errors(codec: Codec, row: Any, draws: int = 1) -> tuple[Any, Any]:
    """The squared error over |v|^2 of each draw, and the mean of what is decoded."""
    made, mean = [], np.zeros(len(row))
    for seed in range(draws):
        at = Context(len(row), row.dtype, seed=seed)
        decoded = codec.decode(codec.encode(row, at), at)
        made.append(np.square(decoded - row).sum() / np.square(row).sum())
        mean += decoded / draws
    return np.array(made), mean


def assert_mean(found: Any, expected: float, what: float = 4.5) -> None:
    """That draws have this mean, by so many standard errors of it."""
    assert abs(found.mean() - expected) < what * found.std() / np.sqrt(len(found)) + 1e-12


def assert_unbiased(mean: Any, row: Any, error: float, draws: int) -> None:
    """That a mean of draws lies about as far from the row as independent errors would leave it."""
    left = np.square(mean - row).sum() / np.square(row).sum()
    assert left < 1.5 * error / draws


@pytest.mark.parametrize("size", [1, 10, 999])
@pytest.mark.parametrize("keep", [1, 0.1, 0.5, 1.0])
def test_top_k_leaves_at_most_the_share_that_it_does_not_send(size: int, keep: Any) -> None:
    row = row_of(size)
    count = max(1, round(keep * size)) if isinstance(keep, float) else keep
    [error] = errors(TopK(keep), row)[0]
    assert error <= 1 - count / size + 1e-15
    even = np.ones(size)
    assert errors(TopK(keep), even)[0][0] == pytest.approx(1 - count / size, abs=1e-12)
    at = Context(size, row.dtype)
    kept = TopK(keep).decode(TopK(keep).encode(row, at), at)
    assert np.count_nonzero(kept) == count
    assert np.abs(row[kept == 0]).max(initial=0) <= np.abs(kept[kept != 0]).min()


def test_random_k_has_its_mean_error_plain_and_scaled() -> None:
    row, draws = row_of(50), 3000
    found, _ = errors(RandomK(0.2), row, draws)
    assert_mean(found, 1 - 0.2)
    found, mean = errors(RandomK(0.2, scaled=True), row, draws)
    assert_mean(found, 1 / 0.2 - 1)
    assert_unbiased(mean, row, 4.0, draws)


@pytest.mark.parametrize("levels", [1, 4, 20])
def test_qsgd_has_its_exact_mean_error_below_its_bound(levels: int) -> None:
    row, draws = row_of(64, seed=1), 3000
    steps = levels * np.abs(row) / np.linalg.norm(row)
    above = steps - np.floor(steps)
    expected = (above * (1 - above)).sum() / levels**2
    assert expected <= min(64 / levels**2, np.sqrt(64) / levels)
    found, mean = errors(QSGD(levels), row, draws)
    assert_mean(found, expected)
    assert_unbiased(mean, row, expected, draws)


def test_qsgd_in_buckets_is_qsgd_of_each() -> None:
    row, draws = row_of(64, seed=1), 1000
    expected = 0.0
    for part in row.reshape(4, 16):
        steps = 4 * np.abs(part) / np.linalg.norm(part)
        above = steps - np.floor(steps)
        expected += (above * (1 - above)).sum() / 4**2 * np.square(part).sum()
    found, _ = errors(QSGD(4, bucket=16), row, draws)
    assert_mean(found, expected / np.square(row).sum())


def test_terngrad_has_its_exact_mean_error() -> None:
    row, draws = row_of(64, seed=2), 3000
    peak = np.abs(row).max()
    found, mean = errors(TernGrad(), row, draws)
    expected = (np.abs(row) * (peak - np.abs(row))).sum() / np.square(row).sum()
    assert_mean(found, expected)
    assert_unbiased(mean, row, expected, draws)
    at = Context(64, row.dtype)
    assert set(TernGrad().decode(TernGrad().encode(row, at), at)) <= {-peak, 0.0, peak}


def test_a_scaled_sign_has_its_error_exactly_and_a_plain_one_its_step() -> None:
    row = row_of(101)
    row[3] = 0
    expected = 1 - np.abs(row).sum() ** 2 / (101 * np.square(row).sum())
    assert errors(Sign(), row)[0][0] == pytest.approx(expected, rel=1e-12)
    at = Context(101, row.dtype)
    plain = Sign(step=0.5).decode(Sign(step=0.5).encode(row, at), at)
    np.testing.assert_array_equal(plain, np.where(row >= 0, 0.5, -0.5))
    assert len(Sign(step=0.5).encode(row, at)) == 1 + 13
    assert len(Sign().encode(row, at)) == 8 + 1 + 13


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        (Drive(), np.pi / 2 - 1),
        (Drive(unbiased=False), 1 - 2 / np.pi),
        (Eden(1), 0.57080),
        (Eden(2), 0.13312),
        (Eden(2, unbiased=False), 0.11748),
    ],
    ids=repr,
)
def test_rotations_have_the_error_of_their_quantiser_whatever_the_row(
    codec: Codec, expected: float
) -> None:
    size, draws = 4096 + 1024, 120
    normal = np.random.default_rng(0).normal(size=size)
    for row in (normal, np.exp(normal), row_of(size)):
        found, mean = errors(codec, row, draws)
        assert found.mean() == pytest.approx(expected, rel=0.03)
        if not codec.contracts:
            assert_unbiased(mean, row, expected, draws)
    assert len(codec.encode(row_of(size), Context(size, np.dtype("f8")))) <= (
        codec.bits * size / 8 + 2 * 8 + 1  # type: ignore[attr-defined]
    )


def test_normal_levels_have_the_distortion_of_lloyd_and_max() -> None:
    from scipy.integrate import quad

    from fedlab.updates.quantise import normal_levels

    known = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}  # Max 1960, table I
    for bits, distortion in known.items():
        levels = normal_levels(bits)
        edges = np.concatenate([[-12], (levels[1:] + levels[:-1]) / 2, [12]])
        found = sum(
            quad(lambda x, c=c: (x - c) ** 2 * np.exp(-x * x / 2) / np.sqrt(2 * np.pi), a, b)[0]
            for a, b, c in zip(edges[:-1], edges[1:], levels, strict=True)
        )
        assert found == pytest.approx(distortion, rel=1e-3)


def test_the_transform_is_that_of_scipy_and_its_own_inverse() -> None:
    from scipy.linalg import hadamard

    from fedlab.updates import kernels

    for size in (1, 2, 64):
        row = row_of(size)
        turned = row.copy()
        kernels.hadamard(turned)
        np.testing.assert_allclose(turned, hadamard(size) @ row, atol=1e-12)
        kernels.hadamard(turned)
        np.testing.assert_allclose(turned, size * row, atol=1e-12)


def test_sketches_and_shared_places_add_up() -> None:
    one, two = np.rint(100 * row_of(300, 0)), np.rint(100 * row_of(300, 1))
    for codec in (CountSketch(40), RandomK(0.1, shared=True)):
        at = [Context(300, one.dtype, seed=9, round=4, device=device) for device in range(2)]
        a, b, both = (
            codec.code(row, where)[0]
            for row, where in ((one, at[0]), (two, at[1]), (one + two, at[0]))
        )
        np.testing.assert_array_equal(a + b, both)
        assert codec.additive
    assert not RandomK(0.1).additive
    at = Context(300, one.dtype, seed=1)
    spikes = np.zeros(300)
    spikes[[5, 77]] = 9.0, -4.0
    read = CountSketch(40, keep=2).decode(CountSketch(40).encode(spikes, at), at)
    np.testing.assert_array_equal(read, spikes)  # by the median: no two collide in most lines


def test_low_rank_is_exact_at_its_rank_and_tends_to_the_best_one() -> None:
    draw = np.random.default_rng(3)
    matrix = draw.normal(size=(30, 4)) @ np.diag([9.0, 5.0, 2.0, 1.0]) @ draw.normal(size=(4, 20))
    layout = Layout((("weights", (30, 20)), ("bias", (7,))))
    row = np.concatenate([matrix.ravel(), draw.normal(size=7)])
    at = Context(607, row.dtype, layout=layout)
    for rank, exact in ((4, True), (2, False)):
        decoded = LowRank(rank).decode(LowRank(rank).encode(row, at), at)
        np.testing.assert_array_equal(decoded[600:], row[600:])
        assert np.allclose(decoded, row, atol=1e-10) == exact
    assert len(LowRank(2).encode(row, at)) == 8 * (7 + 2 * (30 + 20))
    # A device's own basis, from round to round, against the singular values that are left.
    best = np.square(np.linalg.svd(matrix, compute_uv=False)[2:]).sum()
    sent = Updates(np.array([4]), {"change": row[None]}, np.ones(1), {}, layouts={"change": layout})
    kept, found = DeviceStates(), []
    for number in range(30):
        coded, _, kept = LowRank(2).apply({}, sent, kept, At(0, number))
        found.append(np.square(coded.blocks["change"][0] - row).sum())
    assert found[0] > 1.01 * best
    assert found == sorted(found, reverse=True) or found[-1] < found[0]
    assert found[-1] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(("dtype", "digits"), [("f16", 11), ("bf16", 8)])
def test_casts_round_to_the_nearest_and_stay_finite(dtype: Any, digits: int) -> None:
    row = row_of(1000, numbers=np.float32)
    at = Context(1000, row.dtype)
    decoded = Cast(dtype).decode(Cast(dtype).encode(row, at), at)
    assert (np.abs(decoded - row) <= 2.0**-digits * np.abs(row) + 2.0**-25).all()
    torch = pytest.importorskip("torch")
    kind = {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    np.testing.assert_array_equal(decoded, torch.from_numpy(row).to(kind).float().numpy())
    huge = np.full(1, np.finfo(np.float32).max)
    at = Context(1, huge.dtype)
    largest = float(torch.finfo(kind).max)
    assert Cast(dtype).decode(Cast(dtype).encode(huge, at), at) == largest
    row = np.array([-1.0, 0.2499, 1.0])
    at = Context(3, row.dtype)
    np.testing.assert_allclose(
        Cast("i8").decode(Cast("i8").encode(row, at), at), [-1, 32 / 127, 1], rtol=1e-15
    )


# -- what devices owe --------------------------------------------------------------------------

SLOPES = np.array([[-3.0, 2.0, 2.0], [2.0, -3.0, 2.0], [2.0, 2.0, -3.0]])


def descent(stage: Any, rate: float, rounds: int) -> list[Any]:
    """Descent on f_i = <a_i, x>^2 + |x|^2 / 4 from (1, 1, 1), its gradients through a stage."""
    x, kept, places, path = np.ones(3), DeviceStates(), np.arange(3), []
    for number in range(rounds):
        gradients = 2 * SLOPES * (SLOPES @ x)[:, None] + x / 2
        sent = Updates(places, {"change": gradients}, np.full(3, 1 / 3), {})
        coded, _, kept = stage.apply({}, sent, kept, At(0, number))
        x = x - rate * coded.blocks["change"].mean(axis=0)
        path.append(x)
    return path


def test_ef21_and_error_feedback_go_to_zero_where_top_1_alone_grows_exactly() -> None:
    """Beznosikov et al., "On biased compression for distributed learning", example 1."""
    rate = 0.01
    for number, x in enumerate(descent(TopK(1), rate, 40), 1):
        np.testing.assert_allclose(x, (1 + 11 * rate / 6) ** number * np.ones(3), rtol=1e-12)
    for stage in (EF21(TopK(1)), ErrorFeedback(TopK(1))):
        assert np.linalg.norm(descent(stage, rate, 4000)[-1]) < 1e-6


def test_nothing_is_lost_what_was_not_sent_is_owed() -> None:
    stage, kept, sent_so_far = ErrorFeedback(TopK(2)), DeviceStates(), np.zeros((3, 9))
    rows = np.random.default_rng(0).normal(size=(20, 3, 9))
    for number, block in enumerate(rows):
        coded, _, kept = stage.apply({}, updates(block), kept, At(0, number))
        sent_so_far += coded.blocks["change"]
        places = updates(block).places
        owed = kept.rows("ErrorFeedback of change at 0", places, np.zeros(9))
        np.testing.assert_allclose(sent_so_far + owed, rows[: number + 1].sum(axis=0), atol=1e-12)
        assert coded.nbytes_of("change").tolist() == [
            len(TopK(2).encode(row, Context(9, row.dtype))) for row in coded.blocks["change"]
        ]


def test_blocks_that_are_not_as_wide_as_the_model_travel_whole_unless_named() -> None:
    means = np.arange(12.0).reshape(3, 4)
    sent = updates(np.ones((3, 30)))
    sizes = {"change": np.array([0, 9, 9])}
    sent = replace(sent, blocks={**sent.blocks, "means": means}, sizes=sizes)
    coded, _, _ = TopK(1).apply({}, sent, DeviceStates(), At(0, 1))
    assert coded.blocks["means"] is means
    # A device that did not send a block does not send it now.
    assert coded.nbytes_of("change").tolist()[0] == 0
    np.testing.assert_array_equal(coded.blocks["change"][0], np.ones(30))
    named, _, _ = TopK(1, blocks=("means",)).apply({}, sent, DeviceStates(), At(0, 1))
    assert np.count_nonzero(named.blocks["means"]) == 3
    assert named.blocks["change"] is sent.blocks["change"]
    with pytest.raises(ValueError, match=r"TopK codes the blocks meanz; change, means are sent"):
        TopK(1, blocks=("meanz",)).apply({}, sent, DeviceStates(), At(0, 1))


class Mask:
    needs = frozenset({"rows", "additive"})
    gives: Any = frozenset()
    takes: Any = frozenset({"rows"})

    def init(self, size: int) -> Any:
        return {}

    def apply(self, state: Any, sent: Any, kept: Any, at: Any) -> Any:
        return sent, state, kept


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        (
            [ClipNorm(1.0), ErrorFeedback(TopK())],
            "ErrorFeedback needs changes as they were trained",
        ),
        ([ErrorFeedback(TopK()), EF21(TopK())], "EF21 needs .*, which ErrorFeedback takes away"),
        ([TopK(), Mask()], "Mask needs updates that can be added up .*, which TopK takes away"),
        ([RandomK(), Mask()], "which RandomK takes away"),
        ([Mask(), TopK()], "TopK needs each device's own numbers"),
    ],
)
def test_codecs_in_a_place_that_makes_no_sense_are_refused(stages: Any, says: str) -> None:
    with pytest.raises(ChainError, match=says):
        Chain(tuple(stages))


def test_codecs_in_a_place_that_does_are_taken() -> None:
    Chain((ErrorFeedback(TopK()), ClipNorm(1.0)))
    Chain((CountSketch(), Mask()))
    Chain((RandomK(shared=True), Mask()))
    for codec in (QSGD(), TernGrad(), RandomK(scaled=True), Sign(step=1.0), CountSketch(), Eden()):
        with pytest.raises(ValueError, match="whose error may be more than what it codes"):
            ErrorFeedback(codec)
    with pytest.raises(TypeError, match="codec is an object of type ClipNorm"):
        EF21(ClipNorm(1.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TopK(0), "keep is 0; it must be a whole number of at least 1"),
        (lambda: TopK(1.5), "keep is 1.5"),
        (lambda: QSGD(0), "levels"),
        (lambda: QSGD(norm="l1"), "norm is 'l1'; choose"),
        (lambda: Eden(7), "bits is 7"),
        (lambda: Sign(step=0.0), "step"),
        (lambda: CountSketch(lines=0), "lines"),
        (lambda: CountSketch(lines=4), "lines is 4; a median"),
        (lambda: LowRank(0), "rank"),
        (lambda: Cast("f8"), "dtype is 'f8'; choose"),
    ],
)
def test_settings_that_can_not_be_are_refused(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
