"""Indexes whose rows stay in their file: the same bits as in memory, or `IndexFileError`."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from fedlab import Federation, LocalSGD
from fedlab.device import Device
from fedlab.erasure import Fingerprints, audit_erasure
from fedlab.files.blocks import ChosenRows
from fedlab.files.keys import Key, Passphrase
from fedlab.index import scan as scan_module
from fedlab.index.certificate import content_hash
from fedlab.index.file import IndexFileError
from fedlab.index.scan import Queries
from fedlab.index.vectorindex import VectorIndex
from fedlab.models import SoftmaxRegression
from fedlab.search import FederatedSearch
from tests.helpers import DTYPES, METRICS, clustered, content, filled, normal, run_child
from tests.index.test_file import DAMAGE, FORGED, labelled, parts_of, sealed

pytestmark = pytest.mark.skipif(not hasattr(os, "pread"), reason="needs os.pread")

KEY = Key.generate()
KEYS = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "_GATHERED", 1 << 18)


def made(rows: int = 4000, dimensions: int = 300, metric: str = "l2sq", dtype: str = "f32") -> Any:
    """An index whose rows take several blocks of a file, the last one not whole."""
    vectors = clustered(rows, dimensions)
    vectors[rows // 2 :: 7] = vectors[: rows // 2 : 7]  # so that there are ties
    numbers = np.arange(rows)
    return filled(
        vectors,
        metric,
        dtype,
        keys=numbers[::-1] * 3,
        labels=[f"é{n % 5}" for n in numbers],
        metadata={"age": numbers % 90, "ward": [f"ward {n % 3}" for n in numbers]},
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[VectorIndex, Path]:
    index, folder = made(), tmp_path_factory.mktemp("large")
    index.save(folder / "plain")
    index.generation = 0
    index.save(folder / "sealed", KEY)
    return index, folder


@pytest.fixture
def opened(large: Any, key: Key | None, tmp_path: Path) -> tuple[VectorIndex, VectorIndex, Path]:
    """An index, the same one mapped, and its own file."""
    index, folder = large
    path = tmp_path / "own.index"
    shutil.copy(folder / ("sealed" if key else "plain"), path)
    return index, VectorIndex.open(path, key, mapped=True), path


def same_answers(a: VectorIndex, b: VectorIndex, queries: Any, k: int = 9) -> None:
    for where in (None, "age > 40 and ward != 'ward 1'", np.arange(len(a)) % 1000 == 17):
        for count, threads in ((1, 1), (len(queries), 2)):
            one, other = (
                index.search(queries[:count], k, where=where, threads=threads, exact=exact)
                for index, exact in ((a, True), (b, None))
            )
            np.testing.assert_array_equal(one.keys, other.keys)
            np.testing.assert_array_equal(one.distances, other.distances)
            np.testing.assert_array_equal(one.counts, other.counts)
            assert other.engine == "scan"
        radius = float(np.median(one.distances[one.found]))
        near, too = (index.within(queries, radius, where=where, limit=50) for index in (a, b))
        for name in ("offsets", "keys", "distances", "totals"):
            np.testing.assert_array_equal(getattr(near, name), getattr(too, name))


# -- the same bits -----------------------------------------------------------------------------


@KEYS
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mapped_index_answers_as_one_in_memory(
    metric: str, dtype: str, key: Key | None, tmp_path: Path
) -> None:
    index = made(2500, 150, metric, dtype)
    index.build_graph()
    index.save(tmp_path / "own.index", key)
    mapped = VectorIndex.open(tmp_path / "own.index", key, mapped=True)
    whole = VectorIndex.open(tmp_path / "own.index", key)
    assert (len(mapped), mapped.metric, mapped.dtype) == (2500, metric, dtype)
    assert mapped.engine == index.engine
    assert (mapped.mapped, whole.mapped, mapped.has_graph) == (True, False, False)
    queries = normal(20, 150, seed=3)
    same_answers(whole, mapped, queries)
    places = np.random.default_rng(0).integers(0, 2500, 300)
    np.testing.assert_array_equal(mapped.get(mapped.keys[places]), whole.vectors[places])
    np.testing.assert_array_equal(mapped.vectors, whole.vectors)
    over = VectorIndex.over(mapped.columns, 150, metric, mapped.dtype)  # type: ignore[arg-type]
    over.remove(over.keys[1:])
    np.testing.assert_array_equal(over.vectors, whole.vectors[:1])
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(mapped.columns[name][:], column)
        np.testing.assert_array_equal(mapped.columns[name][100:107], column[100:107])
    ready = Queries.of(queries, metric)
    one, other = (an.scan(ready, 5) for an in (whole, mapped))
    np.testing.assert_array_equal(one.distances, other.distances)
    np.testing.assert_array_equal(one.keys, other.keys)
    assert content_hash(mapped) == content_hash(whole)
    assert mapped.metadata_of([3, 0]).equals(whole.metadata_of([3, 0]))
    assert mapped.search(queries, 9000, threads=2).counts.tolist() == [2500] * 20
    whole.let_go()  # its graph would be in the file
    assert content(mapped, tmp_path) == content(whole, tmp_path)
    part = mapped.view(100, 200)
    same = whole.view(100, 200)
    assert not part.mapped
    part.remove(part.keys[:3])
    same.remove(same.keys[:3])
    np.testing.assert_array_equal(part.vectors, same.vectors)


@KEYS
def test_an_empty_index_can_be_mapped(key: Key | None, tmp_path: Path) -> None:
    VectorIndex(3, "l2sq", "i8").save(tmp_path / "own.index", key)
    mapped = VectorIndex.open(tmp_path / "own.index", key, mapped=True)
    assert mapped.search([[1, 2, 3]], 4).counts.tolist() == [0]
    assert mapped.within([[1, 2, 3]], 4.0).counts.tolist() == [0]
    assert mapped.get([]).shape == mapped.vectors.shape == (0, 3)


@KEYS
def test_many_threads_may_search(opened: Any, key: Key | None) -> None:
    index, mapped, _ = opened
    queries = normal(30, 300, seed=5)
    expected = index.search(queries, 5, exact=True)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: mapped.search(queries, 5), range(16)))
    for hits in found:
        np.testing.assert_array_equal(hits.keys, expected.keys)
        np.testing.assert_array_equal(hits.distances, expected.distances)


@KEYS
def test_a_device_learns_from_a_mapped_index(opened: Any, key: Key | None) -> None:
    index, mapped, _ = opened
    one, other = (Device("ward", an).hold_out(0.2, seed=0) for an in (index, mapped))
    for given, too in zip(
        (*one.training(), *one.validation()), (*other.training(), *other.validation()), strict=True
    ):
        np.testing.assert_array_equal(given, too)
    assert one.class_counts() == other.class_counts()
    # Rows that were read for this once aren't kept.
    assert not any(array.ndim == 2 for _, array in other.buffers())


def test_devices_over_mapped_indexes_learn_and_search_together(tmp_path: Path) -> None:
    held, mapped = [], []
    for number in range(3):
        index = VectorIndex(12, "cosine", "f16")
        rows = clustered(80, 12, seed=number)
        index.add(rows, keys=np.arange(80) + 100 * number, labels=np.arange(80) % 3)
        index.save(tmp_path / f"{number}.index", KEY)
        held.append(Device(number, index))
        opened = VectorIndex.open(tmp_path / f"{number}.index", KEY, mapped=True)
        mapped.append(Device(number, opened))
    queries = normal(4, 12, seed=9)
    one, other = (FederatedSearch(devices).search(queries, k=5) for devices in (held, mapped))
    np.testing.assert_array_equal(one.keys, other.keys)
    np.testing.assert_array_equal(one.distances, other.distances)
    trained = []
    for devices in (held, mapped):
        local = LocalSGD(learning_rate=0.1)
        federation = Federation(devices, SoftmaxRegression(12, 3), local=local, seed=0)
        federation.run(2)
        trained.append(federation.parameters)
    np.testing.assert_array_equal(*trained)


def test_sizes_never_ask_it_for_a_graph(large: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlab.index.planner.SCAN_LIMIT", 100)
    monkeypatch.setattr("fedlab.index.planner.BUILD_PAYS_AFTER", 1)
    _, folder = large
    mapped, queries = VectorIndex.open(folder / "plain", mapped=True), normal(5, 300)
    assert VectorIndex.open(folder / "plain").search(queries, 1).engine == "graph"
    assert mapped.search(queries, 1).engine == "scan"


# -- a file that changes beneath -----------------------------------------------------------------


@KEYS
def test_a_flip_after_opening_is_an_error_or_changes_nothing(opened: Any, key: Key | None) -> None:
    index, mapped, path = opened
    whole, draw = path.read_bytes(), np.random.default_rng(11)
    queries = normal(3, 300, seed=6)
    expected = index.search(queries, 5, exact=True)
    said = []
    with path.open("r+b") as file:
        for trial in range(60):
            place = int(draw.integers(len(whole)))
            altered = bytes([whole[place] ^ (1 << int(draw.integers(8)))])
            file.seek(place)
            file.write(altered)
            file.flush()
            try:
                if trial % 2:
                    np.testing.assert_array_equal(mapped.vectors, index.vectors)
                else:
                    hits = mapped.search(queries, 5)
                    np.testing.assert_array_equal(hits.distances, expected.distances)
                    np.testing.assert_array_equal(hits.keys, expected.keys)
            except IndexFileError as error:
                said.append(str(error))
            file.seek(place)
            file.write(whole[place : place + 1])
            file.flush()
    assert all(one.startswith("own.index was altered since it was opened") for one in said)
    assert len(said) > 50  # all but those in header, keys, labels and metadata: 3% of the file
    np.testing.assert_array_equal(mapped.vectors, index.vectors)


@KEYS
def test_rows_of_blocks_that_are_whole_are_still_read(opened: Any, key: Key | None) -> None:
    index, mapped, path = opened
    with path.open("r+b") as file:
        file.seek(2_500_000)
        byte = file.read(1)
        file.seek(2_500_000)
        file.write(bytes([byte[0] ^ 1]))
    np.testing.assert_array_equal(mapped.get(mapped.keys[:500]), index.vectors[:500])
    for ask in (
        lambda: mapped.get(mapped.keys[[0, 2083]]),
        lambda: mapped.search(np.ones(300), 3),
        lambda: mapped.within(np.ones(300), 3.0),
        lambda: mapped.view(2000, 2100),
        lambda: mapped.save(path.with_name("other.index"), key),
        lambda: content_hash(mapped),
    ):
        with pytest.raises(IndexFileError, match="altered"):
            ask()
    assert os.listdir(path.parent) == ["own.index"]


def replaced(path: Path) -> None:
    shutil.copy(path, path.with_name("twin"))
    os.replace(path.with_name("twin"), path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "cut in the middle": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path: os.truncate(path, 0),
    "grown": lambda path: os.truncate(path, path.stat().st_size + 4096),
    "removed": os.remove,
    "replaced by a copy": replaced,
    "replaced by a folder": lambda path: (os.remove(path), os.mkdir(path)),
}


@KEYS
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_is_another_one_now_is_refused(
    opened: Any, key: Key | None, change: Callable[[Path], object]
) -> None:
    _, mapped, path = opened
    change(path)
    for ask in (
        lambda: mapped.search(np.ones(300), 3),
        lambda: mapped.get(mapped.keys[:1]),
        lambda: mapped.vectors,
    ):
        with pytest.raises(IndexFileError, match=r"own\.index .* since it was opened; open it"):
            ask()
    assert len(mapped) == 4000  # what stands in memory still does
    assert mapped.labels_of([0]).tolist() == ["é4"]


@KEYS
def test_a_file_that_is_cut_while_threads_search(opened: Any, key: Key | None) -> None:
    index, mapped, path = opened
    queries = normal(2, 300, seed=8)
    expected, whole, stop = index.search(queries, 4, exact=True), path.read_bytes(), Event()

    def ask() -> int:
        refused = 0
        while not stop.is_set():
            try:
                hits = mapped.search(queries, 4)
            except IndexFileError:
                refused += 1
                continue
            np.testing.assert_array_equal(hits.keys, expected.keys)
            np.testing.assert_array_equal(hits.distances, expected.distances)
        return refused

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        for size in (len(whole) // 2, 100, 0, len(whole) - 1):
            os.truncate(path, size)
            path.open("r+b").write(whole)  # in place: the same file again
        stop.set()
        refused = sum(one.result(timeout=60) for one in asking)
    assert refused >= 0
    np.testing.assert_array_equal(mapped.search(queries, 4).keys, expected.keys)


# -- what it can't do ----------------------------------------------------------------------------

REFUSED: dict[str, Callable[[VectorIndex, Path], object]] = {
    "add": lambda index, _: index.add(normal(1, 300), labels=["x"]),
    "upsert": lambda index, _: index.upsert(normal(1, 300), [0], ["x"]),
    "remove": lambda index, _: index.remove([0]),
    "erase": lambda index, _: index.erase([0]),
    "let go": lambda index, _: index.let_go(),
    "build a graph": lambda index, _: index.build_graph(),
    "ask a graph": lambda index, _: index.search(normal(1, 300), 3, exact=False),
    "tune": lambda index, _: index.tune(expansion_search=100),
    "rebuild": lambda index, path: index.save(path, rebuild=True),
    "pickle": lambda index, _: pickle.dumps(index),
    "copy": lambda index, _: copy.copy(index),
    "deepcopy": lambda index, _: copy.deepcopy(index),
}


@pytest.mark.parametrize("key", [None])
@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_what_it_cannot_do_says_what_to_do(
    opened: Any, key: None, call: Callable[[VectorIndex, Path], object]
) -> None:
    index, mapped, path = opened
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"is mapped: .*open the file without mapped=True, or"):
        call(mapped, path)
    assert path.read_bytes() == before
    np.testing.assert_array_equal(mapped.keys, index.keys)


# -- saving --------------------------------------------------------------------------------------


@KEYS
def test_it_can_be_saved_over_its_own_file(opened: Any, key: Key | None, tmp_path: Path) -> None:
    index, mapped, path = opened
    path.with_name("link").symlink_to(path)
    for place in (path, path.with_name("link")):
        mapped.save(place, key)
        np.testing.assert_array_equal(mapped.vectors, index.vectors)
    assert mapped.generation == VectorIndex.open(path, key, at_least=3).generation == 3
    assert sorted(os.listdir(path.parent)) == ["link", "own.index"]
    other = Passphrase("a passphrase that is long enough")
    mapped.save(path.with_name("other.index"), other)
    np.testing.assert_array_equal(
        VectorIndex.open(path.with_name("other.index"), other, mapped=True).vectors, index.vectors
    )
    same_answers(index, mapped, normal(3, 300, seed=1))


def test_nothing_of_a_sealed_file_is_written_in_the_clear(tmp_path: Path) -> None:
    index = made(3000)
    fingerprints = Fingerprints.taken(index, index.keys[::100])
    path = tmp_path / "own.index"
    index.save(path, KEY)
    mapped = VectorIndex.open(path, KEY, mapped=True)
    mapped.search(normal(5, 300), 3)
    mapped.save(path, KEY)
    empty = VectorIndex(300, "l2sq")
    assert audit_erasure(empty, fingerprints, folders=[tmp_path]).found == ()
    assert audit_erasure(empty, fingerprints, files=[path], key=KEY).verdict == "found"
    # Nor does the mapped index hold rows.
    assert not any("codes" in name for name, _ in mapped.buffers())


# -- opening -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_damaged_files_are_refused(dtype: str, tmp_path: Path) -> None:
    labelled("cosine", dtype).save(tmp_path / "whole.index")
    labelled("l2sq", dtype, graph=False).save(tmp_path / "other.index")
    code = DAMAGE.replace("VectorIndex.open(trial)", "VectorIndex.open(trial, mapped=True)")
    code = code.replace("exact=False", "exact=True")
    refused = run_child(code, tmp_path / "whole.index", tmp_path / "other.index", dtype[-1])
    assert int(refused) > 330


@pytest.mark.parametrize("name", FORGED)
def test_forged_files_are_refused_unless_it_is_the_graph(name: str, tmp_path: Path) -> None:
    path = tmp_path / "forged.index"
    path.write_bytes(FORGED[name](*parts_of(content(labelled(), tmp_path))))
    try:
        mapped = VectorIndex.open(path, mapped=True)
    except IndexFileError:
        return
    assert "graph" in name or "connectivity" in name or "USearch" in name
    np.testing.assert_array_equal(mapped.vectors, labelled().vectors)


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_earlier_versions(version: int, tmp_path: Path) -> None:
    index = filled(normal(30, 4), labels=np.arange(30))
    path = tmp_path / "earlier.index"
    path.write_bytes(sealed(*parts_of(content(index, tmp_path)), version=version))
    if version == 1:
        with pytest.raises(IndexFileError, match="version 1, which is read whole only"):
            VectorIndex.open(path, mapped=True)
    else:
        np.testing.assert_array_equal(VectorIndex.open(path, mapped=True).vectors, index.vectors)


def test_keys_and_generations_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "own.index"
    labelled().save(path, KEY)
    with pytest.raises(IndexFileError, match="at least 2 was"):
        VectorIndex.open(path, KEY, at_least=2, mapped=True)
    for key in (None, Key.generate()):
        with pytest.raises(IndexFileError, match="sealed"):
            VectorIndex.open(path, key, mapped=True)


# -- memory --------------------------------------------------------------------------------------

LIMITED = """
import ctypes, gc, os, resource, sys
# The limit is one of addresses, of which glibc sets 128 MB aside for each thread's own heap.
getattr(ctypes.CDLL(None), "mallopt", print)(-8, 1)
os.environ["FEDLAB_THREADS"] = "2"
import numpy as np
from fedlab import Key, VectorIndex

path, key = sys.argv[1], Key.from_file(sys.argv[2]) if sys.argv[2] != "none" else None
draw, queries = np.random.default_rng(0), np.ones((12, 384), np.float32)
warm = VectorIndex(384, "l2sq")  # compiles, starts threads
warm.add(draw.random((20_000, 384), np.float32))
warm.save(path + ".warm", key)
small = VectorIndex.open(path + ".warm", key, mapped=True)
small.search(queries, 5, threads=2), small.within(queries, 60.0), small.get([3]), small.vectors
del warm, small
gc.collect()
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    VectorIndex.open(path, key)
    print("in memory")
except MemoryError:
    print("MemoryError")
gc.collect()
mapped = VectorIndex.open(path, key, mapped=True)
hits = mapped.search(queries, 3, threads=2)
single = mapped.search(queries[:1], 3)
assert (single.keys == hits.keys[:1]).all()
assert len(mapped.get(mapped.keys[::5000])) == len(mapped) // 5000
assert mapped.within(queries, float(hits.distances[0, 2])).counts[0] == 3
print(hits.keys[0].tolist(), len(mapped))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
@KEYS
def test_a_file_larger_than_memory_is_searched(key: Key | None, tmp_path: Path) -> None:
    path, draw = tmp_path / "large.index", np.random.default_rng(1)
    index = VectorIndex(384, "l2sq")
    rows = 300_000  # 460 MB
    for _ in range(10):
        index.add(draw.random((rows // 10, 384), np.float32))
    expected = index.search(np.ones(384), 3, exact=True).keys[0].tolist()
    index.save(path, key)
    del index
    if key:
        key.write(tmp_path / "key")
    said = run_child(LIMITED, path, tmp_path / "key" if key else "none", str(200 << 20))
    assert said.split("\n")[:2] == ["MemoryError", f"{expected} {rows}"]
    path.unlink()  # pytest would keep it for a while


@KEYS
def test_chosen_rows_of_files_and_memory_are_those_of_one_array(opened: Any, key: Key) -> None:
    index, mapped, _ = opened
    arrays = [index.vectors[:0], mapped.columns["codes"], index.vectors[::-1]]
    whole, draw = np.concatenate([array[:] for array in arrays]), np.random.default_rng(4)
    for places in (draw.permutation(8000), np.arange(8000), np.arange(3), np.array([7999, 2, 2])):
        rows = ChosenRows(arrays, places)
        assert (len(rows), rows.shape, rows.nbytes) == (
            len(places),
            (len(places), 300),
            len(places) * 1200,
        )
        np.testing.assert_array_equal(rows[:], whole[places])
        some = draw.integers(0, len(places), 50)
        np.testing.assert_array_equal(rows[some], whole[places][some])
        found = [*rows.pieces()]
        assert {len(piece) for piece in found[:-1]} <= {1 << 20}
        assert b"".join(found) == whole[places].tobytes()
