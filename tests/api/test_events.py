"""Events of an endpoint, the log, and counters for Prometheus: one story, told three times."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest

from iroh_fast import Connection, EndpointAddr, EndpointHooks, HookOutcome, Reject, Router
from iroh_fast.errors import (
    AlpnMismatch,
    InvalidAlpn,
    LocallyRejected,
    NoAddress,
    SelfConnect,
    WrongThread,
)
from iroh_fast.events import (
    LIMIT,
    AcceptFailed,
    AddrChanged,
    ConnectionClosed,
    ConnectionOpened,
    DialFailed,
    Dialing,
    EndpointEvents,
    EventsLagged,
)
from iroh_fast.metrics import COUNTERS, GAUGES

from .conftest import ALPN, Bind, connect


async def until(events: EndpointEvents, kind: type) -> object:
    async for event in events:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__}")


async def test_events_tell_the_life_of_a_connection(
    bind: Bind, caplog: pytest.LogCaptureFixture
) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    theirs, ours = server.events(), client.events()
    with caplog.at_level(logging.DEBUG, "iroh_fast"):
        conn, accepted = await connect(client, server)
        dialing = await until(ours, Dialing)
        opened = await until(ours, ConnectionOpened)
        incoming = await until(theirs, ConnectionOpened)
        conn.close(7, b"enough\x1b[31m")
        closed = await until(theirs, ConnectionClosed)
        own_end = await until(ours, ConnectionClosed)
    assert isinstance(dialing, Dialing) and dialing.remote == server.id and dialing.addrs
    assert isinstance(opened, ConnectionOpened) and opened.conn_id == conn.stable_id
    assert (opened.remote, opened.alpn, opened.side) == (server.id, ALPN, "client")
    assert isinstance(incoming, ConnectionOpened)
    assert (incoming.remote, incoming.side) == (client.id, "server")
    assert isinstance(closed, ConnectionClosed) and closed.conn_id == accepted.stable_id
    assert (closed.reason.code, closed.reason.reason) == (7, b"enough\x1b[31m")
    assert closed.stats.udp_rx.bytes > 0
    assert isinstance(own_end, ConnectionClosed) and own_end.reason.kind == "locally_closed"
    logged = {record.event: record for record in caplog.records if hasattr(record, "event")}
    for event in (dialing, opened, incoming, closed):
        record = logged[event]
        assert record.levelno == event.level
        assert record.name.startswith("iroh_fast.")
        assert record.getMessage().isprintable()
        assert record.getMessage().split(":")[0] in (f"{server.id:short}", f"{client.id:short}")


async def test_events_tell_failures_with_their_cause(
    bind: Bind, caplog: pytest.LogCaptureFixture
) -> None:
    class Gate(EndpointHooks):
        async def after_handshake(self, conn: Connection) -> HookOutcome:
            return Reject(5, b"no") if conn.alpn == b"gate" else None

    server, client = await bind(alpns=[ALPN, b"gate"], hooks=[Gate()]), await bind()
    theirs, ours = server.events(), client.events()
    connections = server.connections()
    taken = asyncio.create_task(anext(connections))
    with caplog.at_level(logging.INFO, "iroh_fast"):
        with pytest.raises(AlpnMismatch):
            await client.connect(server.addr, b"other")
        failed = await until(ours, DialFailed)
        refused = await until(theirs, AcceptFailed)
        with pytest.raises(NoAddress):
            await client.connect(server.id, ALPN)
        nowhere = await until(ours, DialFailed)
        conn = await client.connect(server.addr, b"gate")
        rejected = await until(theirs, AcceptFailed)
    assert isinstance(failed, DialFailed) and isinstance(failed.error, AlpnMismatch)
    assert isinstance(refused, AcceptFailed) and isinstance(refused.error, AlpnMismatch)
    assert isinstance(nowhere, DialFailed) and isinstance(nowhere.error, NoAddress)
    assert isinstance(rejected, AcceptFailed) and isinstance(rejected.error, LocallyRejected)
    assert server.metrics.snapshot()["socket:num_accepts_failed"] == 2
    for event in (failed, refused, nowhere, rejected):
        assert str(event.error) in caplog.text
    await conn.wait_closed()
    taken.cancel()


async def test_events_tell_handshakes_that_fail_before_a_router_knows_the_protocol(
    bind: Bind,
) -> None:
    async def handler(conn: Connection) -> None: ...

    server, client = await bind(), await bind()
    async with Router(server, {ALPN: handler}):
        events = server.events()
        with pytest.raises(AlpnMismatch):
            await client.connect(server.addr, b"other")
        failed = await until(events, AcceptFailed)
    assert isinstance(failed, AcceptFailed) and isinstance(failed.error, AlpnMismatch)
    assert server.metrics.snapshot()["socket:num_accepts_failed"] == 1


async def test_events_tell_a_failure_once_however_often_it_is_asked(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    dial = asyncio.create_task(client.connect(server.addr, b"other"))
    incoming = await server.accept()
    assert incoming is not None
    accepting = incoming.accept()
    for wait in (accepting.alpn(), accepting.alpn(), accepting):
        with pytest.raises(AlpnMismatch):
            await wait
    with pytest.raises(AlpnMismatch):
        await dial
    assert server.metrics.snapshot()["socket:num_accepts_failed"] == 1


async def test_events_tell_own_addresses_and_end_with_the_endpoint(bind: Bind) -> None:
    ep = await bind()
    events = ep.events()
    await ep.add_external_addr("203.0.113.1:5")
    await ep.add_external_addr("203.0.113.1:5")  # no news
    changed = await anext(events)
    assert isinstance(changed, AddrChanged) and changed.addr == ep.addr
    waiting = asyncio.create_task(anext(events, None))
    await asyncio.sleep(0)
    await ep.close()
    assert await waiting is None


async def test_events_of_a_slow_consumer_lag(bind: Bind) -> None:
    ep = await bind()
    events = ep.events()
    for port in range(1, LIMIT + 11):
        await ep.add_external_addr(f"203.0.113.1:{port}")
    assert await anext(events) == EventsLagged(10)
    assert isinstance(await anext(events), AddrChanged)


async def test_events_cost_nothing_when_nobody_looks(
    bind: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iroh_fast.events.EventHub.emit", None)  # would fail
    logging.getLogger("iroh_fast").setLevel(logging.WARNING)
    try:
        for conn in await connect(await bind(), await bind(alpns=[ALPN])):
            conn.close()
    finally:
        logging.getLogger("iroh_fast").setLevel(logging.NOTSET)


async def test_events_belong_to_the_loop(bind: Bind) -> None:
    ep = await bind()
    with pytest.raises(WrongThread):
        await asyncio.to_thread(ep.events)


async def test_counters_have_names_help_and_labels_for_prometheus(bind: Bind) -> None:
    ep = await bind()
    snapshot = ep.metrics.snapshot()
    assert set(snapshot) <= set(COUNTERS) | set(GAUGES)
    assert not set(COUNTERS) & set(GAUGES)
    text = ep.metrics.openmetrics({"endpoint": 'a"b\n'})
    for key, value in snapshot.items():
        name = key.replace(":", "_")
        if key in GAUGES:
            assert f"# HELP {name} {GAUGES[key]}.\n# TYPE {name} gauge\n" in text
            assert f'{name}{{endpoint="a\\"b\\n"}} {value}\n' in text
            continue
        assert f"# HELP {name} {COUNTERS[key]}.\n# TYPE {name} counter\n" in text
        assert f'{name}_total{{endpoint="a\\"b\\n"}} {value}\n' in text
    assert text.endswith("# EOF\n")
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    families = list(parser.text_string_to_metric_families(ep.metrics.openmetrics()))
    assert {family.name for family in families} == {key.replace(":", "_") for key in snapshot}
    assert all(family.documentation for family in families)
    assert all(re.fullmatch("[a-z0-9_]+", family.name) for family in families)


async def test_events_tell_dials_that_are_refused_before_the_first_packet(
    bind: Bind, caplog: pytest.LogCaptureFixture
) -> None:
    class Gate(EndpointHooks):
        async def before_connect(self, addr: EndpointAddr, alpn: bytes) -> HookOutcome:
            return alpn != b"refused"

    ep, server = await bind(hooks=[Gate()]), await bind(alpns=[ALPN])
    events = ep.events()
    with caplog.at_level(logging.INFO, "iroh_fast"):
        for addr, alpn, kind in (
            (ep.addr, ALPN, SelfConnect),
            (server.addr, b"refused", LocallyRejected),
            (server.addr, b"", InvalidAlpn),
        ):
            with pytest.raises(kind) as info:
                await ep.connect(addr, alpn)
            event = await until(events, DialFailed)
            assert isinstance(event, DialFailed)
            assert (event.error, event.remote, event.alpn) == (info.value, addr.id, alpn)
            assert str(info.value) in caplog.text
