"""Settings of the whole suite: how much hypothesis tries, how many processes run it."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

T = TypeVar("T")

# The deadline is off: a busy machine must not fail a test.
settings.register_profile(
    "dev",
    max_examples=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
# The same examples in every run, so that a red one is about the change under test.
settings.register_profile("ci", settings.get_profile("dev"), max_examples=200, derandomize=True)
settings.register_profile("nightly", settings.get_profile("dev"), max_examples=5000)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two per core, because most tests wait; none where single tests or files are named."""
    if any("::" in name or name.endswith(".py") for name in config.args):
        return 0
    return 2 * max(2, os.cpu_count() or 1)


@pytest.fixture(autouse=True, scope="session")
def nobody_asks_the_gateway() -> Iterator[None]:
    """The router of whoever runs the tests is left alone."""
    from iroh_fast.errors import PortmapError
    from iroh_fast.portmapper import service

    def refuse(*_: object) -> Any:
        raise PortmapError("no_gateway", "not in tests")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "gateway_of", refuse)
        yield


@pytest.fixture
def virtual() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Like `asyncio.run`, on a clock that jumps to what is due; no sockets, no threads."""
    import asyncio

    from tests.virtual import VirtualLoop

    def run(main: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(main)

    return run
