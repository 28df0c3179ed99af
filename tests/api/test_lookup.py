"""Endpoints with address lookup: dialing by key, publishing, and what services can do wrong."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from iroh_fast import (
    AddressFound,
    Connection,
    DialFailed,
    Endpoint,
    EndpointAddr,
    EndpointId,
    LookupFailed,
    Preset,
    QuicTransportConfig,
    SecretKey,
    presets,
)
from iroh_fast.errors import (
    AddressLookupError,
    AddressLookupFailed,
    BindError,
    ConfigError,
    ConnectError,
    ConnectTimeout,
    EndpointClosed,
    NoAddress,
    UserDataTooLong,
    WrongIdentity,
)
from iroh_fast.lookup import (
    AddressLookup,
    DnsResolver,
    EndpointData,
    EndpointInfo,
    LookupAnswer,
    LookupItem,
    MemoryLookup,
    NameserverConfig,
)
from iroh_fast.lookup.shared import PER_SERVICE

from ..lookup.services import Raises, Says, until
from .conftest import ALPN, Bind

covers = pytest.mark.covers
QUICK = QuicTransportConfig(max_idle_timeout=1, initial_rtt=0.05)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where nobody answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
async def server(bind: Bind) -> Endpoint:
    return await bind(alpns=[ALPN])


def told(ep: Endpoint, provenance: str = "good") -> LookupItem:
    return LookupItem(EndpointInfo.from_addr(ep.addr), provenance)


def at(id: EndpointId, *addrs: str, provenance: str = "wrong") -> LookupItem:
    return LookupItem(EndpointInfo(id, EndpointData(addrs)), provenance)


Both = Callable[..., Awaitable[tuple[Connection, Connection]]]


@pytest.fixture
async def both() -> AsyncIterator[Both]:
    """Connect, by the bare id if nothing else is given, and accept; closed after the test."""
    made: list[Connection] = []

    async def connect(
        client: Endpoint, server: Endpoint, to: EndpointAddr | None = None
    ) -> tuple[Connection, Connection]:
        async def accept() -> Connection:
            incoming = await server.accept()
            assert incoming is not None
            return await incoming

        found = await asyncio.gather(client.connect(to or server.id, ALPN), accept())
        made.extend(found)
        return found

    yield connect
    for conn in made:
        conn.close()


def counter(ep: Endpoint, name: str) -> int:
    return ep.metrics.snapshot().get(f"address_lookup:{name}", 0)


# --- dialing by key


@covers("iroh: address_lookup_simple_shared")
async def test_lookup_connect_by_key_both_ways(bind: Bind, both: Both) -> None:
    shared = MemoryLookup()
    first = await bind(alpns=[ALPN], address_lookup=[shared])
    second = await bind(alpns=[ALPN], address_lookup=[shared])
    for ep in (first, second):
        shared.add(ep.addr)
    await both(first, second)
    assert counter(first, "lookups") == 1
    # The other side has a connection: it knows the way.
    await both(second, first)
    assert counter(second, "lookups") == 0


@covers("iroh: address_lookup_combined_with_empty_and_right")
async def test_lookup_one_without_results_and_a_good_one(
    bind: Bind, both: Both, server: Endpoint
) -> None:
    client = await bind(address_lookup=[Says(), Says([told(server)])])
    await both(client, server)


@covers("iroh: address_lookup_combined_with_empty_and_wrong")
async def test_lookup_a_wrong_address_first_and_a_good_one_later(
    bind: Bind, both: Both, server: Endpoint, silent: str
) -> None:
    go = asyncio.Event()
    liar = Says([at(server.id, silent)])
    client = await bind(address_lookup=[liar, Says([told(server)], after=go)], transport=QUICK)
    dialing = asyncio.ensure_future(both(client, server))
    await until(lambda: liar.ended)
    await asyncio.sleep(0.05)
    go.set()
    conn, _ = await dialing
    assert str(conn.paths[0].remote_addr)[3:] in map(str, server.bound_sockets)


@covers("iroh: address_lookup_combined_wrong_only")
async def test_lookup_only_a_liar_fails_in_time(bind: Bind, server: Endpoint, silent: str) -> None:
    client = await bind(address_lookup=[Says([at(server.id, silent)])], transport=QUICK)
    with pytest.raises(ConnectTimeout):
        await client.connect(server.id, ALPN)
    # What led nowhere is not tried first the next time.
    assert await client.remote_info(server.id) is None


@covers("iroh: address_lookup_succeeds_after_other_resolver_errors")
async def test_lookup_failure_hides_no_slower_success(
    bind: Bind, both: Both, server: Endpoint
) -> None:
    go = asyncio.Event()
    client = await bind(address_lookup=[Raises(OSError("refused")), Says([told(server)], after=go)])
    dialing = asyncio.ensure_future(both(client, server))
    await until(lambda: counter(client, 'service_errors{service="raises"}'))
    assert not dialing.done()
    go.set()
    await dialing


async def test_lookup_all_fail_says_what_each_answered(bind: Bind, server: Endpoint) -> None:
    refused, odd = OSError("refused"), RuntimeError("odd\x07")
    client = await bind(
        address_lookup=[Raises(refused, provenance="dns"), Raises(odd, provenance="pkarr"), Says()]
    )
    with pytest.raises(NoAddress) as raised:
        await client.connect(server.id, ALPN)
    error = raised.value
    assert str(error).startswith(
        f"connect to {server.id:short} (alpn b'test/1') failed: no address"
    )
    assert "'dns' failed: refused" in str(error)
    assert "'pkarr' failed: RuntimeError: odd\\x07" in str(error)
    causes = {e.provenance: e.__cause__ for e in error.lookup_errors}  # type: ignore[attr-defined]
    assert causes == {"dns": refused, "pkarr": odd}
    assert counter(client, "lookups_failed") == 1


async def test_lookup_without_services_fails_at_once(bind: Bind, server: Endpoint) -> None:
    client = await bind()
    with pytest.raises(
        NoAddress, match="no address of it is known, and there is no address lookup"
    ):
        await client.connect(server.id, ALPN)
    assert counter(client, "lookups") == 0


@covers("iroh: concurrent_connects_not_blocked_by_slow_lookup")
async def test_lookup_that_hangs_delays_no_other_remote(
    bind: Bind, both: Both, server: Endpoint
) -> None:
    class Knows(AddressLookup):
        async def resolve(self, id: EndpointId, /) -> AsyncIterator[LookupAnswer]:  # type: ignore[override]
            if id != server.id:
                await asyncio.Event().wait()
            yield told(server)

    client = await bind(address_lookup=[Knows()])
    nobody = SecretKey.generate().public
    hanging = asyncio.ensure_future(client.connect(nobody, ALPN))
    await until(lambda: counter(client, "lookups") == 1)
    await both(client, server)
    assert not hanging.done()
    hanging.cancel()
    await asyncio.wait({hanging})


@covers("iroh: concurrent_connects_do_not_race_on_empty_resolve")
async def test_lookup_is_shared_by_concurrent_connects(bind: Bind, server: Endpoint) -> None:
    """Neither has an address, and an answer without any wakes nobody."""
    go = asyncio.Event()
    empty = Says([at(server.id)])
    slow = Says([told(server)], after=go)
    client = await bind(address_lookup=[empty, slow])
    dials = [asyncio.ensure_future(client.connect(server.id, ALPN)) for _ in range(3)]
    await until(lambda: empty.ended)
    dials.append(asyncio.ensure_future(client.connect(server.id, ALPN)))
    await asyncio.sleep(0.02)
    assert not any(dial.done() for dial in dials)
    go.set()
    accepted = server.connections()
    conns = [await anext(accepted) for _ in dials]
    for conn in (*conns, *await asyncio.gather(*dials)):
        conn.close()
    assert slow.asked == [server.id]


async def test_lookup_shared_by_two_goes_on_when_one_gives_up(
    bind: Bind, both: Both, server: Endpoint
) -> None:
    go = asyncio.Event()
    slow = Says([told(server)], after=go)
    client = await bind(address_lookup=[slow])
    first = asyncio.ensure_future(client.connect(server.id, ALPN))
    second = asyncio.ensure_future(both(client, server))
    await until(lambda: slow.asked)
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled() and not slow.ended
    go.set()
    await second


async def test_lookup_ends_with_the_last_attempt(bind: Bind, server: Endpoint) -> None:
    slow = Says(after=asyncio.Event())
    client = await bind(address_lookup=[slow])
    dial = asyncio.ensure_future(client.connect(server.id, ALPN))
    await until(lambda: slow.asked)
    dial.cancel()
    await asyncio.wait({dial})
    await until(lambda: slow.ended)
    assert dial.cancelled()
    assert (counter(client, "lookups"), counter(client, "lookups_failed")) == (1, 0)


@covers("iroh: address_lookup_with_wrong_existing_addr")
async def test_lookup_rescues_a_stale_address(bind: Bind, server: Endpoint, silent: str) -> None:
    """The attempt begins with what was given, and takes in what is found."""
    go = asyncio.Event()
    slow = Says([told(server)], after=go)
    client = await bind(address_lookup=[slow])
    stale = EndpointAddr(server.id, ip_addrs=[silent])
    connecting = await client.connect_with(stale, ALPN)
    await until(lambda: slow.asked)
    accepting = asyncio.ensure_future(anext(server.connections()))
    go.set()
    conn = await connecting
    assert conn.remote_id == server.id
    conn.close()
    (await accepting).close()


async def test_lookup_rescues_an_address_that_cannot_be_dialed(
    bind: Bind, both: Both, server: Endpoint
) -> None:
    client = await bind(address_lookup=[Says([told(server)])])
    nowhere = EndpointAddr(server.id, ip_addrs=["127.255.255.255:9"])
    await both(client, server, nowhere)


async def test_lookup_that_leads_to_somebody_else_is_survived(bind: Bind, server: Endpoint) -> None:
    """A forged answer comes first, and its endpoint is there; the good one comes later."""
    other = await bind(alpns=[ALPN])
    serving = asyncio.ensure_future(anext(other.connections()))
    good = Says([told(server)], after=asyncio.Event())
    forged = LookupItem(EndpointInfo(server.id, EndpointData(other.addr.addrs)), "forged")
    client = await bind(address_lookup=[Says([forged]), good])
    accepting = asyncio.ensure_future(anext(server.connections()))
    dialing = asyncio.ensure_future(client.connect(server.id, ALPN))
    await until(lambda: other.metrics.snapshot()["socket:num_accepts_failed"])
    assert good.after is not None
    good.after.set()
    conn = await dialing
    assert conn.remote_id == server.id
    conn.close()
    (await accepting).close()
    serving.cancel()


async def test_lookup_that_only_leads_to_somebody_else_says_so(
    bind: Bind, server: Endpoint
) -> None:
    other = await bind(alpns=[ALPN])
    serving = asyncio.ensure_future(anext(other.connections()))
    forged = LookupItem(EndpointInfo(server.id, EndpointData(other.addr.addrs)), "forged")
    client = await bind(address_lookup=[Says([forged])])
    with pytest.raises(WrongIdentity):
        await client.connect(server.id, ALPN)
    serving.cancel()


async def test_lookup_does_not_hide_a_wrong_address(bind: Bind, server: Endpoint) -> None:
    """What no endpoint can have is a mistake of the caller, and told at once."""
    service = Says([told(server)])
    client = await bind(address_lookup=[service])
    for wrong, why in (("127.0.0.1:0", "port 0"), ("224.0.0.1:9", "a multicast address")):
        with pytest.raises(NoAddress, match=why):
            await client.connect(EndpointAddr(server.id, ip_addrs=[wrong]), ALPN)
    assert not service.asked


async def test_lookup_is_not_waited_for_without_any_network(
    bind: Bind, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iroh_fast._dial.is_cut_off", lambda: True)
    monkeypatch.setattr("iroh_fast._dial.ROUTE_PAUSE_S", 0.01)
    monkeypatch.setattr("iroh_fast._ways.is_passing", lambda reason: "broadcast" in reason)
    hanging = Says(after=asyncio.Event())
    client = await bind(address_lookup=[hanging])
    with pytest.raises(NoAddress, match="a broadcast address"):
        await client.connect(EndpointAddr(server.id, ip_addrs=["127.255.255.255:9"]), ALPN)
    await until(lambda: hanging.ended)


async def test_lookup_with_a_connection_is_not_needed(
    bind: Bind, both: Both, server: Endpoint
) -> None:
    service = Says([told(server)])
    client = await bind(address_lookup=[service])
    conn, _ = await both(client, server)
    again, _ = await both(client, server)
    assert len(service.asked) == 1
    conn.close()
    again.close()
    # What was found serves the next attempt, and is looked up anew beside it.
    go = service.after = asyncio.Event()
    third, _ = await both(client, server)
    await until(lambda: len(service.asked) == 2)
    go.set()
    third.close()


async def test_lookup_finds_ways_for_a_connection_that_is_open(
    bind: Bind, both: Both, server: Endpoint, silent: str
) -> None:
    go = asyncio.Event()
    late = Says([at(server.id, silent)], after=go)
    client = await bind(address_lookup=[late])
    await both(client, server, server.addr)
    go.set()
    await until(lambda: late.ended)
    state = client._context.remotes.get(bytes(server.id))
    assert state is not None
    await until(lambda: ("127.0.0.1", int(silent[10:])) in state.addrs)


async def test_lookup_of_our_own_address_is_not_dialed(bind: Bind, server: Endpoint) -> None:
    client = await bind()
    own = [str(addr) for addr in client.bound_sockets]
    client.address_lookup.add(Says([at(server.id, *own)]))
    with pytest.raises(NoAddress, match="the address of this endpoint itself"):
        await client.connect(server.id, ALPN)


async def test_lookup_item_for_another_is_not_dialed(
    bind: Bind, server: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    client = await bind(address_lookup=[Says([told(server)])])
    nobody = SecretKey.generate().public
    with caplog.at_level(logging.WARNING), pytest.raises(NoAddress):
        await client.connect(nobody, ALPN)
    assert f"told of {server.id:short} instead" in caplog.text


async def test_lookup_flood_of_addresses_is_bounded(
    bind: Bind, both: Both, server: Endpoint
) -> None:
    """One service cannot crowd out another, nor make us send to thousands."""
    flood = [f"127.0.{n // 250}.{n % 250 + 1}:9" for n in range(2000)]
    go = asyncio.Event()
    liar = Says([at(server.id, *flood[:1000]), at(server.id, *flood[1000:])])
    client = await bind(address_lookup=[liar, Says([told(server)], after=go)], transport=QUICK)
    dialing = asyncio.ensure_future(both(client, server))
    await until(lambda: liar.ended)
    info = await client.remote_info(server.id)
    assert info is not None and len(info.addrs) == PER_SERVICE
    go.set()
    await dialing


async def test_lookup_timeout_tells_of_failed_services(
    bind: Bind, server: Endpoint, silent: str
) -> None:
    client = await bind(
        address_lookup=[Raises(OSError("refused"), provenance="dns"), Says(after=asyncio.Event())],
        transport=QUICK,
    )
    with pytest.raises(ConnectTimeout) as raised:
        await client.connect(EndpointAddr(server.id, ip_addrs=[silent]), ALPN)
    notes = raised.value.__notes__
    assert "address lookup 'dns' failed: refused" in notes
    assert "address lookup has not ended yet" in notes
    assert any(silent in note for note in notes)


async def test_lookup_is_seen_in_events_and_remote_info(
    bind: Bind, both: Both, server: Endpoint
) -> None:
    client = await bind(
        address_lookup=[Raises(OSError("refused")), Says([told(server, "a"), told(server, "b")])]
    )
    events = client.events()
    await both(client, server)
    seen = []
    while len(seen) < 3:
        event = await anext(events)
        if isinstance(event, (AddressFound, LookupFailed)):
            seen.append(event)
    found = [event for event in seen if isinstance(event, AddressFound)]
    assert [event.service for event in found] == ["a", "b"]
    assert found[0].addrs == server.addr.addrs and found[0].remote == server.id
    (failed,) = (event for event in seen if isinstance(event, LookupFailed))
    assert failed.service == "raises" and "refused" in str(failed)
    info = await client.remote_info(server.id)
    assert info is not None and {addr.sources for addr in info.addrs} == {("a", "b")}
    assert any(addr.usage == "active" for addr in info.addrs)
    text = client.metrics.openmetrics({"name": "x"})
    assert 'address_lookup_service_results_total{name="x",service="a"} 1' in text
    assert text.count("# TYPE address_lookup_service_results counter") == 1


async def test_lookup_failed_dial_is_an_event(bind: Bind, server: Endpoint) -> None:
    client = await bind(address_lookup=[Says()])
    events = client.events()
    with pytest.raises(NoAddress) as raised:
        await client.connect(server.id, ALPN)
    event = await anext(events)
    assert isinstance(event, DialFailed) and event.error is raised.value


# --- number 0's services, with nobody to reach


@pytest.fixture
def nowhere() -> Iterator[DnsResolver]:
    """A resolver whose only name server has no socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    yield DnsResolver([NameserverConfig.udp("127.0.0.1").with_port(port)], fallback="never")


@pytest.mark.parametrize("preset", [presets.n0, presets.n0_no_relay])
async def test_n0_without_network_binds_at_once_and_says_what_it_did_not_reach(
    bind: Bind, server: Endpoint, nowhere: DnsResolver, preset: Preset
) -> None:
    client = await bind(preset=preset, dns_resolver=nowhere)
    assert client.dns_resolver is nowhere and len(client.address_lookup) == 3
    with pytest.raises(NoAddress) as raised:
        await client.connect(server.id, ALPN)
    assert {error.provenance for error in raised.value.lookup_errors} == {"dns", "pkarr"}  # type: ignore[attr-defined]
    for part in ("'dns' failed:", "'pkarr' failed:", "dns.iroh.link"):
        assert part in str(raised.value)
    # Addresses that are given are dialed at once, whatever becomes of lookups.
    accepting = asyncio.ensure_future(anext(server.connections()))
    conn = await client.connect(server.addr, ALPN)
    conn.close()
    (await accepting).close()


# --- publishing


async def test_publish_direct_addresses_user_data_and_changes(bind: Bind) -> None:
    service = Says()
    ep = await bind(address_lookup=[service], user_data="hello")
    here = EndpointData(ep.addr.addrs, "hello")
    assert service.published == [here]
    await ep.add_external_addr("203.0.113.7:4433")
    # The most useful first.
    assert service.published[1:] == [EndpointData(["203.0.113.7:4433", *here.addrs], "hello")]
    assert ep.user_data == "hello"
    ep.set_user_data(None)
    assert service.published[2:] == [EndpointData(["203.0.113.7:4433", *here.addrs])]
    ep.set_user_data(None)
    await ep.network_change()
    await ep.remove_external_addr("203.0.113.8:1")
    assert len(service.published) == 3, "only what is different"
    late = Says()
    ep.address_lookup.add(late)
    assert late.published == service.published[2:]
    with pytest.raises(UserDataTooLong):
        ep.set_user_data("x" * 246)


async def test_publish_home_relay_comes_last() -> None:
    from iroh_fast.lookup.service import own_data

    addr = EndpointAddr(
        SecretKey.generate().public,
        relay_url="https://relay.example",
        ip_addrs=["192.0.2.1:1", "[2001:db8::1]:2"],
    )
    assert own_data(addr, "text") == EndpointData(
        ["192.0.2.1:1", "[2001:db8::1]:2", "https://relay.example"], "text"
    )
    assert own_data(addr, None, addr.ip_addrs[1:]) == EndpointData(
        ["[2001:db8::1]:2", "192.0.2.1:1", "https://relay.example"]
    )


@covers("iroh: concurrent_address_lookup_addr_filter")
async def test_publish_filter_of_the_endpoint_counts_for_all(bind: Bind) -> None:
    first, second = Says(), Says()
    ep = await bind(
        address_lookup=[first],
        extra_address_lookup=[second],
        addr_filter="relay_only",
        user_data="only that",
    )
    assert first.published == second.published == [EndpointData([], "only that")]
    assert len(ep.address_lookup) == 2


# --- the end, and what is wrong


async def test_lookup_ends_at_once_with_the_endpoint(bind: Bind, server: Endpoint) -> None:
    class Closes(Says):
        closed = 0

        async def close(self) -> None:
            self.closed += 1

    service = Closes(after=asyncio.Event())
    client = await bind(address_lookup=[service])
    dials = [asyncio.ensure_future(client.connect(server.id, ALPN)) for _ in range(2)]
    lookup = client.address_lookup.resolve(server.id)
    waiting = asyncio.ensure_future(anext(lookup))
    await until(lambda: len(service.asked) == 2)
    await client.close()
    for task in (*dials, waiting):
        with pytest.raises(EndpointClosed):
            await task
    assert service.ended == 2 and service.closed == 1
    for name in ("address_lookup", "dns_resolver"):
        with pytest.raises(EndpointClosed):
            getattr(client, name)
    client.set_user_data("ignored")


async def test_resolve_by_hand(bind: Bind, server: Endpoint) -> None:
    client = await bind(address_lookup=[Says([told(server)])])
    async with client.address_lookup.resolve(server.id) as lookup:
        found = [answer async for answer in lookup]
    assert found == [told(server)]
    client.address_lookup.clear()
    with pytest.raises(AddressLookupFailed, match="has no address lookup") as raised:
        async for _ in client.address_lookup.resolve(server.id):
            pass
    assert raised.value.kind == "no_service"


async def test_bind_fails_with_a_builder_that_fails(bind: Bind) -> None:
    class Builder:
        def into_address_lookup(self, endpoint: object) -> AddressLookup:
            raise OSError("no multicast here")

    class Closes(Says):
        closed = 0

        async def close(self) -> None:
            self.closed += 1

    before = Closes()
    with pytest.raises(BindError, match="'Builder' cannot be set up: no multicast here") as raised:
        await bind(address_lookup=[before, Builder()])
    assert isinstance(raised.value.__cause__, AddressLookupError)
    assert before.closed == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"address_lookup": Says()}, "address_lookup is a list .*: write \\["),
        ({"address_lookup": [Says]}, "holds the class Says"),
        ({"extra_address_lookup": ["dns"]}, "extra_address_lookup is a list of address lookup"),
        ({"addr_filter": "relays"}, "addr_filter is a function or one of"),
        ({"dns_resolver": "8.8.8.8"}, "dns_resolver is a DnsResolver, or an object"),
    ],
)
async def test_bind_names_a_wrong_lookup_option(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Endpoint.bind(**options)  # type: ignore[arg-type]


async def test_bind_user_data_has_a_bound() -> None:
    with pytest.raises(UserDataTooLong):
        Endpoint.bind(user_data="x" * 246)


async def test_lookup_error_is_told_for_an_attempt_that_never_left(
    bind: Bind, server: Endpoint
) -> None:
    """Given addresses that cannot be used, and a lookup that fails: both are told."""
    client = await bind(address_lookup=[Raises(OSError("refused"), provenance="dns")])
    with pytest.raises(NoAddress) as raised:
        await client.connect(EndpointAddr(server.id, ip_addrs=["127.255.255.255:9"]), ALPN)
    assert "127.255.255.255:9 (a broadcast address)" in str(raised.value) and "'dns' failed: refused" in str(
        raised.value
    )
    assert isinstance(raised.value, ConnectError)
