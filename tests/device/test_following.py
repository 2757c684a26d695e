"""A saved index is filled from a source, killed and gone on with, and brought up to date."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from fedlab import Key, VectorIndex
from fedlab.data import VectorSource, open_vectors
from fedlab.data.stores.sql import SqlTable
from fedlab.device import Followed, follow
from fedlab.files import blocks, is_sealed
from fedlab.index import file
from tests.helpers import DTYPES
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
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "x.npy", X[:3])
    with pytest.raises(ValueError, match=r"does not follow 'x\.npy' with \['values'\] from here"):
        follow(open_vectors(tmp_path / "other" / "x.npy"), path)
    with pytest.raises(ValueError, match="the metric 'cosine', and 'l2sq' was given"):
        follow(source, path, metric="l2sq")
    with pytest.raises(ValueError, match="the dtype 'f32', and 'i8' was given"):
        follow(source, path, dtype="i8")
    assert follow(source, path, metric="cosine", dtype="f32") == Followed(0, 0, 0)
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


def table_of(path: Path, rows: Any) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table if not exists t (id integer primary key, v blob, c text)")
        connection.executemany(
            "insert into t values (?, ?, ?) on conflict (id) do update set v = excluded.v",
            [(n, x.tobytes(), f"class {n % 3}") for n, x in enumerate(rows)],
        )


def opened(path: Path) -> VectorSource:
    return open_vectors(f"sqlite:///{path}", table="t", vectors="v", key="id", labels="c")


KILLED = textwrap.dedent(
    """
    import sys, time
    from fedlab import Key
    from fedlab.data import open_vectors
    from fedlab.data.stores.sql import SqlTable
    from fedlab.device import follow
    read = SqlTable.read
    def slowly(self, names, size, after, since):
        for batch, (end, found) in enumerate(read(self, names, size, after, since)):
            if len(names) > 1:
                if batch == int(sys.argv[3]):
                    time.sleep(600)  # to be killed, before it is done
                print("read", end, flush=True)
            yield end, found
    SqlTable.read = slowly
    source = open_vectors(sys.argv[1], table="t", vectors="v", key="id", labels="c")
    key = Key.from_file(sys.argv[4]) if len(sys.argv) > 4 else None
    print(follow(source, sys.argv[2], key, batch=100), flush=True)
    """
)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_kill_at_any_moment_leaves_the_old_index_and_is_gone_on_with(
    tmp_path: Path, sealed: bool
) -> None:
    """Killed again and again, while it fills and while all rows change: each call goes on."""
    rows = np.random.default_rng(1).normal(size=(4000, 8)).astype(np.float32)
    key, path, aside = Key.generate(), tmp_path / "x.index", tmp_path / "x.index.coming"
    key.write(tmp_path / "key")
    given, under = [f"sqlite:///{tmp_path}/x.db", str(path)], [str(tmp_path / "key")] * sealed
    draw, stood = np.random.default_rng(2), None
    for generation in (1, 2):
        table_of(tmp_path / "x.db", generation * rows)
        said, firsts, saved = "", [], [0]
        while "Followed" not in said:
            last = len(firsts) == 4
            most = "1000" if last else "9"  # batches: four times nine are not all
            command = [sys.executable, "-c", KILLED, *given, most, *under]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            firsts.append(int(process.stdout.readline().split()[1]))
            if not last:
                for _ in range(draw.integers(1, 9)):
                    process.stdout.readline()
                time.sleep(float(draw.uniform(0.0, 0.05)))
                process.send_signal(signal.SIGKILL)
            said = process.stdout.read()
            process.wait()
            if "Followed" not in said:
                # The index is none or the old one; parts are whole, each with some rows.
                assert (path.read_bytes() if path.exists() else None) == stood
                parts = [VectorIndex.open(one, key if sealed else None) for one in files(aside)]
                assert all(is_sealed(one) == sealed for one in files(aside))
                held = np.concatenate([[], *(part.keys for part in parts)]).astype(int)
                for part in parts:
                    np.testing.assert_array_equal(part.vectors, generation * rows[part.keys])
                saved.append(len(np.unique(held)))
        assert saved == sorted(saved)
        # The next call began at the batch behind the last save; a part may be written, not noted.
        assert all(
            have - 100 < first <= have + 100 for first, have in zip(firsts, saved, strict=True)
        )
        assert firsts[-1] > 200
        index = VectorIndex.open(path, key if sealed else None)
        assert (index.generation, index.keys.tolist()) == (generation, list(range(4000)))
        np.testing.assert_array_equal(index.vectors, generation * rows)
        assert not aside.exists()
        assert len(list(tmp_path.glob(".*"))) == 0
        stood = path.read_bytes()


def files(folder: Path) -> list[Path]:
    return sorted(one for one in folder.glob("x.index.*")) if folder.exists() else []


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_equals_the_index_that_one_call_fills(tmp_path: Path, dtype: Any) -> None:
    rows = np.random.default_rng(3).normal(size=(700, 33)).astype(np.float32)
    table_of(tmp_path / "x.db", rows)
    index = VectorIndex(33, "l2sq", dtype)
    index.add(rows, np.arange(700), [f"class {n % 3}" for n in range(700)])
    index.save(tmp_path / "whole.index")
    path = tmp_path / "x.index"
    follow(opened(tmp_path / "x.db"), path, metric="l2sq", dtype=dtype, batch=100)
    assert path.read_bytes() == (tmp_path / "whole.index").read_bytes()
    # And then: what an upsert and a removal make of it.
    changed = np.random.default_rng(4).choice(700, 40, replace=False)
    rows[changed] += 1
    table_of(tmp_path / "x.db", rows)
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("delete from t where id % 50 = 1")
    there = np.sort(changed)[np.sort(changed) % 50 != 1]
    assert follow(opened(tmp_path / "x.db"), path, batch=100) == Followed(0, len(there), 14)
    index.upsert(rows[there], there, [f"class {n % 3}" for n in there])
    index.remove(np.arange(1, 700, 50))
    followed = VectorIndex.open(path)
    assert followed.generation == 2
    for name, column in index.columns.items():
        np.testing.assert_array_equal(followed.columns[name], column)


def test_rows_are_never_all_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_MANY", 1 << 14)  # numbers that are measured at once
    monkeypatch.setattr(blocks, "_AHEAD", 1 << 20)
    rows = np.random.default_rng(5).normal(size=(20_000, 512)).astype(np.float32)  # 41 MB
    path = tmp_path / "x.npy"
    np.save(path, rows)
    follow(open_vectors(path), tmp_path / "x.index", batch=200)
    rows[::2] += 1
    np.save(path, rows)
    del rows
    tracemalloc.start()
    followed = follow(open_vectors(path), tmp_path / "x.index", batch=200)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert followed == Followed(0, 10_000, 0)
    assert peak < 25e6


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has a call end after some batches, its parts beside the index."""
    table_of(tmp_path / "x.db", X)
    read = SqlTable.read

    def short(*given: Any) -> Any:
        for number, found in enumerate(read(*given)):
            if len(given[1]) > 1 and number == 3:
                raise KeyboardInterrupt
            yield found

    def stop(path: Path, **how: Any) -> list[Path]:
        with monkeypatch.context() as patch:
            patch.setattr(SqlTable, "read", short)
            with pytest.raises(KeyboardInterrupt):
                follow(opened(tmp_path / "x.db"), path, batch=50, **how)
        parts = files(tmp_path / "x.index.coming")
        assert len(parts) > 0
        return parts

    return stop


def test_parts_under_other_settings_are_not_used(stopped: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    stopped(path)
    assert follow(opened(tmp_path / "x.db"), path, dtype="f16") == Followed(200, 0, 0)
    assert VectorIndex.open(path).dtype == "f16"


def test_parts_of_two_calls_make_one_index(stopped: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("delete from t where id = 7")
    stopped(path)
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("insert into t select 200 + id, v, c from t")
    stopped(path)
    with sqlite3.connect(tmp_path / "x.db") as connection:  # before the place to go on at
        connection.execute("insert into t select 7, v, c from t where id = 8")
    follow(opened(tmp_path / "x.db"), path, batch=50)
    index = VectorIndex.open(path)
    assert sorted(index.keys.tolist()) == [n for n in range(400) if n != 207]
    np.testing.assert_array_equal(index.get([7, 8, 399]), X[[8, 8, 199]])


def test_parts_beside_another_index_are_not_used(stopped: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    follow(opened(tmp_path / "x.db"), path)
    table_of(tmp_path / "x.db", 2 * X)
    stopped(path)
    VectorIndex.open(path).save(path)
    assert follow(opened(tmp_path / "x.db"), path) == Followed(0, 200, 0)
    np.testing.assert_array_equal(VectorIndex.open(path).vectors, 2 * X)


def test_a_damaged_part_is_refused_until_it_is_removed(stopped: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    part = stopped(path)[0]
    content = bytearray(part.read_bytes())
    content[-100] ^= 1
    part.write_bytes(content)
    with pytest.raises(ValueError, match="altered"):
        follow(opened(tmp_path / "x.db"), path)
    assert not path.exists()
    shutil.rmtree(part.parent)
    assert follow(opened(tmp_path / "x.db"), path) == Followed(200, 0, 0)


def test_rows_of_another_kind_stop_it_and_what_was_read_stays(tmp_path: Path) -> None:
    path, x = tmp_path / "x.index", tmp_path / "x.db"
    table_of(x, X)
    with sqlite3.connect(x) as connection:
        connection.execute("alter table t add column age")
        connection.execute("update t set age = iif(id = 150, 'old', id)")
    source = open_vectors(f"sqlite:///{x}", table="t", vectors="v", key="id", metadata=["age"])
    with pytest.raises(ValueError, match="age"):
        follow(source, path, batch=50)
    with sqlite3.connect(x) as connection:
        connection.execute("update t set age = id")
    followed = follow(source, path, batch=50)
    assert 50 <= followed.added < 200
    assert VectorIndex.open(path).metadata["age"].tolist() == list(range(200))


def test_a_source_without_rows_empties_the_index_and_fills_it_again(tmp_path: Path) -> None:
    x, path = tmp_path / "x.db", tmp_path / "x.index"
    table_of(x, X)
    follow(opened(x), path)
    with sqlite3.connect(x) as connection:
        connection.execute("delete from t")
    assert follow(opened(x), path) == Followed(0, 0, 200)
    assert (len(VectorIndex.open(path)), VectorIndex.open(path).dimensions) == (0, 6)
    assert follow(opened(x), path) == Followed(0, 0, 0)
    with pytest.raises(ValueError, match=r"x\.db\.t' has no row yet to tell dimensions"):
        follow(opened(x), tmp_path / "new.index")
    table_of(x, 2 * X[:9])
    assert follow(opened(x), path) == Followed(9, 0, 0)
    np.testing.assert_array_equal(VectorIndex.open(path).vectors, 2 * X[:9])
    assert VectorIndex.open(path).labels_of([4]).tolist() == ["class 1"]


def test_a_file_without_rows_empties_the_index(tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    for rows, done in ((X, Followed(200, 0, 0)), (X[:0], Followed(0, 0, 200))):
        np.savez(tmp_path / "x.npz", v=rows, id=np.arange(len(rows)), y=np.arange(len(rows)))
        source = open_vectors(tmp_path / "x.npz", vectors="v", key="id", labels="y")
        assert follow(source, path) == done
    assert len(VectorIndex.open(path)) == 0


def dated(path: Path, *changes: Any) -> VectorSource:
    """Rows of a table that says by text when they changed."""
    with sqlite3.connect(path) as connection:
        connection.execute("drop table if exists t")
        connection.execute("create table t (id integer primary key, v blob, at)")
        rows = [(n, X[n].tobytes(), change) for n, change in enumerate(changes)]
        connection.executemany("insert into t values (?, ?, ?)", rows)
    return open_vectors(f"sqlite:///{path}", table="t", vectors="v", key="id", changed="at")


@pytest.mark.parametrize(
    "changes",
    [
        ("2026-04-01 10:00:00", "yesterday"),
        ("2026-04-01 10:00:00", "2026-04-01T09:00:00"),
        ("2026-04-01T10:00:00Z", "2026-04-01T10:00:00.5Z"),  # a Z sorts behind a point
        ("2026-04-01T10:00:00+02:00", "2026-04-01T10:00:00+00:00"),
        ("9", "10"),
    ],
)
def test_text_that_does_not_sort_by_time_is_no_time_of_change(
    tmp_path: Path, changes: tuple[str, str]
) -> None:
    with pytest.raises(ValueError, match=r"x\.db\.t'.*'at' holds changes at .*ISO 8601") as told:
        follow(dated(tmp_path / "x.db", *changes), tmp_path / "x.index")
    assert repr(changes[1]) in str(told.value)
    assert [one.name for one in tmp_path.iterdir()] == ["x.db"]


@pytest.mark.parametrize(
    "changes",
    [
        ("2026-04-01 10:00:00", "2026-04-01 10:00:00.5", None),
        ("2026-04-01T10:00:00+00:00", "2026-04-01T10:00:00.25+00:00", None),
        ("2026-04-01", "2026-04-02", None),
        (1, 2, None),
    ],
)
def test_changes_are_found_by_times_as_text_and_by_numbers(
    tmp_path: Path, changes: tuple[Any, ...]
) -> None:
    path = tmp_path / "x.index"
    follow(dated(tmp_path / "x.db", *changes), path)
    source = dated(tmp_path / "x.db", *changes)
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.executemany(
            "update t set v = ? where id = ?", [(X[9].tobytes(), n) for n in (0, 1)]
        )
    assert follow(source, path) == Followed(0, 1, 0)  # the first says it is as old as it was


def test_times_that_are_written_otherwise_than_before_hide_no_change(tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    follow(dated(tmp_path / "x.db", "2026-04-01T09:00:00", "2026-04-01T10:00:00"), path)
    source = dated(tmp_path / "x.db", "2026-04-01 11:00:00", "2026-04-01 10:00:00")
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("update t set v = ? where id = 0", [X[9].tobytes()])
    assert follow(source, path) == Followed(0, 1, 0)


def test_a_row_that_has_no_direction_is_told_by_source_and_key(tmp_path: Path) -> None:
    rows = X.copy()
    np.savez(tmp_path / "x.npz", v=rows, id=5000 + np.arange(200))
    follow(open_vectors(tmp_path / "x.npz", key="id", vectors="v"), tmp_path / "old.index")
    rows[77] = 0
    np.savez(tmp_path / "x.npz", v=rows, id=5000 + np.arange(200))
    for path in (tmp_path / "x.index", tmp_path / "old.index"):
        with pytest.raises(ValueError, match=r"'x\.npz'.*the row of key 5077 has length 0 "):
            follow(open_vectors(tmp_path / "x.npz", key="id", vectors="v"), path, batch=50)


def test_arguments_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    source: Any = open_vectors(tmp_path / "x.npy")
    for batch in (0, 2.5):
        with pytest.raises((TypeError, ValueError), match="batch is"):
            follow(source, tmp_path / "x.index", batch=batch)  # type: ignore[arg-type]
    source = str(tmp_path / "x.npy")
    with pytest.raises(TypeError, match="open_vectors"):
        follow(source, tmp_path / "x.index")
    assert [one.name for one in tmp_path.iterdir()] == ["x.npy"]
