"""Tables and views of a database, through SQLAlchemy; PostgreSQL and SQLite are tested.

Nothing is ever written: a transaction of PostgreSQL is READ ONLY and sees one snapshot, and rows
come through a cursor on the server. Names of tables and columns are quoted by SQLAlchemy. No
message tells a password.

Vectors are arrays (``real[]``, ``double precision[]``, ...), pgvector's ``vector`` or ``halfvec``,
which come as text, bytes of float32 (little-endian), or lists in JSON.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fedlab.core.extras import imported
from fedlab.core.typing import F32
from fedlab.data.stores.source import Store


@dataclass(frozen=True, eq=False)
class Table(Store):
    """Columns of a table, in the order of their keys."""

    place: Any = None
    connected: Any = None

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """See `Store.reading`."""
        with self.connected() as connection:
            yield replace(self, connected=lambda: nullcontext(connection))

    def read(
        self, names: Sequence[str], size: int, after: int | None, since: tuple[str, Any] | None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `Store.read`."""
        sa, named = imported("sqlalchemy", "stores", "reading a database"), str(self.key)
        key = sa.column(named)
        rows = sa.select(*map(sa.column, names)).select_from(self.place).order_by(key)
        if after is not None:
            rows = rows.where(key > after)
        if since is not None:
            changed = sa.column(since[0])
            rows = rows.where((changed >= since[1]) | changed.is_(None))
        with self.connected() as connection, _discreet(sa, connection.engine):
            result = connection.execute(rows, execution_options={"yield_per": size})
            for part in result.partitions():
                found: dict[str, Any] = dict(zip(names, zip(*part, strict=True), strict=True))
                keys, last = found[named], after
                if keys[0] == last is not None:
                    raise ValueError(f"the key {last} stands twice")
                for name in names:
                    if width := self.columns[name].shape[1:]:
                        found[name] = _rows(found[name], keys, *width)
                after = keys[-1]
                yield keys[-1], found


def read_sql(
    where: Any, table: str, schema: str | None, key: str, vectors: str, name: str
) -> Store:
    """Find the columns of a table, of which `key` holds keys and `vectors` vectors."""
    sa = imported("sqlalchemy", "stores", "reading a database")
    engine = where if isinstance(where, sa.Engine) else _engine(sa, where)

    @contextmanager
    def connected() -> Iterator[Any]:
        with _discreet(sa, engine), engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                alone = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
                connection.execution_options(**alone)
            elif engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")  # else each SELECT sees a moment of its own
            yield connection

    place, column = sa.table(table, schema=schema), sa.column(vectors)
    with connected() as connection, warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # of types that it doesn't know
        found = sa.inspect(connection).get_columns(table, schema)
        rows = connection.scalar(sa.select(sa.func.count()).select_from(place))
        columns = {one["name"]: SimpleNamespace(dtype=one["type"], shape=(rows,)) for one in found}
        if rows and vectors in columns:
            some = sa.select(column).select_from(place).where(column.is_not(None)).limit(1)
            shape = rows, len(_numbers(connection.scalar(some)))
            columns[vectors] = SimpleNamespace(dtype="float32", shape=shape)
    return Table(name, columns, key=key, place=place, connected=connected)


def _rows(values: Sequence[Any], keys: Sequence[Any], width: int) -> F32:
    rows = np.empty((len(values), width), np.float32)
    for place, numbers in enumerate(map(_numbers, values)):
        if len(numbers) != width or None in numbers:
            said = (
                f"the vector of key {keys[place]} has no {width} numbers like the first, or a NULL"
            )
            raise ValueError(f"{said}; leave such rows out, as by a view")
        rows[place] = numbers
    return rows


def _numbers(value: Any) -> Any:
    if isinstance(value, bytes):
        return np.frombuffer(value, "<f4")
    return json.loads(value) if isinstance(value, str) else () if value is None else value


@contextmanager
def _discreet(sa: Any, engine: Any) -> Iterator[None]:
    """Tell what went wrong without statements, their parameters, or a password."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error)
        raise ValueError(said.replace(str(engine.url.password), "***")) from None


def _engine(sa: Any, where: Any) -> Any:
    try:
        url = sa.make_url(where)
    except Exception:  # what it says may hold a part of the password
        said = "the address is none: postgresql://user:password@host/name, the password in %-codes"
        raise ValueError(said) from None
    if url.drivername in ("postgresql", "postgres"):
        imported("psycopg", "stores", "reading PostgreSQL")
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise FileNotFoundError(f"there is no {url.database!r}; SQLite would make an empty one")
    return sa.create_engine(url, poolclass=sa.pool.NullPool)
