"""kNN-Per: its limits, a search by hand, and what may not be chosen on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlab import MLP, Device, Federation, Key, SoftmaxRegression, VectorIndex
from fedlab.algorithms import KNNPer, Memory
from tests.federations import class_device

MODEL = MLP(4, (6,), 3)
LABELS = [0, 1, 2, 2, 0, 2] * 5


@pytest.fixture(scope="module")
def ward() -> Device:
    return class_device("ward", LABELS)


@pytest.fixture(scope="module")
def learned(ward: Device) -> Any:
    federation = Federation([ward], MODEL, seed=1)
    federation.run(5)
    return federation.parameters


@pytest.fixture(scope="module")
def asked() -> Any:
    return class_device("other", [0, 1, 2] * 7, seed=3).training()


@pytest.mark.parametrize("way", [KNNPer(share=0.0), KNNPer(share=0.7, rows=0)])
def test_without_a_share_or_a_memory_it_is_the_model(
    way: KNNPer, ward: Device, learned: Any, asked: Any
) -> None:
    memory = way.memory(ward, MODEL, learned)
    said = MODEL.predict(learned, asked[0])
    np.testing.assert_array_equal(memory.predict(asked[0]), said.astype(np.float64))
    loss = MODEL.evaluate(learned, *asked)
    assert memory.measure(*asked) == pytest.approx({**loss, "rows": 21}, rel=1e-6)


def test_neighbours_alone_all_of_them_and_alike_are_the_prior(
    ward: Device, learned: Any, asked: Any
) -> None:
    memory = KNNPer(k=1000, share=1.0, scale=1e12).memory(ward, MODEL, learned)
    prior = np.bincount(LABELS) / len(LABELS)
    np.testing.assert_allclose(memory.predict(asked[0]), np.tile(prior, (21, 1)), atol=1e-9)


@pytest.mark.parametrize("dtype", ["f32", "f16", "i8"])
@pytest.mark.parametrize("of", ["embedding", "row"])
def test_votes_are_those_of_a_search_by_hand(
    dtype: Any, of: Any, ward: Device, learned: Any, asked: Any
) -> None:
    k, share, scale = 7, 0.4, 0.3
    way = KNNPer(k, share, scale, dtype)
    flat = np.random.default_rng(3).normal(size=15).astype(np.float32)
    model, at = (MODEL, learned) if of == "embedding" else (SoftmaxRegression(4, 3), flat)
    memory, (x, _) = way.memory(ward, model, at), asked
    there, y = memory.index.vectors.astype(np.float64), ward.labels
    queries = (MODEL.embed(learned, x) if of == "embedding" else x).astype(np.float64)
    exact = MODEL.embed(learned, ward.index.vectors) if of == "embedding" else ward.index.vectors
    np.testing.assert_allclose(there, exact, atol={"f32": 0, "f16": 0.01, "i8": 0.1}[dtype])
    expected = np.zeros((len(x), 3))
    for row, query in enumerate(queries):
        squares = np.square(there - query).sum(axis=1)
        for place in np.argsort(squares, kind="stable")[:k]:
            expected[row, y[place]] += np.exp(-squares[place] / (there.shape[1] * scale))
    expected /= expected.sum(axis=1, keepdims=True)
    mixed = share * expected + (1 - share) * model.predict(at, x).astype(np.float64)  # type: ignore[arg-type]
    np.testing.assert_allclose(memory.predict(x), mixed, rtol=1e-9)


def test_a_row_far_from_all_others_still_has_a_nearest_one(ward: Device, learned: Any) -> None:
    far = np.full((1, 4), 1e4, np.float32)
    memory = KNNPer(k=3, share=1.0, scale=1e-3).memory(ward, MODEL, learned)
    assert memory.predict(far).sum() == pytest.approx(1)


def test_a_memory_is_sealed_as_any_index_is(
    ward: Device, learned: Any, asked: Any, tmp_path: Path
) -> None:
    memory, key = KNNPer().memory(ward, MODEL, learned), Key.generate()
    memory.index.save(tmp_path / "memory", key)
    found = VectorIndex.open(tmp_path / "memory", key)
    again = Memory(memory.of, MODEL, learned, found)
    np.testing.assert_array_equal(again.predict(asked[0]), memory.predict(asked[0]))
    assert (
        MODEL.embed(learned, ward.index.vectors)[0].tobytes()
        not in (tmp_path / "memory").read_bytes()
    )


def test_evidence_names_the_device_s_own_rows(ward: Device, learned: Any, asked: Any) -> None:
    memory = KNNPer(k=4, share=1.0).memory(ward, MODEL, learned)
    frame = memory.evidence(asked[0][:2])
    assert frame["query"].tolist() == [0] * 4 + [1] * 4
    z, q = MODEL.embed(learned, ward.index.vectors), MODEL.embed(learned, asked[0][:2])
    for query in range(2):
        squares = np.square(z.astype(np.float64) - q[query]).sum(axis=1)
        mine = frame[frame["query"] == query]
        assert mine["key"].tolist() == np.argsort(squares, kind="stable")[:4].tolist()
        np.testing.assert_allclose(mine["distance"], np.sort(squares)[:4], rtol=1e-4)
        assert (mine["label"].to_numpy() == ward.index.labels_of(mine["key"])).all()
        votes = mine.groupby("label")["weight"].sum().reindex(range(3), fill_value=0)
        np.testing.assert_allclose(memory.predict(asked[0])[query], votes)
    assert KNNPer(rows=0).memory(ward, MODEL, learned).evidence(asked[0]).empty


def test_a_small_memory_is_a_draw_that_can_be_repeated(ward: Device, learned: Any) -> None:
    keys = [KNNPer(rows=9, seed=s).memory(ward, MODEL, learned).index.keys for s in (0, 0, 1)]
    assert keys[0].tolist() == keys[1].tolist() != keys[2].tolist()
    assert len(keys[0]) == 9
    twin = Device("twin", ward.index)
    other = KNNPer(rows=9).memory(twin, MODEL, learned).index.keys
    assert other.tolist() != keys[0].tolist()


def thirds(device: Device) -> tuple[Device, Device]:
    """The device with rows to measure on held out, and with rows to choose on; 60% train."""
    keys = device.index.keys
    last, middle = keys[4 * len(keys) // 5 :], keys[3 * len(keys) // 5 : 4 * len(keys) // 5]

    def without(gone: Any) -> Device:
        index = VectorIndex(4, "l2sq")
        kept = np.setdiff1d(keys, gone)
        index.add(device.index.get(kept), keys=kept, labels=device.index.labels_of(kept))
        return Device(device.id, index)

    return without(middle).holding_out(last), without(last).holding_out(middle)


def test_each_device_chooses_its_share_on_rows_that_it_is_not_measured_on(learned: Any) -> None:
    # What the server's model knows is of little use to a stranger with labels of its own.
    stranger = class_device("stranger", [1, 2, 0] * 30, seed=9)
    tested, choosing = thirds(stranger)
    frame = KNNPer(k=5).validate([tested], MODEL, learned, choosing=[choosing])
    memory = KNNPer(k=5).memory(choosing, MODEL, learned)
    shares = np.linspace(0, 1, 11).round(1)
    losses = [
        KNNPer(k=5, share=s).memory(choosing, MODEL, learned).measure(*choosing.validation())
        for s in shares
    ]
    best = float(shares[int(np.argmin([found["loss"] for found in losses]))])
    assert frame.loc["stranger", "share"] == best == memory.choose(*choosing.validation()).of.share
    assert frame.loc["stranger", "rows"] == 18
    own = KNNPer(k=5, share=best).memory(tested, MODEL, learned).measure(*tested.validation())
    assert frame.loc["stranger", "accuracy"] == own["accuracy"]
    assert own["accuracy"] > MODEL.evaluate(learned, *tested.validation())["accuracy"]


def test_a_share_is_never_chosen_on_rows_that_are_measured(learned: Any) -> None:
    tested, choosing = thirds(class_device("ward", LABELS))
    way = KNNPer()
    with pytest.raises(ValueError, match="would choose its share on rows that it is measured on"):
        way.validate([tested], MODEL, learned, choosing=[tested])
    other = class_device("ward", LABELS).hold_out(0.2, seed=0)
    with pytest.raises(ValueError, match="with other training rows"):
        way.validate([tested], MODEL, learned, choosing=[other])
    renamed = Device("bed", choosing.index).holding_out(choosing.validation_keys)
    with pytest.raises(ValueError, match="as 'bed'"):
        way.validate([tested], MODEL, learned, choosing=[renamed])
    with pytest.raises(ValueError, match="shorter than"):
        way.validate([tested, tested], MODEL, learned, choosing=[choosing])


def test_what_cannot_be_is_refused(ward: Device, learned: Any) -> None:
    for wrong in ({"k": 0}, {"share": 1.5}, {"scale": 0.0}, {"rows": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            KNNPer(**wrong)  # type: ignore[arg-type]
    flat = SoftmaxRegression(4, 3)
    memory = KNNPer().memory(ward, flat, np.zeros(15, np.float32))
    np.testing.assert_array_equal(memory.index.vectors, ward.training()[0])
    with pytest.raises(ValueError, match="hold_out first"):
        memory.measure(np.zeros((0, 4)), [])
    with pytest.raises(ValueError, match="labels from 0 to 3"):
        memory.measure(np.zeros((2, 4)), np.array([0, 3]))
    with pytest.raises(ValueError, match="hold_out first"):
        KNNPer().validate([ward], MODEL, learned)
