"""A connection that is over goes when the last handle goes, without the cycle collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sim import SECOND, Pair, calm, transfer

MakePair = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def connect(p: Pair) -> tuple[Any, Any]:
    c: Any = p.dial()
    p.run_until(lambda: c.handshake_confirmed or c.close_reason)
    p.drive()
    return c, (p.server.accepted.pop() if p.server.accepted else None)


def closed(p: Any) -> list[Any]:
    c, s = connect(p)
    c.close()
    p.drain()
    return [c, s]


def timed_out(p: Any) -> list[Any]:
    c, s = connect(p)
    p.filters.append(lambda d: True)
    p.run_for(60 * SECOND)
    p.filters.clear()
    return [c, s]


def with_streams(p: Any) -> list[Any]:
    c, s = connect(p)
    transfer(p, c, s, bytes(100_000))
    for side in (c, s):
        for bidi in (True, False):
            side.open_stream(bidi).write(b"unread")
        side.send_datagram(b"unread")
    p.drive()
    c.close()
    p.drain()
    return [c, s]


def more_paths(p: Any) -> list[Any]:
    c, s = connect(p)
    second = c.open_path(p.server.addresses[0], p.client.addresses[1])
    p.drive()
    c.close_path(second)
    p.drive()
    s.close()
    p.drain()
    return [c, s]


def never_answered(p: Any) -> list[Any]:
    p.filters.append(lambda d: True)
    c = p.dial()
    p.run_for(SECOND)
    c.close()
    p.drain()
    p.filters.clear()
    return [c]


def refused(p: Any) -> list[Any]:
    p.server.auto = lambda incoming: incoming.refuse()
    c, _ = connect(p)
    p.drain()
    p.server.auto = p.accept
    return [c]


def failed(p: Any) -> list[Any]:
    c = p.dial(alpns=[b"unknown"])
    p.run_until(lambda: c.drained)
    p.drain()
    return [c, p.server.accepted.pop()]


ENDS = [closed, timed_out, with_streams, more_paths, never_answered, refused, failed]


@pytest.mark.parametrize("end", ENDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("qlog", [False, True], ids=["", "qlog"])
def test_connection_goes_with_its_last_handle(
    make_pair: MakePair, tmp_path: Path, end: Callable[[Any], list[Any]], qlog: bool
) -> None:
    options = {"qlog_dir": str(tmp_path)} if qlog else {}
    p = make_pair(
        transport=calm(**options), client_addresses=[("10.0.0.1", 1111), ("10.0.0.3", 3333)]
    )
    connections = end(p)
    assert connections and all(c.drained for c in connections)
    alive = [weakref.ref(c) for c in connections]
    connections.clear()
    p.client.sent.clear()
    p.server.sent.clear()
    assert [r() for r in alive] == [None] * len(alive)


def test_stream_keeps_its_connection(make_pair: MakePair) -> None:
    """What was received can be read after the end, and says how it ended."""
    p = make_pair()
    c, s = connect(p)
    stream = c.open_stream(False)
    stream.write(b"last words")
    stream.finish()
    p.drive()
    received = s.accept_stream(False)
    alive = weakref.ref(s)
    c.close()
    p.drain()
    del c, s
    assert received.read(100) == b"last words"
    assert alive() is not None
    del received
    assert alive() is None
