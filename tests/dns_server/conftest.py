"""Tests of the DNS server: under plain asyncio and under uvloop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres_kit import Postgres, running, template

_numbers = itertools.count(1)


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop
    }
    try:
        import uvloop
    except ImportError:
        return factories
    factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture(scope="session")
def postgres_data() -> Iterator[Path]:
    """What PostgreSQL servers begin with."""
    yield from template()


@pytest.fixture(scope="session")
def postgres(postgres_data: Path) -> Iterator[Postgres]:
    """A PostgreSQL server for the tests of this process, started when the first wants it."""
    yield from running(postgres_data)


@pytest.fixture
def own_postgres(postgres_data: Path) -> Iterator[Postgres]:
    """A server that the test may stop."""
    yield from running(postgres_data)


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The URL of an empty database."""
    return postgres.create_database(f"test{next(_numbers)}")
