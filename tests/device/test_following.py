"""A saved index is filled from a source, killed and gone on with, and brought up to date."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from fedlab import Key, VectorIndex
from fedlab.data import VectorSource, open_vectors
from fedlab.device import Followed, follow
from fedlab.files import is_sealed
from tests.servers import KINDS, server

X = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)


@pytest.fixture(scope="module", params=KINDS)
def postgres(request: pytest.FixtureRequest) -> Any:
    with server(request.param) as address:
        yield address


@pytest.fixture
def items(postgres: str) -> Any:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("drop table if exists items")
        connection.execute(
            "create table items (id bigint primary key, v real[], class text, age int, "
            "at timestamptz default now())"
        )
        put(connection, range(200))
        yield connection


def put(connection: Any, ids: Any, scale: float = 1.0) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into items values (%s, %s, %s, %s) on conflict (id) do update "
            "set v = excluded.v, class = excluded.class, at = clock_timestamp()",
            [(n, (scale * X[n % 200]).tolist(), "ab"[n % 2], n or None) for n in ids],
        )


def source_of(postgres: str, changed: str | None = None) -> VectorSource:
    return open_vectors(
        postgres, table="items", vectors="v", key="id", labels="class", metadata=["age"],
        changed=changed,
    )  # fmt: skip


def agree(path: Path, connection: Any, key: Key | None = None) -> None:
    """The saved index holds what the table holds."""
    index = VectorIndex.open(path, key)
    rows = connection.execute("select id, v, class, age from items order by id").fetchall()
    ids = [row[0] for row in rows]
    assert sorted(index.keys.tolist()) == ids
    np.testing.assert_allclose(index.get(ids), np.array([row[1] for row in rows]), rtol=1e-6)
    assert index.labels_of(ids).tolist() == [row[2] for row in rows]
    ages = [np.nan if row[3] is None else row[3] for row in rows]
    np.testing.assert_array_equal(index.metadata_of(ids)["age"].astype(float), ages)


@pytest.mark.parametrize("changed", [None, "at"])
@pytest.mark.parametrize("overlap", [600.0, 0.0])
def test_an_index_follows_a_table(
    postgres: str, items: Any, tmp_path: Path, changed: str | None, overlap: float
) -> None:
    path, source = tmp_path / "x.index", source_of(postgres, changed)

    def again() -> Followed:
        return follow(source_of(postgres, changed), path, batch=33, overlap=overlap)

    assert follow(source, path, batch=33) == Followed(200, 0, 0)
    agree(path, items)
    generation = VectorIndex.open(path).generation
    assert again() == Followed(0, 0, 0)
    assert VectorIndex.open(path).generation == generation  # nothing to write
    put(items, [5, 50, 199, 300, 301], scale=2.0)
    items.execute("delete from items where id in (7, 8, 9)")
    items.execute("update items set class = 'c', at = clock_timestamp() where id = 20")
    items.execute("update items set age = 99, at = clock_timestamp() where id in (0, 30)")
    assert again() == Followed(2, 6, 3)
    agree(path, items)
    # Written again without a change: read, and found alike.
    put(items, [5], scale=2.0)
    assert again() == Followed(0, 0, 0)


def test_changes_that_are_not_dated_are_found_by_comparing_all(
    postgres: str, items: Any, tmp_path: Path
) -> None:
    path = tmp_path / "x.index"
    follow(source_of(postgres, "at"), path)
    items.execute("update items set at = at - interval '1 hour'")
    put(items, [400])
    follow(source_of(postgres, "at"), path)
    items.execute("update items set v[1] = 7, at = at - interval '1 day' where id = 3")
    assert follow(source_of(postgres, "at"), path, overlap=0) == Followed(0, 0, 0)
    assert follow(source_of(postgres), path) == Followed(0, 1, 0)  # all rows are compared
    items.execute("update items set v[1] = 8, at = at - interval '1 day' where id = 3")
    # A row that is new, though it says it is old, has all rows compared.
    put(items, [401])
    items.execute("update items set at = at - interval '1 day' where id = 401")
    follow(source_of(postgres, "at"), path)
    items.execute("update items set v[1] = 9, at = at - interval '1 day' where id = 3")
    put(items, [402])
    items.execute("update items set at = at - interval '2 days' where id = 402")
    assert follow(source_of(postgres, "at"), path, overlap=0) == Followed(1, 1, 0)
    agree(path, items)


def test_a_row_that_a_slow_transaction_dates_back_is_seen_within_the_overlap(
    postgres: str, items: Any, tmp_path: Path
) -> None:
    path = tmp_path / "x.index"
    with psycopg.connect(postgres) as slow:
        slow.execute("update items set v[1] = 7, at = now() where id = 3")
        put(items, [400])
        follow(source_of(postgres, "at"), path)
        slow.commit()
    assert follow(source_of(postgres, "at"), path, overlap=0) == Followed(0, 0, 0)
    assert follow(source_of(postgres, "at"), path) == Followed(0, 1, 0)
    agree(path, items)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "i8", "b1"])
def test_rows_are_compared_as_they_are_stored(tmp_path: Path, dtype: Any) -> None:
    np.save(tmp_path / "x.npy", X)
    source, path = open_vectors(tmp_path / "x.npy"), tmp_path / "x.index"
    assert follow(source, path, dtype=dtype, batch=33) == Followed(200, 0, 0)
    assert follow(source, path, dtype=dtype, batch=50) == Followed(0, 0, 0)
    assert VectorIndex.open(path).dtype == dtype


def test_files_are_sealed_alike(postgres: str, items: Any, tmp_path: Path) -> None:
    key, path = Key.generate(), tmp_path / "x.index"
    follow(source_of(postgres, "at"), path, key, batch=33)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.index", "x.index.followed"]
    assert all(is_sealed(file) for file in tmp_path.iterdir())
    put(items, [5], scale=3.0)
    assert follow(source_of(postgres, "at"), path, key) == Followed(0, 1, 0)
    agree(path, items, key)
    before = [file.read_bytes() for file in sorted(tmp_path.iterdir())]
    for other in (None, Key.generate()):
        with pytest.raises(ValueError, match=r"sealed|key"):
            follow(source_of(postgres, "at"), path, other)
    assert [file.read_bytes() for file in sorted(tmp_path.iterdir())] == before


def test_what_is_not_followed_is_left_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", X)
    source, path = open_vectors(tmp_path / "x.npy"), tmp_path / "x.index"
    index = VectorIndex(6)
    index.add(X[:3])
    index.save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"x\.index does not follow 'x\.npy'"):
        follow(source, path)
    assert path.read_bytes() == before
    path.unlink()
    follow(source, path)
    with pytest.raises(ValueError, match=r"does not follow 'y\.npy'"):
        follow(open_vectors(tmp_path / "y.npy"), path)
    np.savez(tmp_path / "z.npz", x=X, id=np.arange(200) // 2)
    with pytest.raises(ValueError, match="twice"):
        follow(open_vectors(tmp_path / "z.npz", key="id"), tmp_path / "z.index")
    assert not (tmp_path / "z.index").exists()


def test_an_older_index_that_was_put_back_is_compared_whole(
    postgres: str, items: Any, tmp_path: Path
) -> None:
    path = tmp_path / "x.index"
    follow(source_of(postgres, "at"), path)
    old = path.read_bytes()
    put(items, [5], scale=2.0)
    items.execute("update items set at = at - interval '1 day'")
    put(items, [6], scale=2.0)
    assert follow(source_of(postgres, "at"), path, overlap=1e6) == Followed(0, 2, 0)
    path.write_bytes(old)
    assert follow(source_of(postgres, "at"), path, overlap=0) == Followed(0, 2, 0)
    agree(path, items)


def test_a_kill_at_any_moment_leaves_a_whole_index_that_is_gone_on_with(tmp_path: Path) -> None:
    """Killed again and again while it fills; each call goes on from the last save."""
    rows = np.random.default_rng(1).normal(size=(4000, 8)).astype(np.float32)
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("create table t (id integer primary key, v blob)")
        connection.executemany(
            "insert into t values (?, ?)", [(n, x.tobytes()) for n, x in enumerate(rows)]
        )
    script = textwrap.dedent(
        """
        import sys, time
        from fedlab.data import open_vectors
        from fedlab.data.stores.sql import SqlTable
        from fedlab.device import follow
        read, begun = SqlTable.read, []
        def slowly(self, names, size, after, since):
            for end, found in read(self, names, size, after, since):
                if len(names) > 1:
                    begun or print("first", end, flush=True)
                    begun.append(end)
                    time.sleep(0.02)
                yield end, found
        SqlTable.read = slowly
        source = open_vectors(sys.argv[1], table="t", vectors="v", key="id")
        print(follow(source, sys.argv[2], batch=100), flush=True)
        """
    )
    path, said = tmp_path / "x.index", ""
    command = [sys.executable, "-c", script, f"sqlite:///{tmp_path}/x.db", str(path)]
    draw, firsts, sizes = np.random.default_rng(2), [], [0]
    while "Followed" not in said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        firsts.append(int(process.stdout.readline().split()[1]))
        if len(firsts) < 5:
            time.sleep(float(draw.uniform(0.05, 0.25)))
            process.send_signal(signal.SIGKILL)
        said = process.stdout.read()
        process.wait()
        if path.exists():
            index = VectorIndex.open(path)
            sizes.append(len(index))
            np.testing.assert_array_equal(index.get(index.keys), rows[index.keys])
    assert sizes == sorted(sizes)
    assert sizes[-1] == 4000
    # The next call began at the batch behind the last save.
    assert all(first <= size + 100 for first, size in zip(firsts, sizes, strict=False))
    assert max(firsts) > 200
    assert len(list(tmp_path.glob(".*"))) == 0
