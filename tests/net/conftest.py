"""Fixtures of the tests of the path policy."""

from __future__ import annotations

import pytest
from pretended import Clock

from iroh_fast.net.remote import RemoteMap, RemoteState
from iroh_fast.net.remote import map as remote_map


@pytest.fixture
def listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver delivers path events of real connections; here the connection of the test does."""
    monkeypatch.setattr(
        remote_map, "on_paths", lambda conn, call: setattr(conn, "path_listener", call)
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> RemoteState:
    state = RemoteState(clock.time)
    clock.watched.append(state)
    return state


@pytest.fixture
def remotes(clock: Clock) -> RemoteMap:
    return RemoteMap(clock)  # type: ignore[arg-type]
