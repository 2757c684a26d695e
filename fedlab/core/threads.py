"""Threads: how many, one of them for BLAS, and work that they take part by part."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from threading import Condition, Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

Part = NDArray[np.int64]
T = TypeVar("T")

#: Less work than this (seconds, roughly) is done before another thread has woken up.
_WORTH_A_THREAD = 3e-4
#: Parts that the work is cut into for each thread, so that none waits long for the others.
_PARTS = 4


@cache
def _blas() -> list[Any]:
    """Return the BLAS libraries of this process: what sets their threads."""
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


class _OneBlasThread:
    """A limit that many threads may hold at once: the last one that leaves lifts it."""

    def __init__(self) -> None:
        self._lock, self.holders = Lock(), 0
        self._before: list[tuple[Any, int]] = []

    def __enter__(self) -> None:
        with self._lock:
            if not self.holders:
                self._before = [(library, library.get_num_threads()) for library in _blas()]
                for library, _ in self._before:
                    library.set_num_threads(1)
            self.holders += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.holders -= 1
            if not self.holders:
                for library, threads in self._before:
                    library.set_num_threads(threads)

    def renew_lock(self) -> None:
        self._lock = Lock()


_one_blas_thread = _OneBlasThread()


def one_blas_thread() -> AbstractContextManager[Any]:
    """Return a context in which matrix products run on one thread, process-wide.

    Sums differ in their last bits with the number of threads that cut a product. Small products are
    faster so, too: on the shapes of local training, waking a second thread costs more than it
    computes. Several threads may be within at once; the limit stands until the last one leaves.
    """
    return _one_blas_thread


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_threads() -> int:
    """Return the processors that this process may use; FEDLAB_THREADS sets fewer or more."""
    asked = os.environ.get("FEDLAB_THREADS", "")
    if asked.isascii() and asked.isdigit() and int(asked):
        return int(asked)
    return cores()


def spare_threads(work: int) -> int:
    """Return how many threads a piece of work may take by default: its share of the processors.

    Parameters
    ----------
    work : int
        Threads that it is large enough for.
    """
    return max(1, min(work, usable_threads() // (_one_blas_thread.holders + 1)))


def by_cost(costs: NDArray[np.float64], threads: int) -> list[Part]:
    """Cut items into parts: costly ones alone, cheap ones together, the costliest part first.

    Parameters
    ----------
    costs : (m,) array
        Seconds that each takes, roughly; in all too few for several threads gives one part.
    threads : int

    Examples
    --------
    >>> [part.tolist() for part in by_cost(np.array([0.1, 1.0, 0.1]), threads=2)]
    [[1], [0, 2]]
    """
    if costs.sum() < _WORTH_A_THREAD:
        threads = 1
    order = np.argsort(-costs, kind="stable")
    count = np.clip(costs.sum() / _WORTH_A_THREAD, 1, _PARTS) * threads if threads > 1 else 1
    part_of = np.floor(np.cumsum(costs[order]) / costs.sum() * count - 1e-9)
    return np.split(order, np.flatnonzero(np.diff(part_of)) + 1)


def share(parts: Iterable[T], do: Callable[[T], None], threads: int) -> None:
    """Do all parts, each thread taking the next as it gets free; this thread is one of them.

    Where one raises, no further part is begun, and it is raised when the others have ended.
    """
    waiting, doing = deque(parts), [do]

    def work() -> None:
        while True:
            try:
                part = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            doing[0](part)

    helpers = [_pool(threads - 1).submit(work) for _ in range(min(threads, len(waiting)) - 1)]
    try:
        work()
    finally:
        waiting.clear()
        for helper in helpers:
            if not helper.cancel():  # it has begun
                helper.result()
        doing.clear()  # a helper that never began stays queued, and must not keep what `do` holds


class ReadWriteLock:
    """Many threads may read at once; one that writes is alone, and no reader overtakes it.

    A thread that reads must not ask to read again, nor to write, before it has ended.
    """

    def __init__(self) -> None:
        self._gate, self._left, self._readers = Lock(), Condition(), 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep writers out of the block."""
        with self._gate, self._left:
            self._readers += 1
        try:
            yield
        finally:
            with self._left:
                self._readers -= 1
                self._left.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep everybody out of the block."""
        with self._gate, self._left:
            self._left.wait_for(lambda: not self._readers)
            yield


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="fedlab")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
    os.register_at_fork(after_in_child=_one_blas_thread.renew_lock)
