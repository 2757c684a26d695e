"""Tables and views of a database, through SQLAlchemy; PostgreSQL and SQLite are tested.

Nothing is ever written: a transaction of PostgreSQL is READ ONLY and sees one snapshot, and rows
come through a cursor on the server. Names of tables and columns are quoted by SQLAlchemy. No
message tells a password.

Vectors are arrays (``real[]``, ``double precision[]``, ...), or pgvector's ``vector`` or
``halfvec``: PostgreSQL itself makes them float32 and sends them in binary, faster than as lists.
Elsewhere they are bytes of float32 (little-endian), or lists in JSON.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace as Column
from typing import Any

import numpy as np

from fedlab.core.extras import imported
from fedlab.core.typing import F32
from fedlab.data.stores.source import Steps, Store

_READ_ONLY = {"postgresql_readonly": True}


@dataclass(frozen=True, eq=False)
class SqlTable(Store):
    """Columns of a table, in the order of their keys."""

    place: Any = None
    connected: Any = None

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """See `Store.reading`."""
        with self.connected() as connection:
            yield replace(self, connected=lambda: nullcontext(connection))

    def read(self, names: Sequence[str], size: int, after: int | None, since: Any) -> Steps:
        """See `Store.read`."""
        sa, named = imported("sqlalchemy", "stores", "reading a database"), str(self.key)
        key = sa.column(named)
        columns = [self.columns[name] for name in names]
        rows = sa.select(*(one.sql for one in columns)).select_from(self.place).order_by(key)
        rows = rows if after is None else rows.where(key > after)
        if since is not None:
            changed = sa.column(since[0])
            rows = rows.where((changed >= since[1]) | changed.is_(None))
        with self.connected() as connection:
            result = connection.execute(rows, execution_options={"yield_per": size})
            for part in result.partitions():
                found: dict[str, Any] = dict(zip(names, zip(*part, strict=True), strict=True))
                keys = found[named]
                for name, column in zip(names, columns, strict=True):
                    if width := column.shape[1:]:
                        found[name] = _rows(column.decode, found[name], keys, *width)
                yield keys[-1], found


def read_sql(where: Any, table: str, schema: str | None, key: str, vectors: str) -> Store:
    """Find the columns of a table, of which `key` holds keys and `vectors` vectors."""
    sa = imported("sqlalchemy", "stores", "reading a database")
    engine = where if isinstance(where, sa.Engine) else _engine(sa, where)
    dialect = engine.dialect.name

    @contextmanager
    def connected() -> Iterator[Any]:
        try:
            with engine.connect() as connection:
                if dialect == "postgresql":
                    connection.execution_options(isolation_level="REPEATABLE READ", **_READ_ONLY)
                elif dialect == "sqlite":
                    connection.exec_driver_sql("BEGIN")  # else each SELECT sees its own moment
                yield connection
        except sa.exc.SQLAlchemyError as error:
            said = str(getattr(error, "orig", None) or error)
            raise ValueError(said.replace(str(engine.url.password), "***")) from None

    place, column = sa.table(table, schema=schema), sa.column(vectors)
    with connected() as connection, warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # of types that it doesn't know
        there = sa.inspect(connection).get_columns(table, schema)
        found = {one["name"]: one["type"] for one in there}
        rows = connection.scalar(sa.select(sa.func.count()).select_from(place))
        columns = {n: Column(dtype=k, shape=(rows,), sql=sa.column(n)) for n, k in found.items()}
        if vectors in columns:
            kinds = (sa.ARRAY, sa.types.NullType) if dialect == "postgresql" else ()
            arrays = isinstance(found[vectors], kinds)
            sent = sa.func.array_send(sa.cast(column, sa.ARRAY(sa.REAL))) if arrays else column
            some = sa.select(sent).select_from(place).where(column.is_not(None)).limit(1)
            decode: Any = _sent if arrays else _kept
            shape = rows, len(decode(connection.scalar(some)))
            columns[vectors] = Column(dtype="float32", shape=shape, sql=sent, decode=decode)
    name = ".".join(filter(None, (Path(engine.url.database or "").name, schema, table)))
    url = engine.url.set(username=None, password=None)
    if dialect == "sqlite" and url.database:
        url = url.set(database=str(Path(url.database).resolve()))
    of = {"where": str(url), "place": place, "connected": connected}
    return SqlTable(f"table {name!r}", columns, key=key, **of)


def _rows(decode: Any, values: Sequence[Any], keys: Sequence[Any], width: int) -> F32:
    rows = np.empty((len(values), width), np.float32)
    for row, key, value in zip(rows, keys, values, strict=True):
        try:
            numbers = decode(value)
        except (TypeError, ValueError, OverflowError):  # torn
            numbers = rows[:0]
        if numbers.shape != row.shape:
            raise ValueError(f"the vector of key {key} is not {width} numbers; leave such rows out")
        row[:] = numbers
    return rows


def _kept(value: Any) -> Any:
    if isinstance(value, bytes):
        return np.frombuffer(value, "<f4")
    value = json.loads(value) if isinstance(value, str) else () if value is None else value
    return np.array(value, np.float32)  # a null in it is NaN, which is told later


def _sent(value: bytes | None) -> Any:
    """Return what array_send gave: five words of head, and of each number its bytes and itself."""
    if value is None or len(value) < 20 or value[3] != 1:  # of one dimension; a NULL is one word
        return np.empty(0)
    return np.frombuffer(value, ">f4", offset=20)[1::2]


def _engine(sa: Any, where: Any) -> Any:
    try:
        url = sa.make_url(where)
    except Exception:  # what it says may hold a part of the password
        said = "the address is none: postgresql://user:password@host/name, the password in %-codes"
        raise ValueError(said) from None
    if url.drivername == "postgresql":
        imported("psycopg", "stores", "reading PostgreSQL")
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise FileNotFoundError(f"there is no {url.database!r}; SQLite would make an empty one")
    return sa.create_engine(url, poolclass=sa.pool.NullPool)
