"""How long does reading vectors take, against the plain library that reads the same file whole?

For each format: rows a second of both, and the ratio of their seconds (ours to theirs), taken in
turn in one process; medians, with the range of the repeats. Ours comes by batches and is checked
(finite, keys distinct); theirs makes one array and checks nothing. A server of PostgreSQL takes
part where its address is given; a table is made there, and dropped.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sqlite3
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.summary import Spread
from fedlab.data import open_vectors
from fedlab.files.atomic import write_bytes
from fedlab.workbench.experiments.timing import seconds_in_turn


@dataclass(frozen=True)
class Measured:
    """One format: rows a second of ours and of the library's, and seconds as a ratio."""

    name: str
    ours: Spread
    theirs: Spread
    ratio: Spread


def formats(folder: Path, x: np.ndarray[Any, Any]) -> dict[str, tuple[Any, Callable[[], Any]]]:
    """Write each file; return by name what `open_vectors` takes, and the library's own reading."""
    import h5py
    import pyarrow as pa
    from pyarrow import feather, parquet
    from usearch.index import Index

    rows, width = x.shape
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), width)
    table = pa.table({"v": lists})
    paths = {name: folder / f"x.{name}" for name in (
        "npy", "npz", "fvecs", "idx", "idx.gz", "hdf5", "parquet", "feather", "usearch", "db"
    )}  # fmt: skip
    np.save(paths["npy"], x)
    np.savez(paths["npz"], x=x)
    counted = np.empty(rows, [("width", "<i4"), ("numbers", "<f4", (width,))])
    counted["width"], counted["numbers"] = width, x
    counted.tofile(paths["fvecs"])
    pixels = struct.pack(">HBB2I", 0, 8, 2, *x.shape) + (x * 25 + 128).astype(np.uint8).tobytes()
    paths["idx"].write_bytes(pixels)
    paths["idx.gz"].write_bytes(gzip.compress(pixels, 6))
    with h5py.File(paths["hdf5"], "w") as file:
        file["train"] = x
    parquet.write_table(table, paths["parquet"])
    feather.write_feather(table, paths["feather"])
    index = Index(ndim=width, metric="l2sq", dtype="f32", connectivity=4, expansion_add=8)
    index.add(np.arange(rows), x)
    index.save(str(paths["usearch"]))
    with sqlite3.connect(paths["db"]) as connection:
        connection.execute("create table t (id integer primary key, v blob)")
        connection.executemany(
            "insert into t values (?, ?)", ((n, one.tobytes()) for n, one in enumerate(x))
        )

    def restored() -> Any:
        there = Index.restore(str(paths["usearch"]))
        return there.get(np.asarray(there.keys))

    def queried() -> Any:
        with sqlite3.connect(paths["db"]) as connection:
            found = connection.execute("select id, v from t order by id").fetchall()
        return np.stack([np.frombuffer(one, np.float32) for _, one in found])

    def images(packed: bool) -> Any:
        content = gzip.decompress(paths["idx.gz"].read_bytes()) if packed else None
        content = content or paths["idx"].read_bytes()
        return np.frombuffer(content, np.uint8, offset=12).reshape(rows, width)

    def arrow(read: Any) -> Any:
        lists = read().column("v").combine_chunks()
        return lists.flatten().to_numpy().reshape(rows, width)

    def dataset() -> Any:
        with h5py.File(paths["hdf5"]) as file:
            return file["train"][:]

    theirs: dict[str, Callable[[], Any]] = {
        "npy": lambda: np.load(paths["npy"]),
        "npz": lambda: np.load(paths["npz"])["x"],
        "fvecs": lambda: np.fromfile(paths["fvecs"], "<f4").reshape(rows, -1)[:, 1:].copy(),
        "idx": lambda: images(False),
        "idx.gz": lambda: images(True),
        "hdf5": dataset,
        "parquet": lambda: arrow(lambda: parquet.read_table(paths["parquet"])),
        "feather": lambda: arrow(lambda: feather.read_table(paths["feather"])),
        "usearch": restored,
        "db": queried,
    }
    return {name: (paths[name], theirs[name]) for name in paths}


def postgres(address: str, x: np.ndarray[Any, Any]) -> tuple[Any, Callable[[], Any]]:
    """Make a table of arrays; return the address, and psycopg's own reading."""
    import psycopg

    with psycopg.connect(address) as connection, connection.cursor() as cursor:
        cursor.execute("drop table if exists fedlab_readers")
        cursor.execute("create table fedlab_readers (id bigint primary key, v real[])")
        with cursor.copy("copy fedlab_readers from stdin") as copy:
            for n, one in enumerate(x):
                copy.write_row((n, one.tolist()))

    def queried() -> Any:
        with psycopg.connect(address) as connection:
            found = connection.execute("select id, v from fedlab_readers order by id").fetchall()
        return np.array([one for _, one in found], np.float32)

    return address, queried


def measured(name: str, where: Any, theirs: Callable[[], Any], repeats: int) -> Measured:
    """Read one source by both, in turn, after once for the caches; both must agree."""
    tables = {"db": "t", "postgresql": "fedlab_readers"}

    def opened() -> Any:
        if name in tables:
            where_ = f"sqlite:///{where}" if name == "db" else where
            return open_vectors(where_, table=tables[name], vectors="v", key="id")
        return open_vectors(where)

    def ours() -> int:
        return sum(len(batch.rows) for batch in opened().batches())

    first = next(opened().batches(100)).rows
    whole = theirs()
    if name != "usearch" and not np.array_equal(first, whole[:100]):
        raise AssertionError(f"{name}: read in two ways, which differ")
    rows = ours()
    taken = seconds_in_turn({"ours": ours, "theirs": theirs}, repeats)
    pairs = zip(taken["ours"], taken["theirs"], strict=True)
    speeds = {who: Spread.range([rows / one for one in times]) for who, times in taken.items()}
    return Measured(name, **speeds, ratio=Spread.range([mine / other for mine, other in pairs]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write all numbers to a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks readers", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of each file (100000)")
    parser.add_argument("--dimensions", type=int, default=128, help="numbers of a row (128)")
    parser.add_argument("--repeats", type=int, default=7, help="readings by each (7)")
    parser.add_argument("--postgresql", help="postgresql://user:password@host/name of a server")
    parser.add_argument(
        "--json", type=Path, default=Path("reports/benchmarks/readers.json"), help="results, whole"
    )
    given = parser.parse_args(arguments)
    if min(given.rows, given.dimensions, given.repeats) < 1:
        parser.error("--rows, --dimensions and --repeats take whole numbers from 1")
    draw = np.random.default_rng(0)
    x = draw.normal(size=(given.rows, given.dimensions)).astype(np.float32)
    found = []
    print(f"{'format':<10}  {'rows/s':<24}  {'the library, rows/s':<24}  ratio of seconds")
    with tempfile.TemporaryDirectory() as name:
        sources = formats(Path(name), x)
        if given.postgresql:
            sources["postgresql"] = postgres(given.postgresql, x)
        for kind, (where, theirs) in sources.items():
            found.append(one := measured(kind, where, theirs, given.repeats))
            print(f"{kind:<10}  {one.ours!s:<24}  {one.theirs!s:<24}  {one.ratio}", flush=True)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    report = {"rows": given.rows, "dimensions": given.dimensions, "repeats": given.repeats}
    report["formats"] = [asdict(one) for one in found]
    write_bytes(given.json, json.dumps(report, indent=1).encode())
    print(f"all numbers: {given.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
