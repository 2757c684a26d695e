"""What is Annoy's own: the bare library as oracle."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab.index.engines import Annoy
from tests.helpers import clustered, filled, normal

library = pytest.importorskip("annoy", reason="annoy is not installed")
ROWS, QUERIES = clustered(600, 12), normal(20, 12, seed=5)


@pytest.mark.parametrize(
    ("metric", "theirs"), [("cosine", "angular"), ("inner", "dot"), ("l2sq", "euclidean")]
)
def test_candidates_are_those_of_the_bare_library(metric: str, theirs: str) -> None:
    index = filled(ROWS, metric, "f32", engine=Annoy(trees=5, search_nodes=150, seed=3))
    index.build_graph()
    bare = library.AnnoyIndex(12, theirs)
    bare.set_seed(3)
    for place, row in enumerate(ROWS):
        bare.add_item(place, row if metric != "cosine" else row / np.abs(row).max())
    bare.build(5, n_jobs=1)
    assert index._graph is not None
    found = index._graph.candidates(QUERIES, 15, 1)
    for query, near in zip(QUERIES, found, strict=True):
        probe = query if metric != "cosine" else query / np.abs(query).max()
        assert bare.get_nns_by_vector(probe, 15, search_k=150) == near.tolist()


@pytest.mark.parametrize("scale", [1e-17, 1e16])
def test_directions_are_found_whatever_the_length(scale: float) -> None:
    rows = ROWS * np.float32(scale)
    index = filled(rows, "cosine", "f32", engine=Annoy(trees=5))
    hits = index.search(rows[:50], 1, exact=False)
    assert np.abs(hits.distances).max() < 1e-12


def test_new_rows_build_the_forest_anew() -> None:
    index = filled(ROWS[:300], "l2sq", "f32", engine=Annoy(trees=5))
    index.build_graph()
    index.remove([0, 1])
    index.add(ROWS[300:])
    fresh = filled(ROWS[2:], "l2sq", "f32", engine=Annoy(trees=5), keys=index.keys)
    np.testing.assert_array_equal(
        index.search(QUERIES, 5, exact=False).keys, fresh.search(QUERIES, 5, exact=False).keys
    )
    assert index._graph is not None
    assert (index._graph.entries, index._graph.removed) == (598, 0)
