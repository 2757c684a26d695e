"""What is Faiss's own: the bare library as oracle, and learning from rows."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from fedlab.index.engines import FaissFlat, FaissHNSW, FaissIVF, FaissIVFPQ, FaissPQ
from fedlab.index.vectorindex import VectorIndex
from tests.helpers import METRICS, clustered, filled, normal, recall

ROWS, QUERIES = clustered(700, 12), normal(30, 12, seed=5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("engine", [FaissFlat(), FaissIVF(lists=10, probes=10)])
def test_looking_at_all_rows_is_exact(engine: FaissFlat | FaissIVF, metric: str) -> None:
    index = filled(ROWS, metric, "f32", engine=engine)
    found, exact = (index.search(QUERIES, 10, exact=exact) for exact in (False, True))
    np.testing.assert_array_equal(found.keys, exact.keys)
    np.testing.assert_array_equal(found.distances, exact.distances)


def test_candidates_are_those_of_the_bare_library() -> None:
    index = filled(ROWS, "l2sq", "f32", engine=FaissPQ(code_bytes=4))
    index.build_graph()
    theirs = faiss.IndexPQ(12, 4, 8)
    theirs.train(ROWS)
    theirs.add(ROWS)
    assert index._graph is not None
    np.testing.assert_array_equal(
        index._graph.candidates(QUERIES, 20, 1), theirs.search(QUERIES, 20)[1]
    )


def test_candidates_of_a_graph_are_those_of_the_bare_library() -> None:
    index = filled(ROWS, "inner", "f32", engine=FaissHNSW(8, 50, 33))
    index.build_graph()
    theirs = faiss.IndexHNSWFlat(12, 8, faiss.METRIC_INNER_PRODUCT)
    theirs.hnsw.efConstruction, theirs.hnsw.efSearch = 50, 33
    theirs.add(ROWS)
    assert index._graph is not None
    np.testing.assert_array_equal(
        index._graph.candidates(QUERIES, 20, 1), theirs.search(QUERIES, 20)[1]
    )


@pytest.mark.parametrize(
    ("engine", "least"),
    [
        (FaissPQ(code_bytes=4), 256),
        (FaissIVF(lists=30), 30),
        (FaissIVFPQ(lists=30, code_bytes=4), 256),
        (FaissIVFPQ(lists=300, code_bytes=4), 300),
    ],
)
def test_too_few_rows_to_learn_from(engine: FaissPQ, least: int) -> None:
    rows = clustered(least, 12)
    index = filled(rows[:-1], engine=engine)
    with pytest.raises(ValueError, match=f"learns {least} centroids.*; the index has {least - 1}:"):
        index.search(QUERIES, 3, exact=False)
    assert not index.has_graph
    assert index.search(QUERIES, 3, exact=True).counts.tolist() == [3] * 30
    index.add(rows[-1:])
    assert recall(index, QUERIES, 3) > 0.5


def test_no_more_rows_are_learned_from_than_faiss_would_use(capfd: pytest.CaptureFixture) -> None:
    rows = clustered(2000, 12)
    index = filled(rows, "l2sq", engine=FaissIVF(lists=4, probes=4))
    index.build_graph()
    assert index._graph is not None
    assert len(index._graph._sample(index._table)) == 1024  # 256 a centroid
    filled(rows, "l2sq", engine=FaissIVF(lists=64)).build_graph()
    assert capfd.readouterr() == ("", "")


def test_centroids_are_learned_anew_when_rows_have_more_than_doubled() -> None:
    early, late = normal(300, 12), normal(2700, 12, seed=1) + 30
    index = filled(early, "l2sq", engine=FaissIVF(lists=32, probes=2))
    index.build_graph()
    index.add(late[:300])
    index.build_graph()
    graph = index._graph
    assert graph is not None
    assert (graph._learned_from, graph.entries) == (300, 600)
    index.add(late[300:])
    index.build_graph()
    assert (graph._learned_from, graph.entries) == (3000, 3000)
    # As good as if all had been there from the start: not all of `late` in one list.
    fresh = filled(np.concatenate([early, late]), "l2sq", engine=FaissIVF(lists=32, probes=2))
    assert recall(index, late[:100]) == recall(fresh, late[:100])


def test_faiss_is_left_with_the_threads_that_it_had() -> None:
    before = faiss.omp_get_max_threads()
    index = filled(ROWS, engine=FaissFlat())
    index.build_graph(threads=3)
    index.search(QUERIES, 3, exact=False, threads=2)
    assert faiss.omp_get_max_threads() == before


def test_bytes_of_codes_links_and_centroids() -> None:
    def beside(engine: FaissFlat | FaissIVF | FaissPQ | FaissIVFPQ | FaissHNSW) -> int:
        index = filled(ROWS, engine=engine)
        rows = index.nbytes
        index.build_graph()
        return index.nbytes - rows

    assert beside(FaissFlat()) == 700 * 48
    assert beside(FaissIVF(lists=10)) == 700 * (48 + 8) + 10 * 48
    assert beside(FaissPQ(code_bytes=4)) == 700 * 4 + 256 * 48
    assert beside(FaissIVFPQ(lists=10, code_bytes=4)) == 700 * (4 + 8) + (256 + 10) * 48
    # Twice the connectivity of links on the ground floor, a few above.
    links = beside(FaissHNSW(connectivity=8)) - 700 * 48
    assert 700 * 4 * 16 < links < 700 * (4 * 16 + 40)


def test_a_file_holds_codes_and_not_the_rows_again(tmp_path) -> None:
    sizes = {}
    for engine in (FaissFlat(), FaissPQ(code_bytes=4), FaissHNSW()):
        index = filled(ROWS, engine=engine)
        index.build_graph()
        index.save(tmp_path / "saved.index")
        sizes[engine.name] = (tmp_path / "saved.index").stat().st_size
    rows = 700 * (48 + 8)
    assert rows < sizes["faiss-flat"] < rows + 1000
    assert rows + 700 * 4 + 256 * 48 < sizes["faiss-pq"] < rows + 700 * 4 + 256 * 48 + 2000
    assert VectorIndex.open(tmp_path / "saved.index").has_graph
