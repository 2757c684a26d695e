"""Tables of real databases: two servers of PostgreSQL, and SQLite."""

from __future__ import annotations

import json
import re
import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa

from fedlab.data import VectorSource, by_column, open_vectors, read_vectors
from fedlab.device.from_data import spread
from tests.data.stores.test_files import whole
from tests.servers import PASSWORD

X = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)


@contextmanager
def at_one_moment(source: VectorSource) -> Iterator[VectorSource]:
    with source.store.reading() as store:
        yield replace(source, store=store)


@pytest.fixture
def items(postgres: str) -> str:
    """A table of a hundred rows in a schema and under names that need quotes."""
    with psycopg.connect(postgres) as connection:
        connection.execute('drop schema if exists "My lab" cascade')
        connection.execute('create schema "My lab"')
        connection.execute(
            'create table "My lab"."It""ems" (id bigint primary key, "the real" real[], '
            "double double precision[], numbers numeric[], whole int[], class text, ward text, "
            "age int, price numeric(8, 2), seen timestamptz, born date)"
        )
        rows = [
            (3 * n, *[x.tolist()] * 3, [1, 2, n], "ab"[n % 2], f"w{n % 3}", n or None, f"{n}.25")
            for n, x in enumerate(X)
        ]
        with connection.cursor() as cursor:
            cursor.executemany(
                'insert into "My lab"."It""ems" values (%s, %s, %s, %s, %s, %s, %s, %s, %s, '
                "'2026-01-01 12:00+02', '2000-02-29')",
                rows,
            )
    return postgres


def opened(address: Any, vectors: str = "the real", **how: Any) -> Any:
    return open_vectors(address, table='It"ems', schema="My lab", vectors=vectors, key="id", **how)


@pytest.mark.parametrize("vectors", ["the real", "double", "numbers", "whole"])
def test_arrays_of_postgresql_are_read_by_batches_in_the_order_of_keys(
    items: str, vectors: str
) -> None:
    source = opened(
        items, vectors, labels="class", metadata=["ward", "age", "price", "seen", "born"]
    )
    assert (len(source), source.dimensions) == (100, 3 if vectors == "whole" else 5)
    keys, rows, labels, about = whole(source, 13)
    assert keys.tolist() == [3 * n for n in range(100)]
    expected = [[1, 2, n] for n in range(100)] if vectors == "whole" else X
    np.testing.assert_array_equal(rows, expected)
    assert labels.tolist() == ["a", "b"] * 50
    np.testing.assert_array_equal(about["age"], [np.nan, *range(1, 100)])
    assert about["price"].tolist() == [n + 0.25 for n in range(100)]
    assert set(map(str, about["seen"])) == {"2026-01-01 10:00:00"}
    assert set(map(str, about["born"])) == {"2000-02-29 00:00:00"}
    assert [len(batch.rows) for batch in source.batches(13)] == [13] * 7 + [9]
    assert next(iter(source.batches(13, after=27))).keys[0] == 30


def test_from_a_database_to_devices(items: str) -> None:
    data = read_vectors(opened(items, labels="class", metadata=["ward"]))
    assert data.metadata is not None
    devices = spread(data, by_column(data.metadata["ward"]))
    assert [device.id for device in devices] == ["w0", "w1", "w2"]
    assert devices[1].index.keys.tolist() == list(range(3, 300, 9))
    np.testing.assert_array_equal(devices[1].index.get([12]), X[4:5])
    assert devices[1].index.labels_of([12]).tolist() == [0]
    assert set(devices[2].index.metadata["ward"]) == {"w2"}


def test_pgvectors_types_are_read_where_the_extension_is(pgvector: str) -> None:
    with psycopg.connect(pgvector) as connection:
        connection.execute("drop schema if exists ext cascade; drop table if exists v")
        connection.execute("create schema ext; create extension vector schema ext")
        connection.execute("create table v (id int primary key, v ext.vector(5), h ext.halfvec(5))")
        for n, x in enumerate(X):
            connection.execute("insert into v values (%s, %s, %s)", (n, *[str(x.tolist())] * 2))
    rows = {
        name: whole(open_vectors(pgvector, table="v", vectors=name, key="id"))[1] for name in "vh"
    }
    np.testing.assert_array_equal(rows["v"], X)
    np.testing.assert_array_equal(rows["h"], X.astype(np.float16).astype(np.float32))


def test_the_source_can_only_be_read_and_is_seen_at_one_moment(items: str) -> None:
    source = opened(items)
    with at_one_moment(source) as now, psycopg.connect(items) as other:
        assert len(now.all_keys()[0]) == 100
        other.execute('delete from "My lab"."It""ems" where id > 100')
        other.execute(
            'insert into "My lab"."It""ems" select 1, "the real" from "My lab"."It""ems" limit 1'
        )
        other.commit()
        assert len(now.all_keys()[0]) == 100
        assert sum(len(batch.rows) for batch in now.batches(9)) == 100
    assert len(source.all_keys()[0]) == 35
    with psycopg.connect(items) as connection:
        connection.execute(
            'create function "My lab".spoil() returns bigint language sql volatile as '
            '$$ delete from "My lab"."It""ems" returning id $$'
        )
        connection.execute(
            'create view "My lab".trap as select "My lab".spoil() as id, array[1.0] as v'
        )
    with pytest.raises(ValueError, match="read-only transaction"):
        open_vectors(items, table="trap", schema="My lab", vectors="v", key="id")
    assert len(source.all_keys()[0]) == 35


def test_batches_come_through_a_cursor_on_the_server(items: str) -> None:
    engine = sa.create_engine(items.replace("postgresql:", "postgresql+psycopg:"))
    said: list[str] = []
    sa.event.listen(
        engine, "before_cursor_execute", lambda c, cursor, *_: said.append(type(cursor).__name__)
    )
    steps = iter(opened(engine).batches(10))
    said.clear()
    next(steps)
    assert said == ["ServerCursor"]
    engine.dispose()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ('update TABLE set "the real"[2] = null where id = 51', "key 51"),
        ('update TABLE set "the real" = null where id = 51', "key 51"),
        ("""update TABLE set "the real" = '{}' where id = 51""", "key 51"),
        ("""update TABLE set "the real" = '{{1,2},{3,4}}' where id = 51""", "key 51"),
        ("""update TABLE set "the real" = '{1,2,3,4,NaN}' where id = 51""", "key 51"),
        ("update TABLE set class = null where id = 51", "label 'class' is missing in 1 row"),
        ("update TABLE set id = -4 where id = 51", "outside 0 ... 2**64 - 2"),
        ('alter table TABLE drop constraint "It""ems_pkey", alter id drop not null; '
         "update TABLE set id = 48 where id = 51", "twice"),
        ('alter table TABLE drop constraint "It""ems_pkey", alter id drop not null; '
         "update TABLE set id = null where id = 51", "key column 'id'"),
    ],
)  # fmt: skip
def test_rows_that_are_no_vectors_are_told_by_their_key(items: str, change: str, told: str) -> None:
    with psycopg.connect(items) as connection:
        connection.execute(change.replace("TABLE", '"My lab"."It""ems"'))
    for size in (1, 7, 1000):
        with pytest.raises(ValueError, match=re.escape(told)):
            read_in_two_ways(opened(items, labels="class"), size)


def read_in_two_ways(source: VectorSource, size: int) -> None:
    whole(source, size)
    read_vectors(source)


def test_what_is_not_there_is_told(items: str) -> None:
    with pytest.raises(ValueError, match=r"there are .*'the real'"):
        opened(items, "none")
    with pytest.raises(ValueError, match=r"table .* can't be read"):
        opened(items, "class")
    with pytest.raises(ValueError, match=r"table 'none' can't be read"):
        open_vectors(items, table="none", vectors="v", key="id")
    with pytest.raises(TypeError, match="name the columns"):
        open_vectors(items, table="none")
    with psycopg.connect(items) as connection:
        connection.execute('delete from "My lab"."It""ems"')
    empty = opened(items, labels="class")
    assert (len(empty), [*empty.batches()], empty.all_keys()[0].tolist()) == (0, [], [])
    with pytest.raises(ValueError, match=r"table .* has no rows to read"):
        read_vectors(empty)


def test_no_password_is_told(items: str, tmp_path: Path) -> None:
    code = items.split(":")[2].split("@")[0]
    wrong = [
        items.replace(code, "wr0ng!word"),
        items.replace("127.0.0.1", "no-such-host.invalid"),
        items.replace("5", "1").replace("postgresql", "oddsql"),
        items.replace(code, "with/a slash@and:more"),
        f"{items}?password=wr0ng!word",
        f"{items}?nonsense=wr0ng!word",
    ]
    for address in wrong:
        with pytest.raises((ValueError, ImportError)) as told:
            whole(opened(address))
        said = "".join(traceback.format_exception(told.value))
        for secret in (PASSWORD, code, "wr0ng", "slash", "and:more"):
            assert secret not in said.replace("opened(address)", "")
    source = opened(items, labels="class")
    data = read_vectors(source)
    assert (
        PASSWORD not in f"{source!r} {source.store.name} {data.origin!r} {data.origin.describe()}"
    )
    assert code not in f"{source!r} {source.store!r} {data!r}"


# -- SQLite ---------------------------------------------------------------------------------------


@pytest.fixture
def sqlite(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("create table t (id integer primary key, v blob, j, bad blob)")
        rows = [(n, x.tobytes(), json.dumps(x.tolist()), x.tobytes()) for n, x in enumerate(X)]
        connection.executemany("insert into t values (?, ?, ?, ?)", rows)
        connection.execute("update t set bad = x'0000803F0000803F' where id = 40")
    return tmp_path / "x.db"


def test_sqlite_keeps_vectors_as_bytes_or_lists(sqlite: Path) -> None:
    before = sqlite.read_bytes()
    for column in ("v", "j"):
        source = open_vectors(f"sqlite:///{sqlite}", table="t", vectors=column, key="id")
        keys, rows, _, _ = whole(source, 7)
        assert keys.tolist() == list(range(100))
        np.testing.assert_array_equal(rows, X)
    with pytest.raises(ValueError, match=r"table 'x\.db\.t' can't be read.*key 40"):
        whole(open_vectors(f"sqlite:///{sqlite}", table="t", vectors="bad", key="id"))
    assert sqlite.read_bytes() == before


@pytest.mark.parametrize(
    "odd",
    [b"1234567", b"12345678", "[1, 2, 3", "[1, 2]", '["a", 1, 2, 3, 4]', '"abcde"', "7", None],
)
def test_a_vector_of_sqlite_that_is_torn_is_told_by_its_key(sqlite: Path, odd: Any) -> None:
    with sqlite3.connect(sqlite) as connection:
        connection.execute("update t set j = ? where id = 40", [odd])
    with pytest.raises(ValueError, match=r"'x\.db\.t' can't be read.*key 40 is not 5 numbers"):
        whole(open_vectors(f"sqlite:///{sqlite}", table="t", vectors="j", key="id"))
    with sqlite3.connect(sqlite) as connection:
        connection.execute("update t set j = '[1, null, 3, 4, 5]' where id = 40")
    with pytest.raises(ValueError, match=r"NaN.*the first of key 40"):
        whole(open_vectors(f"sqlite:///{sqlite}", table="t", vectors="j", key="id"))


def test_sqlite_is_seen_at_one_moment_and_never_made(sqlite: Path, tmp_path: Path) -> None:
    with sqlite3.connect(sqlite) as other:
        other.execute("pragma journal_mode=wal")
    source = open_vectors(f"sqlite:///{sqlite}", table="t", vectors="v", key="id")
    with at_one_moment(source) as now:
        assert len(now.all_keys()[0]) == 100
        with sqlite3.connect(sqlite) as other:
            other.execute("delete from t where id > 9")
        assert sum(len(batch.rows) for batch in now.batches(9)) == 100
    assert len(source.all_keys()[0]) == 10
    with pytest.raises(FileNotFoundError, match=r"none\.db"):
        open_vectors(f"sqlite:///{tmp_path}/none.db", table="t", vectors="v", key="id")
    assert not (tmp_path / "none.db").exists()
