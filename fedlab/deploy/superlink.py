"""SuperLink, with a limit on what a node may send.

``python -m fedlab.deploy.superlink`` takes the options of ``flower-superlink``. Flower's own stores
whatever comes; a message of 1 GB locks its database until it takes its own app for dead, and then
all nodes are cut off. What a message consists of, a tree of objects, is told before it is sent: if
it has more or larger objects than our largest message, it is refused, and its SuperNode drops it.
"""

from __future__ import annotations

from typing import Any

from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.state.alembic import utils
from flwr.superlink.cli import flower_superlink

from fedlab.deploy.messages import LARGEST

#: Besides chunks a message has an object for itself, its records and its array.
_OBJECTS, _AROUND = -(-LARGEST // CHUNK) + 8, 1 << 16

_register, _put, _config = (
    SqlObjectStore.preregister,
    SqlObjectStore.put,
    utils.build_alembic_config,
)


def _limited(self: SqlObjectStore, run_id: int, object_tree: Any) -> list[str]:
    for count, _ in enumerate(iterate_object_tree(object_tree), 1):
        if count > _OBJECTS:
            raise ValueError(f"a message of more than {_OBJECTS} objects; {LARGEST:,} bytes may be")
    found: list[str] = _register(self, run_id, object_tree)
    return found


def _bounded(self: SqlObjectStore, object_id: str, object_content: bytes) -> None:
    if len(object_content) > CHUNK + _AROUND:
        raise ValueError(f"an object of {len(object_content):,} bytes; {CHUNK:,} may be")
    _put(self, object_id, object_content)


def _spaced(engine: Any) -> Any:
    """Return settings by which tables are found where the environment's path has a space."""
    config = _config(engine)
    config.set_main_option("path_separator", "newline")
    return config


def limit() -> None:
    """Refuse, from now on, what is larger than our largest message."""
    SqlObjectStore.preregister, SqlObjectStore.put = _limited, _bounded


def main() -> None:
    """Run SuperLink, until it is told to end."""
    limit()
    utils.build_alembic_config = _spaced
    flower_superlink()


if __name__ == "__main__":
    main()
