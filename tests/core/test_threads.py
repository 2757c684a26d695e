"""BLAS has one thread as long as anybody needs that, and its own again afterwards."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from fedlab import VectorIndex
from fedlab.core import threads
from fedlab.core.threads import one_blas_thread, share, spare_threads
from tests.helpers import filled, normal


def blas_threads() -> list[int]:
    known = ThreadpoolController().select(user_api="blas").info()
    return [library["num_threads"] for library in known]


def test_the_limit_stands_until_the_last_holder_leaves() -> None:
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        first, second = one_blas_thread(), one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert set(blas_threads()) == {1}
        second.__exit__(None, None, None)
        assert set(blas_threads()) == {2}


def test_searches_at_once_leave_blas_as_it_was_and_agree() -> None:
    index, queries = filled(normal(5_000, 16)), normal(40, 16, seed=1)
    expected = index.search(queries, 5, exact=True)
    with ThreadpoolController().limit(limits=2, user_api="blas"), ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: index.search(queries, 5, exact=True), range(40)))
        assert set(blas_threads()) == {2}
    for hits in answers:
        np.testing.assert_array_equal(hits.keys, expected.keys)
        np.testing.assert_array_equal(hits.distances, expected.distances)


@pytest.mark.parametrize("queries", [1, 8, 9, 40, 700])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_answers_depend_on_no_number_of_threads(queries: int, count: int) -> None:
    index: VectorIndex = filled(normal(3_000, 20), "inner")
    asked = normal(queries, 20, seed=1)
    mask = np.arange(3_000) % 3 > 0
    for where in (None, mask):
        one = index.search(asked, 7, exact=True, threads=1, where=where)
        many = index.search(asked, 7, exact=True, threads=count, where=where)
        np.testing.assert_array_equal(one.keys, many.keys)
        np.testing.assert_array_equal(one.distances, many.distances)


def test_who_searches_beside_others_takes_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_threads", lambda: 8)
    assert [spare_threads(work) for work in (0, 1, 5, 100)] == [1, 1, 5, 8]
    with one_blas_thread():
        assert spare_threads(100) == 4


def test_parts_that_wait_for_a_busy_pool_are_done_by_who_shares_them() -> None:
    """Helpers that no thread has taken yet are not waited for."""
    busy, free = threading.Event(), threading.Event()
    blockers = [threads._pool(1).submit(lambda: (busy.set(), free.wait(20))) for _ in range(1)]
    try:
        assert busy.wait(20)
        done: list[int] = []
        share(range(5), done.append, 2)
        assert sorted(done) == list(range(5))
    finally:
        free.set()
        for blocker in blockers:
            blocker.result()
