"""What tests of the vector index share: rows, an oracle, child processes."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlab.index.vectorindex import VectorIndex

ROOT = Path(__file__).resolve().parents[1]
METRICS = ("cosine", "inner", "l2sq")
DTYPES = ("f32", "f16", "bf16", "i8", "b1")


def normal(rows: int, dimensions: int, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(size=(rows, dimensions))
    return np.asarray(drawn, np.float32)


def clustered(rows: int, dimensions: int, seed: int = 0) -> NDArray[np.float32]:
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(20, dimensions)) * 3
    return np.asarray(
        centres[draw.integers(20, size=rows)] + draw.normal(size=(rows, dimensions)), np.float32
    )


def gaussians(
    rows: int, queries: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Rows of a mixture of 50 Gaussians in 64 dimensions, whose each is, and queries from it."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(50, 64))
    of_row, of_query = (draw.integers(50, size=count) for count in (rows, queries))
    made, asked = (centres[of] + draw.normal(size=(len(of), 64)) for of in (of_row, of_query))
    return np.float32(made), of_row, np.float32(asked)


def filled(rows: NDArray[np.float32], *given: str, **settings: Any) -> VectorIndex:
    """An index over `rows`: ``filled(rows, metric, dtype, labels=...)``."""
    names = ("keys", "labels", "metadata")
    entering = {name: settings.pop(name) for name in names if name in settings}
    index = VectorIndex(rows.shape[1], *given, **settings)  # type: ignore[arg-type]
    index.add(rows, **entering)
    return index


def distances(rows: NDArray[Any], queries: NDArray[Any], metric: str) -> NDArray[np.longdouble]:
    """(q, n) distances in extended precision, straight from their definitions."""
    a, b = queries.astype(np.longdouble)[:, None, :], rows.astype(np.longdouble)[None, :, :]
    if metric == "l2sq":
        return np.asarray(((a - b) ** 2).sum(axis=2))
    products = (a * b).sum(axis=2)
    if metric == "inner":
        return np.asarray(1 - products)
    return np.asarray(1 - products / np.sqrt((a * a).sum(axis=2)) / np.sqrt((b * b).sum(axis=2)))


def content(index: VectorIndex, folder: Path) -> bytes:
    """What `save` writes, how often it was saved left aside."""
    path, generation = folder / "content.index", index.generation
    index.generation = 0
    index.save(path)
    index.generation = generation
    return path.read_bytes()


def recall(index: VectorIndex, queries: NDArray[np.float32], k: int = 10) -> float:
    exact = index.search(queries, k, exact=True).keys
    found = index.search(queries, k, exact=False).keys
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(exact, found, strict=True))
    return hits / exact.size


def run_child(code: str, *arguments: str | Path) -> str:
    """Run `code` in a process of its own; its output, or an error with the exit status."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def each_installed(engines: list[Any]) -> Any:
    """Run a test with each engine; one whose library isn't there is skipped."""
    known = {name: find_spec(name) for name in ("faiss", "annoy")} | {"graph": True}

    def case(engine: Any) -> Any:
        lacks = not known[engine.name.split("-")[0]]
        marks = pytest.mark.skipif(lacks, reason=f"{engine.name} is not installed")
        return pytest.param(engine, marks=marks, id=engine.name)

    return pytest.mark.parametrize("engine", [case(engine) for engine in engines])
