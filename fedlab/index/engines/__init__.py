"""Engines: who proposes the candidates of an index that its scan would take too long for.

``VectorIndex(384, engine=FaissIVF(lists=1024, probes=16))``. Each is a frozen dataclass of
settings, imported by the library's name only when it is used: `HNSW` (USearch's graph) is always
there, Faiss's come with the extra ``faiss``, Annoy with the extra ``annoy``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fedlab.index.engines.annoy import Annoy
from fedlab.index.engines.base import Engine, Proposer
from fedlab.index.engines.faiss import FaissFlat, FaissHNSW, FaissIVF, FaissIVFPQ, FaissPQ
from fedlab.index.engines.hnsw import HNSW

__all__ = [
    "ENGINES",
    "HNSW",
    "Annoy",
    "Engine",
    "FaissFlat",
    "FaissHNSW",
    "FaissIVF",
    "FaissIVFPQ",
    "FaissPQ",
    "Proposer",
    "engine_from",
    "settings_of",
]

#: Engines by the name under which answers and files know them.
ENGINES: dict[str, Any] = {
    engine.name: engine
    for engine in (HNSW, FaissFlat, FaissIVF, FaissHNSW, FaissPQ, FaissIVFPQ, Annoy)
}


def settings_of(engine: Any) -> dict[str, Any]:
    """Return an engine's name and settings, for a file.

    Raises
    ------
    ValueError
        If the engine is none of this library's, which a file could not name.

    Examples
    --------
    >>> settings_of(FaissIVF(lists=64, probes=4))
    {'name': 'faiss-ivf', 'lists': 64, 'probes': 4, 'seed': 0}
    """
    if ENGINES.get(engine.name) is not type(engine):
        raise ValueError(
            f"{type(engine).__name__} is no engine that a file can name; those are "
            f"{', '.join(ENGINES)}: put the rows into an index with one of them, and save that"
        )
    return {"name": engine.name, **asdict(engine)}


def engine_from(said: Mapping[str, Any]) -> Engine:
    """Return the engine that `settings_of` told.

    Raises
    ------
    ValueError, TypeError
        If there is no such engine, or a setting is none of its or out of bounds.

    Examples
    --------
    >>> engine_from({"name": "graph", "connectivity": 8})
    HNSW(connectivity=8, expansion_add=128, expansion_search=64, dtype=None, rescored=None)
    """
    settings = dict(said)
    name = settings.pop("name", None)
    if name not in ENGINES:
        raise ValueError(f"an engine called {name!r}; this library has {', '.join(ENGINES)}")
    engine: Engine = ENGINES[name](**settings)
    return engine
