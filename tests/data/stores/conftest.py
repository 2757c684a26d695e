"""The two servers, each started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import KINDS, server


@pytest.fixture(scope="session", params=KINDS)
def postgres(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a database."""
    with server(request.param) as address:
        yield address


@pytest.fixture(scope="session")
def pgvector() -> Iterator[str]:
    """The address of a database that has pgvector."""
    with server("pgvector") as address:
        yield address
