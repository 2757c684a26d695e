"""Files that the real libraries wrote are read as those read them; bad ones are told, no crash.

NumPy, h5py, pyarrow and USearch write; IDX and TEXMEX's formats are written by their definition.
"""

from __future__ import annotations

import gc
import gzip
import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from usearch.index import Index

from fedlab.data import VectorSource, open_vectors, read_vectors

X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
KEYS = np.arange(50, dtype=np.uint64) * 7 + 1000
Y = np.array(["cat", "dog", "emu"])[np.arange(50) % 3]


def whole(source: VectorSource, size: int = 7) -> tuple[Any, Any, Any, Any]:
    """Read a source by small batches: keys, rows, labels, metadata."""
    keys, rows, labels, about, _ = zip(*source.batches(size), strict=True)
    return (
        np.concatenate(keys),
        np.concatenate(rows),
        None if labels[0] is None else np.concatenate(labels),
        None if about[0] is None else pd.concat(about),
    )


# -- writers, each of the real library, or by the definition --------------------------------------


def vecs(x: np.ndarray[Any, Any]) -> bytes:
    return b"".join(struct.pack("<i", len(row)) + row.tobytes() for row in x)


def idx(x: np.ndarray[Any, Any], code: int) -> bytes:
    sides = struct.pack(f">{x.ndim}I", *x.shape)
    return bytes([0, 0, code, x.ndim]) + sides + x.astype(x.dtype.newbyteorder(">")).tobytes()


def table() -> pa.Table:
    lists = pa.array(list(X), type=pa.list_(pa.float32()))
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 4)
    when = pd.date_range("2026-01-01", periods=50, tz="Europe/Berlin")
    ages = [None, *range(49)]
    return pa.table({"lists": lists, "fixed": fixed, "y": Y, "id": KEYS, "when": when, "age": ages})


def usearch(path: Path) -> None:
    index = Index(ndim=4, metric="cos", dtype="f32")
    index.add(KEYS, X, threads=1)
    index.save(str(path))


def hdf5(path: Path, **how: Any) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("train", data=X, **how)
        file["test"], file["neighbors"] = X[:5], np.zeros((5, 3), np.int32)
        file["distances"], file["ids"] = np.zeros((5, 3), np.float32), KEYS
        file.attrs["distance"] = "angular"


def arrow(path: Path, without: str, **how: Any) -> None:
    write: Any = parquet.write_table if path.suffix == ".parquet" else feather.write_feather
    write(table().drop([without]), path, **how)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "x.npy": lambda path: np.save(path, X),
    "fortran.npy": lambda path: np.save(path, np.asfortranarray(X)),
    "big.npy": lambda path: np.save(path, X.astype(">f8")),
    "x.npz": lambda path: np.savez(path, x=X),
    "packed.npz": lambda path: np.savez_compressed(path, x=X),
    "x.fvecs": lambda path: path.write_bytes(vecs(X)),
    "x.idx": lambda path: path.write_bytes(idx(X, 13)),
    "x.idx.gz": lambda path: path.write_bytes(gzip.compress(idx(X, 13))),
    "x.h5": hdf5,
    "chunks.hdf5": lambda path: hdf5(path, compression="gzip", chunks=(8, 4), shuffle=True),
    "x.parquet": lambda path: arrow(path, "lists", row_group_size=9),
    "lists.parquet": lambda path: arrow(path, "fixed"),
    "x.feather": lambda path: arrow(path, "fixed", chunksize=9),
    "plain.arrow": lambda path: arrow(path, "lists", compression="uncompressed"),
    "x.usearch": usearch,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, write in WRITERS.items():
        write(folder / name)
    return folder


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_read_as_it_was_written(files: Path, name: str) -> None:
    source = open_vectors(files / name)
    assert (len(source), source.dimensions) == X.shape
    keys, rows, labels, about = whole(source)
    np.testing.assert_array_equal(rows, X)
    np.testing.assert_array_equal(keys, KEYS if name == "x.usearch" else np.arange(50))
    assert labels is about is None
    assert rows.dtype == (np.float64 if name == "big.npy" else np.float32)
    # And from where a batch ended, another reading goes on.
    ends = [batch.end for batch in source.batches(7)]
    rest = np.concatenate([batch.rows for batch in source.batches(7, after=ends[2])])
    np.testing.assert_array_equal(rest, X[sum(len(b.rows) for b in [*source.batches(7)][:3]) :])


@pytest.mark.parametrize("name", WRITERS)
def test_no_file_is_left_open(files: Path, name: str) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        source = open_vectors(files / name)
        next(source.batches(7))
        del source
        gc.collect()
    assert [one.message for one in said if one.category is ResourceWarning] == []


def test_no_batch_is_larger_than_asked_for(files: Path) -> None:
    for name in WRITERS:
        sizes = [len(batch.rows) for batch in open_vectors(files / name).batches(8)]
        assert max(sizes) <= 8, name
        assert sum(sizes) == 50, name


def test_columns_beside_the_vectors_play_their_roles(files: Path, tmp_path: Path) -> None:
    for name, vectors in (("x.parquet", "fixed"), ("x.feather", "lists")):
        source = open_vectors(
            files / name, vectors=vectors, labels="y", key="id", metadata=["when", "age"]
        )
        keys, _, labels, about = whole(source)
        assert keys.tolist() == KEYS.tolist()
        assert labels.tolist() == Y.tolist()
        when = pd.date_range("2026-01-01", periods=50, tz="Europe/Berlin")
        assert about["when"].tolist() == when.tz_convert("UTC").tz_localize(None).tolist()
        np.testing.assert_array_equal(about["age"], [np.nan, *range(49)])
    np.savez(tmp_path / "x.npz", x=X, y=Y, id=KEYS, other=X[:3])
    source = open_vectors(tmp_path / "x.npz", vectors="x", labels="y", key="id")
    keys, _, labels, _ = whole(source)
    assert (keys.tolist(), labels.tolist()) == (KEYS.tolist(), Y.tolist())


def test_hdf5_of_ann_benchmarks_tells_its_metric_and_all_its_datasets(files: Path) -> None:
    source = open_vectors(files / "x.h5", key="ids")
    assert source.store.metric == "cosine"
    assert whole(source)[0].tolist() == KEYS.tolist()
    assert open_vectors(files / "x.h5", vectors="neighbors").dimensions == 3
    with pytest.raises(ValueError, match=r"\['test', 'ids'\] are to be vectors"):
        open_vectors(files / "x.h5", vectors="test", key="ids")


def test_hdf5_never_leads_to_other_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["train"] = X
    (tmp_path / "raw").write_bytes(X.tobytes())
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["link"] = h5py.ExternalLink("secret.h5", "/train")
        layout = h5py.VirtualLayout((50, 4), np.float32)
        layout[:] = h5py.VirtualSource("secret.h5", "train", (50, 4))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("train", (50, 4), "f4", external=[("raw", 0, 800)])
    with pytest.raises(ValueError, match=r"there are \{\}"):
        open_vectors(tmp_path / "x.h5")


@pytest.mark.parametrize(
    ("dtype", "numpy"),
    [("f64", "f8"), ("f32", "f4"), ("f16", "f2"), ("bf16", "f4"), ("i8", "i1")],
)
def test_an_index_of_usearch_gives_the_numbers_that_usearch_stores(
    tmp_path: Path, dtype: str, numpy: str
) -> None:
    path = tmp_path / "x.usearch"
    index = Index(ndim=20, metric="l2sq", dtype=dtype)
    rows = np.random.default_rng(1).normal(size=(3000, 20)).astype(np.float32)
    keys = np.arange(3000, dtype=np.uint64) * 3
    index.add(keys, rows)
    index.remove(keys[100:200])
    index.save(str(path))
    source = open_vectors(path)
    assert (source.store.metric, len(source)) == ("l2sq", 2900)
    found, read, _, _ = whole(source, 111)
    assert set(found.tolist()) == set(np.delete(keys, slice(100, 200)).tolist())
    assert read.dtype == np.dtype(numpy)
    theirs = Index.restore(str(path)).get(found, dtype=dtype if dtype != "bf16" else "f32")
    np.testing.assert_array_equal(read, np.stack(theirs))


def test_bits_of_usearch_are_zeros_and_ones(tmp_path: Path) -> None:
    bits = np.random.default_rng(1).integers(0, 2, (100, 24), dtype=np.uint8)
    index = Index(ndim=24, metric="hamming", dtype="b1")
    index.add(np.arange(100), np.packbits(bits, axis=1), threads=1)
    index.save(str(tmp_path / "x.usearch"))
    np.testing.assert_array_equal(whole(open_vectors(tmp_path / "x.usearch"))[1], bits)


def test_an_index_of_usearch_without_rows_or_without_its_vectors_is_not_read(
    tmp_path: Path,
) -> None:
    Index(ndim=4).save(str(tmp_path / "none.usearch"))
    none = open_vectors(tmp_path / "none.usearch")  # an index that follows it is emptied
    assert (len(none), [*none.batches()], none.all_keys()[0].tolist()) == (0, [], [])
    with pytest.raises(ValueError, match=r"'none\.usearch' has no rows to read"):
        read_vectors(none)
    (tmp_path / "x.usearch").write_bytes(b"usearch" + bytes(200))
    with pytest.raises(ValueError, match="holds no vectors as USearch 2 saves them"):
        open_vectors(tmp_path / "x.usearch")


def test_images_and_labels_of_idx_files_are_mnists(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    digits = (np.arange(20) % 10).astype(np.uint8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images, 8)))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images, 8))
    (tmp_path / "labels.gz").write_bytes(gzip.compress(idx(digits, 8)))
    for name in ("train-images-idx3-ubyte.gz", "train-images-idx3-ubyte"):
        data = read_vectors(tmp_path / name, tmp_path / "labels.gz")
        np.testing.assert_array_equal(data.x, images.reshape(20, 784))
        assert (data.y.tolist(), data.origin.source) == (digits.tolist(), name)


@pytest.mark.parametrize("suffix", [".fvecs", ".bvecs", ".ivecs"])
def test_vectors_of_texmex_keep_their_type(tmp_path: Path, suffix: str) -> None:
    kind = {".fvecs": "<f4", ".bvecs": "u1", ".ivecs": "<i4"}[suffix]
    x = np.arange(60).reshape(12, 5).astype(kind)
    (tmp_path / f"x{suffix}").write_bytes(vecs(x))
    rows = whole(open_vectors(tmp_path / f"x{suffix}"))[1]
    np.testing.assert_array_equal(rows, x)
    assert rows.dtype == np.dtype(kind)


# -- what is refused, and where -------------------------------------------------------------------


def refused(path: Path, **how: Any) -> str:
    with pytest.raises(ValueError, match=r"can't be read|are to be|has no column") as told:
        whole(open_vectors(path, **how))
    assert path.name in str(told.value)
    return str(told.value)


class Boom:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was run",))


def test_what_could_run_code_is_refused_with_the_way_to_convert(tmp_path: Path) -> None:
    for name in ("x.pkl", "x.pt", "x.joblib", "no_suffix"):
        (tmp_path / name).write_bytes(pickle.dumps([Boom()]))
        said = refused(tmp_path / name)
        assert "it could run anything" in said
        assert "numpy.save('vectors.npy'" in said
    np.savez(tmp_path / "objects.npz", x=np.array([[Boom()]], object))
    assert "never unpickled" in refused(tmp_path / "objects.npz")
    with zipfile.ZipFile(tmp_path / "model.npz", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Boom()))
    assert "like a model of torch's" in refused(tmp_path / "model.npz")


@pytest.mark.parametrize("name", WRITERS)
def test_a_cut_or_a_longer_file_is_refused(files: Path, tmp_path: Path, name: str) -> None:
    content = (files / name).read_bytes()
    few = (
        (9, len(content) - 1)
        if name.endswith("5")
        else (0, 1, 9, len(content) // 2 + 1, len(content) - 1)
    )
    for length in few:
        (tmp_path / name).write_bytes(content[:length])
        refused(tmp_path / name)
    if not name.endswith((".npz", ".h5", ".hdf5", ".parquet", ".feather", ".arrow")):
        (tmp_path / name).write_bytes(content + b"more")
        refused(tmp_path / name)


def test_lengths_that_no_file_has_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 60, 4)}
    )
    (tmp_path / "x.npy").write_bytes(header.getvalue() + bytes(64))
    assert "is torn" in refused(tmp_path / "x.npy")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(64))
    assert "is torn" in refused(tmp_path / "x.npz")
    for sides in ((1 << 31, 1 << 31, 8), (10, 1 << 20)):
        head = bytes([0, 0, 8, len(sides)]) + struct.pack(f">{len(sides)}I", *sides)
        (tmp_path / "x.idx").write_bytes(head + bytes(64))
        refused(tmp_path / "x.idx")
        (tmp_path / "x.gz").write_bytes(gzip.compress(head + bytes(64)))
        refused(tmp_path / "x.gz")
    (tmp_path / "x.fvecs").write_bytes(struct.pack("<i", 1 << 30) + bytes(64))
    assert "1073741824" in refused(tmp_path / "x.fvecs")
    (tmp_path / "x.usearch").write_bytes(struct.pack("<II", 1 << 31, 1 << 31) + bytes(640))
    refused(tmp_path / "x.usearch")


def test_rows_that_are_no_vectors_are_told_by_their_place_and_key(tmp_path: Path) -> None:
    bad = X.astype(np.float64)
    bad[17, 2] = 1e300
    np.savez(tmp_path / "x.npz", x=bad, id=KEYS)
    said = refused(tmp_path / "x.npz", key="id")
    assert "in 1 row (17), the first of key 1119" in said
    bad[17, 2] = np.nan
    np.savez(tmp_path / "x.npz", x=bad)
    assert "row (17)" in refused(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", x=X, y=[*range(49), np.nan], id=-np.arange(50))
    assert "label 'y' is missing in 1 row (49)" in refused(tmp_path / "x.npz", labels="y")
    assert "outside 0 ... 2**64 - 2" in refused(tmp_path / "x.npz", key="id")
    mixed = vecs(X[:9]) + struct.pack("<i", 3) + X[9].tobytes()
    (tmp_path / "x.fvecs").write_bytes(mixed)
    assert "row 9 has 3 numbers, the first row 4" in refused(tmp_path / "x.fvecs")


def test_lists_with_gaps_or_of_other_lengths_are_told_by_their_row(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    cases: dict[str, Any] = {
        "row 12 has 3 numbers, the first row 4": [1.0, 2.0, 3.0],
        "row 12 has a null, the first row 4": None,
        "row 12 holds a null": [1.0, None, 3.0, 4.0],
        "in 1 row (12)": [1.0, np.inf, 3.0, 4.0],
    }
    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 4)):
        for said, odd in cases.items():
            if odd is None or len(odd) == 4 or not pa.types.is_fixed_size_list(kind):
                lists: list[Any] = [row.tolist() for row in X]
                lists[12] = odd
                parquet.write_table(pa.table({"v": pa.array(lists, type=kind)}), path)
                assert said in refused(path)
    parquet.write_table(pa.table({"v": ["a"] * 3, "w": [["a"]] * 3}), path)
    refused(path, vectors="v")
    refused(path, vectors="w")


def test_what_is_asked_for_and_not_there_is_told_with_what_is(files: Path, tmp_path: Path) -> None:
    said = refused(files / "x.h5", vectors="rows")
    assert "'train': (50, 4, 'float32')" in said
    assert "there are" in refused(files / "x.npz", labels="y")
    with pytest.raises(FileNotFoundError, match=r"no file 'none\.npy'"):
        open_vectors(tmp_path / "none.npy")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    assert "HDF5, Parquet, Arrow" in refused(tmp_path / "x.csv")
    np.savez(tmp_path / "x.npz", x=X, id=np.zeros(50, int))
    with pytest.raises(ValueError, match="holds a key twice"):
        read_vectors(open_vectors(tmp_path / "x.npz", key="id"), Y)


# -- whatever a file holds ------------------------------------------------------------------------


@st.composite
def mutations(draw: Any) -> Callable[[bytes], bytes]:
    place, cut = draw(st.floats(0, 1)), draw(st.booleans())
    words = st.sampled_from([b"\xff" * 8, bytes(8), b"\xff\xff\xff\x7f"])
    other = draw(words | st.binary(max_size=9))

    def mutated(content: bytes) -> bytes:
        at = int(place * len(content))
        return content[:at] + other + (b"" if cut else content[at + len(other) :])

    return mutated


@pytest.mark.parametrize("name", [name for name in WRITERS if "h" not in name[-4:]])
@given(mutate=mutations())
@example(mutate=lambda content: content)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_file_with_other_bytes_is_read_or_refused(
    files: Path, name: str, mutate: Callable[[bytes], bytes]
) -> None:
    read_or_refused(files / name, files / f"mutated-{name}", mutate)


@given(mutate=mutations())
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_bad_hdf5_is_read_or_refused_though_its_library_may_hang(
    files: Path, mutate: Callable[[bytes], bytes]
) -> None:
    """A few only: each takes a process."""
    read_or_refused(files / "x.h5", files / "mutated.h5", mutate)


def read_or_refused(path: Path, other: Path, mutate: Callable[[bytes], bytes]) -> None:
    other.write_bytes(mutate(path.read_bytes()))
    told = ""
    try:
        source = open_vectors(other)
        _, rows, _, _ = whole(source)
    except ValueError as error:
        told = str(error)
    if told:
        assert other.name in told
    else:
        assert rows.shape == (len(source), source.dimensions)
        assert np.isfinite(rows).all()


def test_which_column_holds_vectors_is_asked_where_several_may(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=X, text=X)
    with pytest.raises(ValueError, match=r"name the column of vectors: .*'image': \(50, 4\)"):
        open_vectors(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="has no column 'txt'; there are"):
        open_vectors(tmp_path / "x.npz", vectors="image", labels="txt")
