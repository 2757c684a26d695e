"""Scenarios of search: answers, files and ledgers, within an index and across devices.

An engine's graph is built on one thread, which gives the same one every time. Not here, since they
differ from run to run by design: graphs of several threads, sealed files (their answers are), and
noise that has no seed. Masked sums and shares draw keys of their own, but their results must not
show it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fedlab import Device, Key, VectorIndex

from .moved import Parts, found, framed

METRICS: tuple[Any, ...] = ("cosine", "inner", "l2sq")
DTYPES: tuple[Any, ...] = ("f32", "f16", "bf16", "i8", "b1")
CLASSES, ENGINES = 5, ("fedlab.engines", "fedlab.index.engines")


def scenarios() -> dict[str, Callable[[], Parts]]:
    return {
        **{f"scan, {m}, {d}": partial(_scanned, m, d) for m in METRICS for d in DTYPES},
        **{f"engine {name}": partial(_proposed, *kind) for name, kind in _engines().items()},
        **{"private": _private, "seeded noise": _noisy, "routers": _routers, "splits": _splits},
    }


def threaded() -> dict[str, Callable[[int], Parts]]:
    """Return those that take a number of threads."""
    ways: dict[str, dict[str, Any]] = {
        "few first": {"first": 1},
        "asked once": {"first": 2, "ask_again": False},
        "vectors": {"check": "vectors"},
        "commitment": {"check": "commitment"},
        "graphs": {"exact": False},
        "routed": {"ask": 3},
        **{f"query in {dtype}": {"query": dtype} for dtype in DTYPES[1:]},
        "rescored": {"query": "i8", "rescore": 25},
        "rescored, routed": {"query": "b1", "rescore": 40, "ask": 4},
    }
    made = {f"search, {metric}": partial(_across, metric, {}) for metric in METRICS}
    return made | {f"search, {name}": partial(_across, "cosine", way) for name, way in ways.items()}


def _mixture(count: int, dimensions: int, seed: int) -> Any:
    """Return rows about twenty centres; some of them are there twice."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(20, dimensions))
    rows = centres[draw.integers(20, size=count)] + 0.5 * draw.normal(size=(count, dimensions))
    twice = min(9, count // 2)
    rows[-twice:] = rows[:twice]
    return rows.astype(np.float32)


def _filled(count: int, dimensions: int, *kind: Any, seed: int = 1) -> VectorIndex:
    index, draw = VectorIndex(dimensions, *kind), np.random.default_rng(seed)
    about = {"age": draw.integers(20, 90, count), "ward": draw.choice(["a", "b", "c"], count)}
    keys, labels = 5 + 3 * np.arange(count), draw.integers(CLASSES, size=count)
    index.add(_mixture(count, dimensions, seed), keys=keys, labels=labels, metadata=about)
    return index


def _edit(index: VectorIndex) -> None:
    index.remove(index.keys[::7])
    about = {"age": np.full(50, 60), "ward": np.full(50, "b")}
    index.add(_mixture(50, index.dimensions, 3), labels=np.ones(50, int), metadata=about)


def _answer(hits: Any) -> list[Any]:
    return [hits.keys, hits.distances, hits.counts]


def _scanned(metric: Any, dtype: Any) -> Parts:
    for dimensions in (7, 40):
        index, queries = _filled(1500, dimensions, metric, dtype), _mixture(60, dimensions, 2)
        asked = [(1, 3), (60, 10), (5, 1600)]
        hits = [index.search(queries[:count], k, exact=True) for count, k in asked]
        yield f"{dimensions}: answers", [*map(_answer, hits)]
        wheres = ["age > 80 and ward != 'a'", "label == 2", "age < 85 or key > 4000"]
        masks = [*wheres, index.keys < 60]
        hits += [index.search(queries, 10, exact=True, where=where) for where in masks]
        yield f"{dimensions}: filtered", [*map(_answer, hits[3:])]
        radius = float(np.median(hits[1].distances))
        given: list[dict[str, Any]] = [{}, {"where": wheres[0]}, {"limit": 4}]
        near = [index.within(queries, radius, **settings) for settings in given]
        yield f"{dimensions}: within", [(n.offsets, n.keys, n.distances, n.totals) for n in near]
        part = index.view(100, 900)
        yield f"{dimensions}: view", _answer(part.search(queries, 10, exact=True))
        _edit(index)
        yield f"{dimensions}: edited", _answer(index.search(queries, 10, exact=True))
        yield f"{dimensions}: rows", [index.keys, index.vectors, index.labels, index.metadata]


def _engines() -> dict[str, tuple[Any, str, str]]:
    """Return the engines that are installed, each with a metric and a type of rows."""
    hnsw = found("HNSW", *ENGINES)
    made = {f"graph, {m}, {d}": (hnsw(), m, d) for m in METRICS for d in DTYPES}
    made |= {f"graph in {d}": (hnsw(dtype=d), "cosine", "f32") for d in ("bf16", "i8", "b1")}
    if find_spec("faiss"):
        settings = {"FaissFlat": (), "FaissHNSW": (), "FaissIVF": (16, 4), "FaissPQ": (8,)}
        for name, values in {**settings, "FaissIVFPQ": (16, 4, 8)}.items():
            made |= {f"{name}, {m}": (found(name, *ENGINES)(*values), m, "f32") for m in METRICS}
    if find_spec("annoy"):
        made["Annoy"] = found("Annoy", *ENGINES)(trees=10), "cosine", "f32"
    return made


def _proposed(engine: Any, metric: str, dtype: str) -> Parts:
    index, queries = _filled(2000, 32, metric, dtype, engine), _mixture(60, 32, 2)
    index.build_graph()
    yield "answers", [_answer(index.search(q, 10, exact=False)) for q in (queries, queries[:1])]
    hits = [index.search(queries, 10, exact=False, where=f"age > {age}") for age in (30, 85)]
    yield "filtered", [[*_answer(one), one.rescued] for one in hits]
    with tempfile.TemporaryDirectory() as folder:
        path, sealed, key = Path(folder) / "plain", Path(folder) / "sealed", Key(bytes(range(32)))
        index.save(path)
        yield "file", path.read_bytes()
        yield "opened", _answer(VectorIndex.open(path).search(queries, 10, exact=False))
        index.save(sealed, key)
        yield "unsealed", _answer(VectorIndex.open(sealed, key).search(queries, 10, exact=False))
    _edit(index)
    yield "edited", _answer(index.search(queries, 10, exact=False))


# -- across devices -------------------------------------------------------------------------------


def _devices(metric: Any) -> list[Device]:
    return [Device(p, _filled(40 + 30 * p, 24, metric, seed=10 + p)) for p in range(8)]


def _across(metric: Any, settings: dict[str, Any], threads: int) -> Parts:
    searching = found("FederatedSearch", "fedlab.search")
    devices, queries = _devices(metric), _mixture(40, 24, 2)
    if "ask" in settings:
        router = found("Router", "fedlab.search").learn(devices, centroids=4, seed=1)
        settings = {**settings, "router": router}
    search = searching(devices, threads=threads, **settings)
    for k, where in ((1, None), (10, None), (10, "age > 40 and label != 2")):
        hits = search.search(queries, k, where=where)
        what = f"{k} of {where or 'all'}"
        said = hits.certified, hits.set_aside, hits.approximate
        yield f"{what}: answers", [hits.devices, *_answer(hits), *said]
        yield f"{what}: ledger", framed(hits.ledger)


def _routers() -> Parts:
    for metric in METRICS:
        router = found("Router", "fedlab.search").learn(_devices(metric), centroids=5, seed=2)
        groups = [(summary.centroids, summary.counts) for summary in router.summaries]
        yield metric, [groups, router.choose(_mixture(40, 24, 2), 3)]


def _private() -> Parts:
    kth, vote, shared = (
        found(name, "fedlab.search.private") for name in ("kth_distances", "vote", "SharedIndex")
    )
    queries, classes = _mixture(6, 24, 2), np.arange(CLASSES)
    for metric in METRICS:
        devices = _devices(metric)
        for bits in (32, 64):
            near = kth(devices, queries, 7, bits)
            yield f"{metric}, {bits} bits", [near.distances, near.sums, framed(near.ledger)]
        votes = vote(devices, queries, 7, classes)
        yield f"{metric}, votes", [votes.counts, votes.reach.distances, framed(votes.ledger)]
        hits = shared(devices).search(queries, 5)
        yield f"{metric}, shares", [hits.devices, *_answer(hits), framed(hits.ledger)]


def _noisy() -> Parts:
    where = ("fedlab.search.private", "fedlab.privacy")
    names = ("release_counts", "release_total_counts", "release_centroids", "Gaussian", "Laplace")
    counts, total, centroids, gaussian, laplace = (found(name, *where) for name in names)
    devices, classes = _devices("cosine"), np.arange(CLASSES)
    for mechanism in (gaussian(1.0, 1e-6), laplace(1.0)):
        said = [counts(device, classes, mechanism, seed=3) for device in devices]
        moved = centroids(devices, _mixture(4, 24, 5), mechanism, seed=3)
        yield f"{type(mechanism).__name__}, counts", said
        about = moved.counts, moved.epsilon, moved.delta, framed(moved.ledger)
        yield f"{type(mechanism).__name__}, centroids", [moved.centroids, *about]
    summed = total(devices, classes, gaussian(1.0, 1e-6), seed=3)
    yield "total", [summed.counts, summed.sigma, framed(summed.ledger)]


def _splits() -> Parts:
    from fedlab.data import by_classes, by_quantity, dirichlet, iid, load_digits, shards, synthetic

    digits = load_digits()
    for name, split in {
        "iid": iid(len(digits), 9, seed=1),
        "dirichlet": dirichlet(digits.y, 9, 0.3, seed=1),
        "classes": by_classes(digits.y, 9, 3, seed=1),
        "quantity": by_quantity(len(digits), 9, 0.5, seed=1),
        "shards": shards(digits.y, 9, seed=1),
    }.items():
        yield name, [np.asarray(rows) for rows in split.rows]
    drawn = synthetic(1, 1, 3, devices=10)
    rows = [np.asarray(part) for part in drawn.train_partition.rows]
    yield "synthetic", [drawn.train.x, drawn.train.y, *rows]
