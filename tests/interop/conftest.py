"""Fixtures of the tests against the published `iroh` package."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from .links import Links
from .peer_client import PeerProcess

HERE = Path(__file__).parent
LIMIT_S = 120.0  # for a test without a marker of its own

# The wheel exists for the usual platforms only.
AVAILABLE = find_spec("iroh") is not None
collect_ignore_glob = [] if AVAILABLE else ["test_*.py"]


def pytest_report_header() -> str | None:
    return None if AVAILABLE else "interop: left out, the iroh package is not installed"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--peer-trace",
        metavar="DIR",
        default=os.environ.get("PEER_TRACE_DIR"),
        help="store the real peer's log of every packet and frame, one file per test",
    )
    parser.addoption(
        "--bulk-mib",
        type=int,
        default=int(os.environ.get("PEER_BULK_MIB", "256")),
        help="size of the bulk transfers against the real peer (default: 256)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "limit(seconds): cancel the test after that time")


def limited(test: Callable[..., Coroutine[Any, Any, None]], seconds: float) -> Any:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(*args, **kwargs)

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that hangs must end where it hangs, and the peer must be stopped."""
    for item in items:
        if (
            HERE in item.path.parents
            and isinstance(item, pytest.Function)
            and inspect.iscoroutinefunction(item.obj)
        ):
            marker = item.get_closest_marker("limit")
            item.obj = limited(item.obj, max(LIMIT_S, marker.args[0] if marker else 0))


@pytest.fixture
async def peer(request: pytest.FixtureRequest) -> AsyncIterator[PeerProcess]:
    """A process with the real stack."""
    directory = request.config.getoption("--peer-trace", None)
    if directory is None:
        async with await PeerProcess.launch() as process:
            yield process
        return
    name = re.sub(r"[^\w.-]+", "_", request.node.name).strip("_")
    path = Path(directory) / f"{request.node.path.stem}-{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as log:
        async with await PeerProcess.launch(log) as process:
            yield process


@pytest.fixture
async def links(peer: PeerProcess) -> AsyncIterator[Links]:
    """Makes connections between us and the real peer, and takes them down."""
    made = Links(peer)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(params=[True, False], ids=["dialling", "accepting"])
def dials(request: pytest.FixtureRequest) -> bool:
    """Run a test in both roles: True when we are the client."""
    return bool(request.param)


@pytest.fixture
def bulk_size(request: pytest.FixtureRequest) -> int:
    """Bytes of a bulk transfer."""
    return int(request.config.getoption("--bulk-mib", 256)) * 2**20


@pytest.fixture(autouse=True)
def no_stray_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test during which an exception ended in the event loop's handler."""
    yield
    stray = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.name == "asyncio" and record.levelname == "ERROR"
    ]
    assert not stray, stray
