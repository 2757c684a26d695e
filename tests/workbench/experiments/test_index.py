"""Measuring a search: recall by brute force, sizes from the arrays."""

import numpy as np
import pytest

from fedlab import VectorIndex
from fedlab.workbench.experiments import churn
from fedlab.workbench.experiments import index as measure
from tests.helpers import normal


@pytest.fixture(scope="module")
def vectors():
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(20, 16))
    rows = centres[draw.integers(0, 20, 1100)] + 0.5 * draw.normal(size=(1100, 16))
    return rows.astype(np.float32)


def test_recall_counts_true_neighbours():
    truth = np.array([[1, 2, 3], [4, 5, 6]], np.uint64)
    assert measure.recall(truth[:, ::-1], truth) == 1.0
    assert measure.recall(np.array([[1, 2, 9], [7, 8, 9]], np.uint64), truth) == pytest.approx(
        1 / 3
    )


@pytest.fixture
def index(vectors):
    made = VectorIndex(16)
    made.add(vectors[:1000], labels=["a"] * 1000)
    return made


def test_engines_are_compared_on_indexes_of_several_sizes(index, vectors):
    views = [index.view(0, 200), index]
    frame = measure.scan_against_graph(views, vectors[1000:], k=5)
    assert frame.rows.tolist() == [200, 1000]
    assert (frame[["build", "scan", "graph", "scan batch", "graph batch"]] > 0).all(axis=None)
    assert frame.recall.between(0.9, 1.0).all()


def test_storage_types_are_held_against_the_full_vectors(index, vectors):
    frame = measure.storage_types(index, vectors[1000:], 10, ["f32", "i8"])
    assert frame.loc["f32", "scan recall"] == 1.0
    assert 0.8 < frame.loc["i8", "scan recall"] < 1.0
    # 64 bytes of numbers against 16 and a scale of 4; keys and links are the same for both.
    assert frame.loc["f32", "bytes"] - frame.loc["i8", "bytes"] == pytest.approx(44, abs=0.5)


def test_a_saved_index_comes_back_and_a_flipped_bit_does_not(vectors):
    index = VectorIndex(16)
    index.add(vectors[:500], labels=np.arange(500))
    told = measure.save_and_open(index, vectors[1000:], k=3)
    assert told["same answers, to the last bit"] == "yes"
    assert "altered" in told["after one flipped bit"]


# Where the graph reads codes of 2 bytes, of 1, and a copy of its own; test_index has float32.
@pytest.mark.parametrize(
    ("metric", "dtype"), [("cosine", "bf16"), ("cosine", "i8"), ("l2sq", "i8")]
)
def test_churn_costs_no_recall_in_any_storage_type(metric, dtype):
    # Rows without any structure, which a graph finds hardest.
    rows, queries = normal(3 * 1500, 24), normal(200, 24, seed=99)
    frame = churn(rows, queries, metric=metric, dtypes=[dtype], every=10)
    assert frame["round"].tolist() == [10, 20]
    assert (frame.fresh > 0.9).all()
    assert (frame.recall >= frame.fresh - 0.005).all(), frame
    assert (frame.removed <= 0.2).all()
    assert frame.removed.max() > 0.05, "rows that went are still among the graph's"
