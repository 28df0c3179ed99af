from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from postgres_kit import Postgres, running

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the tests of this process, started when the first wants it."""
    yield from running()


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The URL of an empty database."""
    return postgres.create_database(f"test{next(_numbers)}")
