"""What a library makes of its own file when one byte of it has changed.

Each trial alters one byte, drawn over the whole file, and loads it in a fork with a time limit. It
ends in one of `ENDS`: the load or the search raised an error; the process crashed or hung; or the
search answered, with other neighbours than the unaltered file's or with the same.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.index.engines import Engine
from fedlab.index.vectorindex import VectorIndex

Float = NDArray[np.float32]
Search = Callable[[Path, Float], NDArray[np.int64]]

ENDS = ("refused", "crashed", "hung", "other answers", "same answers")
_SECONDS = 20
_STATUS = {10 + place: end for place, end in enumerate(ENDS)}


@dataclass(frozen=True)
class File:
    """How a library saves what it has built, and searches what it loads.

    Attributes
    ----------
    save : function of (index, path)
    search : function of (path, queries)
        Loads the file; (q, 10) numbers of neighbours.
    """

    save: Callable[[VectorIndex, Path], None]
    search: Search


def _of_graph(index: VectorIndex) -> Any:
    graph: Any = index._graph
    return graph._forest if hasattr(graph, "_forest") else graph._index


def _search_usearch(path: Path, queries: Float) -> NDArray[np.int64]:
    found = import_module("usearch.index").Index.restore(str(path)).search(queries, 10, threads=1)
    return np.asarray(found.keys, np.int64)


def _save_faiss(index: VectorIndex, path: Path) -> None:
    import_module("faiss").write_index(_of_graph(index), str(path))


def _search_faiss(path: Path, queries: Float) -> NDArray[np.int64]:
    return np.asarray(import_module("faiss").read_index(str(path)).search(queries, 10)[1])


def _search_annoy(path: Path, queries: Float) -> NDArray[np.int64]:
    forest = import_module("annoy").AnnoyIndex(queries.shape[1], "angular")
    forest.load(str(path))
    found = [forest.get_nns_by_vector(query, 10) for query in queries]
    return np.array([near + [-1] * (10 - len(near)) for near in found])


def _search_fedlab(path: Path, queries: Float) -> NDArray[np.int64]:
    index = VectorIndex.open(path)
    return index.search(queries, 10, exact=False).keys.astype(np.int64)


def _save_theirs(index: VectorIndex, path: Path) -> None:
    _of_graph(index).save(str(path))


#: Whose file: fedlab's own, which holds any engine, and each library's.
FILES = {
    "fedlab": File(lambda index, path: index.save(path), _search_fedlab),
    "graph": File(_save_theirs, _search_usearch),
    "faiss": File(_save_faiss, _search_faiss),
    "annoy": File(_save_theirs, _search_annoy),
}


def flipped(file: File, engine: Engine, rows: Float, queries: Float, trials: int) -> Counter[str]:
    """Return how many trials ended in which way.

    Raises
    ------
    RuntimeError
        If the unaltered file does not give the answers that it should.
    """
    index = VectorIndex(rows.shape[1], "cosine", "f32", engine)
    index.add(rows)
    index.build_graph()
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    probes = np.asarray(queries / lengths, np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saved"
        file.save(index, path)
        whole = path.read_bytes()
        expected = file.search(path, probes)
        if _ended(file, path, probes, expected) != "same answers":
            raise RuntimeError(f"the unaltered file of {engine} does not answer as it should")
        ends: Counter[str] = Counter()
        for number in range(trials):
            draw = np.random.default_rng([7, number])
            altered = bytearray(whole)
            altered[draw.integers(len(whole))] ^= int(draw.integers(1, 256))
            # A file of its own: Annoy maps the one that it saved, and would read what is written.
            path = Path(folder) / f"altered {number}"
            path.write_bytes(altered)
            ends[_ended(file, path, probes, expected)] += 1
            path.unlink()
    return ends


def _ended(file: File, path: Path, queries: Float, expected: NDArray[np.int64]) -> str:
    child = os.fork()
    if not child:
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what a crash says
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_SECONDS)
        try:
            same = np.array_equal(file.search(path, queries), expected)
        except Exception:
            os._exit(10)
        os._exit(14 if same else 13)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "hung" if os.WTERMSIG(status) == signal.SIGALRM else "crashed"
    return _STATUS.get(os.WEXITSTATUS(status), "crashed")
