"""Names: what name servers say, what they must not get away with, and how several are asked."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import threading
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from name_server import NameServer, name_server, refuses, reply, resolver_with, says, silent

from iroh_fast.errors import (
    DnsError,
    DnsInvalidResponse,
    DnsMissingHost,
    DnsNoResponse,
    DnsNxDomain,
    DnsResolveBoth,
    DnsResolveFailed,
    DnsTimeout,
)
from iroh_fast.web.resolver import DnsResolver, NameserverConfig, server, stub, udp
from iroh_fast.web.resolver import race as race_module

V4, V6 = socket.AF_INET, socket.AF_INET6
NXDOMAIN, SERVFAIL, REFUSED, FORMERR = 3, 2, 5, 1
HERE = says(("", "A", 60, "192.0.2.1"), ("", "AAAA", 60, "2001:db8::1"), ("", "TXT", 60, '"a" "b"'))


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


# --- single answers


async def test_records_of_each_kind_are_found() -> None:
    async with name_server(HERE) as known, resolver_with(known) as resolver:
        assert await resolver.lookup_ipv4("a.example.") == [ipaddress.IPv4Address("192.0.2.1")]
        assert await resolver.lookup_ipv6("a.example.") == [ipaddress.IPv6Address("2001:db8::1")]
        assert await resolver.lookup_txt("a.example.") == [[b"a", b"b"]]
        assert await resolver.lookup("a.example.", V6) == ["2001:db8::1"]
        found = await resolver.lookup_ipv4_ipv6("a.example.")
        assert [str(ip) for ip in found] == ["192.0.2.1", "2001:db8::1"]


async def test_queries_ask_for_recursion_with_edns_and_unlike_ids_and_ports() -> None:
    async with name_server(refuses(NXDOMAIN)) as known, resolver_with(known) as resolver:
        for _ in range(20):
            with pytest.raises(DnsNxDomain):
                await resolver.lookup_txt("a.example.")
        ids = {query.id for _, query in known.queries}
        assert len(ids) > 15 and len(known.sources) > 15
        for _, query in known.queries:
            assert query.flags == dns.flags.RD and (query.edns, query.payload) == (0, 1232)


async def test_answers_are_kept_and_failures_are_not() -> None:
    async with name_server(HERE) as known, resolver_with(known) as resolver:
        for name in ("a.example.", "A.EXAMPLE", "a.example"):
            await resolver.lookup_txt(name)
        assert len(known.queries) == 1
        resolver.clear_cache()
        await resolver.lookup_txt("a.example.")
        assert len(known.queries) == 2
        for answer in (refuses(NXDOMAIN), says(), refuses(SERVFAIL)):
            known.answer = answer
            for _ in range(2):
                before = len(known.queries)
                with pytest.raises(DnsError):
                    await resolver.lookup_txt("new.example.")
                assert len(known.queries) > before
        known.answer = HERE
        assert await resolver.lookup_txt("new.example.") == [[b"a", b"b"]]


async def test_answer_without_time_to_live_is_not_kept() -> None:
    async with name_server(says(("", "A", 0, "192.0.2.1"))) as known:
        async with resolver_with(known) as resolver:
            await resolver.lookup_ipv4("a.example.")
            await resolver.lookup_ipv4("a.example.")
            assert len(known.queries) == 2


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (NXDOMAIN, DnsNxDomain),
        (SERVFAIL, DnsResolveFailed),
        (REFUSED, DnsResolveFailed),
        (0, DnsNoResponse),
    ],
)
async def test_result_is_told_by_its_class(code: int, error: type[DnsError]) -> None:
    async with name_server(refuses(code)) as known, resolver_with(known) as resolver:
        with pytest.raises(error) as caught:
            await resolver.lookup_ipv4("a.example")
        assert caught.value.host == "a.example" and "a.example" in str(caught.value)
        with pytest.raises(DnsResolveBoth) as both:
            await resolver.lookup_ipv4_ipv6("a.example")
        assert isinstance(both.value.ipv4, error) and isinstance(both.value.ipv6, error)


async def test_one_family_is_enough() -> None:
    async with name_server(says(("", "AAAA", 9, "2001:db8::1"))) as known:
        async with resolver_with(known) as resolver:
            assert [str(ip) for ip in await resolver.lookup_ipv4_ipv6("a.example.")] == [
                "2001:db8::1"
            ]
            assert str(await resolver.resolve_host("https://a.example/x")) == "2001:db8::1"
            found = [str(ip) async for ip in resolver.resolve_host_all("https://a.example/x")]
            assert found == ["2001:db8::1"]


async def test_host_of_a_url_prefers_a_family_and_takes_literals() -> None:
    async with name_server(HERE) as known, resolver_with(known) as resolver:
        assert str(await resolver.resolve_host("http://a.example")) == "192.0.2.1"
        assert (
            str(await resolver.resolve_host("http://a.example", prefer_ipv6=True)) == "2001:db8::1"
        )
        known.queries.clear()
        assert str(await resolver.resolve_host("http://[2001:db8::7]:80/")) == "2001:db8::7"
        assert [str(ip) async for ip in resolver.resolve_host_all("http://192.0.2.9/")] == [
            "192.0.2.9"
        ]
        assert known.queries == []
        for url in ("mailto:a@b", "nothing"):
            with pytest.raises(DnsMissingHost):
                await resolver.resolve_host(url)
            with pytest.raises(DnsMissingHost):
                [ip async for ip in resolver.resolve_host_all(url)]
        known.answer = refuses(NXDOMAIN)
        with pytest.raises(DnsResolveBoth):
            [ip async for ip in resolver.resolve_host_all("http://b.example/")]


@pytest.mark.parametrize("name", ["localhost", "localhost.", "A.LocalHost"])
async def test_localhost_is_not_asked_for(name: str) -> None:
    async with name_server(HERE) as known, resolver_with(known) as resolver:
        assert await resolver.lookup(name, V4) == ["127.0.0.1"]
        assert await resolver.lookup(name, V6) == ["::1"]
        assert known.queries == []


@pytest.mark.parametrize(
    "name", ["", ".", "a..b", "x" * 64 + ".example", "a." * 130, "\0", "\u2603.example", "\udc80"]
)
async def test_odd_names_fail_without_harm(name: str) -> None:
    async with name_server(refuses(NXDOMAIN)) as known, resolver_with(known) as resolver:
        with pytest.raises(DnsError) as caught:
            await resolver.lookup_txt(name)
        assert str(caught.value).isprintable()


# --- lies


def forged(query: dns.message.Message, change: str) -> bytes:
    lie = dns.message.from_wire(reply(query, ("", "A", 60, "203.0.113.66")).to_wire())
    if change == "id":
        lie.id = query.id ^ 1
    elif change == "question":
        lie.question[0].name = dns.name.from_text("bank.example.")
    elif change == "type":
        lie.question[0].rdtype = dns.rdatatype.AAAA
    elif change == "query":
        lie.flags &= ~dns.flags.QR
    elif change == "opcode":
        lie.flags |= 0x2800
    elif change == "two":
        lie.question.append(dns.rrset.from_text(".", 1, "IN", "A"))
    elif change == "none":
        lie.question.clear()
    return lie.to_wire()


@pytest.mark.parametrize(
    "change", ["id", "question", "type", "query", "opcode", "two", "none", "short"]
)
async def test_what_does_not_answer_the_query_is_not_looked_at(change: str) -> None:
    def answer(query: dns.message.Message, _: str) -> list[bytes]:
        lie = b"\0" * 11 if change == "short" else forged(query, change)
        return [lie] * 40 + [reply(query, ("", "A", 60, "192.0.2.1")).to_wire()]

    async with name_server(answer) as known, resolver_with(known) as resolver:
        assert await resolver.lookup("a.example.", V4) == ["192.0.2.1"]
        assert len(known.queries) == 1


async def test_answer_from_another_address_is_not_taken() -> None:
    liar = socket.socket(V4, socket.SOCK_DGRAM)
    liar.bind(("127.0.0.2", 0))

    class Server(NameServer):
        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            query = dns.message.from_wire(data)
            liar.sendto(reply(query, ("", "A", 60, "203.0.113.66")).to_wire(), addr)
            super().datagram_received(data, addr)

    with liar:
        async with name_server(HERE) as known, resolver_with(known) as resolver:
            known.__class__ = Server
            assert await resolver.lookup("a.example.", V4) == ["192.0.2.1"]


async def test_letters_of_another_case_are_the_same_name() -> None:
    def answer(query: dns.message.Message, _: str) -> bytes:
        wire = reply(query, ("", "A", 60, "192.0.2.1")).to_wire()
        return wire.replace(b"\x01a\x07example", b"\x01A\x07eXamPLE")

    async with name_server(answer) as known, resolver_with(known) as resolver:
        assert await resolver.lookup("a.example.", V4) == ["192.0.2.1"]


async def test_records_of_other_names_and_classes_do_not_count() -> None:
    def answer(query: dns.message.Message, _: str) -> dns.message.Message:
        found = reply(query, ("bank.example.", "A", 60, "203.0.113.66"))
        found.answer.append(dns.rrset.from_text(query.question[0].name, 60, "CH", "TXT", "x"))
        found.additional.append(
            dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "203.0.113.66")
        )
        return found

    async with name_server(answer) as known, resolver_with(known) as resolver:
        for lookup in (resolver.lookup_ipv4, resolver.lookup_txt):
            with pytest.raises(DnsNoResponse):
                await lookup("a.example.")  # type: ignore[operator]


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\xc0\x0c" * 30,  # a name that points at itself
        b"\0\0\1\0\1\0\0\0\0\0\xff\xff",  # data beyond the end
        b"\0\0\1\0\1\0\0\0\0\0\3abc",  # an address of three bytes
    ],
)
async def test_broken_records_are_an_invalid_answer(wire: bytes) -> None:
    def answer(query: dns.message.Message, _: str) -> bytes:
        query.use_edns(False)
        head = bytearray(dns.message.make_response(query).to_wire())
        head[6:8] = b"\0\1"
        if wire.startswith(b"\0\0\1"):
            return (
                bytes(head) + b"\xc0\x0c" + wire[1:]
                if wire.endswith(b"abc")
                else bytes(head) + wire
            )
        return bytes(head) + wire

    async with name_server(answer) as known, resolver_with(known) as resolver:
        with pytest.raises((DnsInvalidResponse, DnsNoResponse)) as caught:
            await resolver.lookup_ipv4("a.example.")
        if wire != b"":
            assert known.asked == ["udp a.example. A"]
        assert isinstance(caught.value, DnsInvalidResponse)


# --- aliases


async def test_aliases_are_followed_in_one_answer_and_over_several() -> None:
    def answer(query: dns.message.Message, _: str) -> dns.message.Message:
        name = str(query.question[0].name)
        if name == "a.example.":
            return reply(
                query, ("", "CNAME", 5, "b.example."), ("b.example.", "CNAME", 60, "c.example.")
            )
        assert name == "c.example."
        return reply(query, ("", "A", 60, "192.0.2.3"))

    async with name_server(answer) as known, resolver_with(known) as resolver:
        assert await resolver.lookup("a.example.", V4) == ["192.0.2.3"]
        assert known.asked == ["udp a.example. A", "udp c.example. A"]
        await resolver.lookup("a.example.", V4)
        assert len(known.queries) == 2
        records = resolver._inner._cache._entries  # type: ignore[union-attr]
        (entry,) = [value for key, value in records.items() if b"a" in key[0][:2]]
        assert entry[2].ttl == 5


@pytest.mark.parametrize("steps", ["loop", "endless"])
async def test_aliases_without_end_end(steps: str) -> None:
    def answer(query: dns.message.Message, _: str) -> dns.message.Message:
        name = str(query.question[0].name)
        if steps == "loop":
            return reply(
                query,
                ("a.example.", "CNAME", 60, "b.example."),
                ("b.example.", "CNAME", 60, "a.example."),
            )
        return reply(query, ("", "CNAME", 60, f"x{name}"))

    async with name_server(answer) as known, resolver_with(known) as resolver:
        with pytest.raises(DnsInvalidResponse, match="alias"):
            await resolver.lookup_ipv4("a.example.")
        assert len(known.queries) <= 9


async def test_alias_of_a_name_without_such_a_record_is_final() -> None:
    def answer(query: dns.message.Message, _: str) -> dns.message.Message:
        found = reply(query, ("", "CNAME", 60, "b.example."))
        soa = "ns.example. admin.example. 1 2 3 4 5"
        found.authority.append(dns.rrset.from_text("example.", 60, "IN", "SOA", soa))
        return found

    async with name_server(answer) as known, resolver_with(known) as resolver:
        with pytest.raises(DnsNoResponse):
            await resolver.lookup_ipv6("a.example.")
        assert len(known.queries) == 1


# --- EDNS, TCP, loss


async def test_server_that_does_not_know_edns_is_asked_once_more_without() -> None:
    def answer(query: dns.message.Message, _: str) -> dns.message.Message | bytes:
        if query.edns >= 0:  # as old servers do: only the header
            return query.to_wire()[:2] + b"\x81\x81" + b"\0" * 8
        return reply(query, ("", "A", 60, "192.0.2.1"))

    async with name_server(answer) as known, resolver_with(known) as resolver:
        assert await resolver.lookup("a.example.", V4) == ["192.0.2.1"]
        assert [query.edns for _, query in known.queries] == [0, -1]
        known.answer = refuses(FORMERR)
        known.queries.clear()
        with pytest.raises(DnsResolveFailed, match="FORMERR"):
            await resolver.lookup_txt("a.example.")
        assert len(known.queries) == 2


async def test_truncated_answer_is_fetched_over_tcp() -> None:
    def answer(query: dns.message.Message, over: str) -> dns.message.Message:
        found = reply(query, ("", "TXT", 60, "part" if over == "udp" else "all"))
        if over == "udp":
            found.flags |= dns.flags.TC
        return found

    async with name_server(answer) as known, resolver_with(known) as resolver:
        assert await resolver.lookup_txt("a.example.") == [[b"all"]]
        assert [over for over, _ in known.queries] == ["udp", "tcp"]
    async with name_server(answer, tcp=False) as known, resolver_with(known) as resolver:
        with pytest.raises(DnsResolveFailed):
            await resolver.lookup_txt("a.example.")


async def test_lost_datagrams_are_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "MIN_PACE_S", 0.01)

    def answer(query: dns.message.Message, over: str) -> dns.message.Message | None:
        return HERE(query, over) if len(known.queries) > 2 else None  # type: ignore[return-value]

    async with name_server(answer, tcp=False) as known, resolver_with(known) as resolver:
        assert await resolver.lookup("a.example.", V4) == ["192.0.2.1"]
        assert len(known.queries) == 3 and len(known.sources) == 1


async def test_network_without_udp_uses_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TCP_AFTER_S", 0.02)

    def answer(query: dns.message.Message, over: str) -> dns.message.Message | None:
        return HERE(query, over) if over == "tcp" else None  # type: ignore[return-value]

    async with name_server(answer) as known, resolver_with(known) as resolver:
        for n in range(5):
            assert await resolver.lookup(f"n{n}.example.", V4) == ["192.0.2.1"]
        assert known.connections == 1  # which is kept


async def test_connection_that_the_server_closed_meanwhile_is_no_failure() -> None:
    async with name_server(HERE) as known, resolver_with(known.config("tcp")) as resolver:
        known.closes_after_each = True
        for n in range(5):
            assert await resolver.lookup(f"n{n}.example.", V4) == ["192.0.2.1"]
        assert known.connections == 5


@pytest.mark.parametrize(
    "raw",
    [
        b"RAW\0",
        b"RAW\xff\xff" + b"x" * 70000,
        b"RAW\0\5hello",
        b"RAW\0\0",
        b"RAW\0\x0cxx\x80\0\0\1\0\0\0\0\0\0",
    ],
)
async def test_nonsense_over_tcp_is_a_failed_server(raw: bytes) -> None:
    async with name_server(lambda *_: raw) as known:
        known.closes_after_each = True
        async with resolver_with(known.config("tcp")) as resolver:
            with pytest.raises(DnsResolveFailed):
                await resolver.lookup_ipv4("a.example.")


# --- several servers


async def test_second_server_is_asked_when_the_first_is_slow_or_refuses() -> None:
    for bad in (silent, refuses(SERVFAIL), refuses(REFUSED)):
        async with name_server(bad) as first, name_server(HERE) as second:
            async with resolver_with(first, second) as resolver:
                assert await resolver.lookup("a.example.", V4) == ["192.0.2.1"]
                assert first.queries
                # What failed is not asked first any more.
                count = len(first.queries)
                assert await resolver.lookup_txt("b.example.") == [[b"a", b"b"]]
                assert len(first.queries) == count


async def test_no_such_name_from_one_server_is_final() -> None:
    for certain in (refuses(NXDOMAIN), says()):
        async with name_server(certain) as first, name_server(HERE) as second:
            async with resolver_with(first, second) as resolver:
                with pytest.raises((DnsNxDomain, DnsNoResponse)):
                    await resolver.lookup_ipv4("a.example.")
                assert second.queries == []


async def test_three_servers_are_asked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_module, "NEXT_AFTER_S", 0.01)
    async with (
        name_server(silent) as a,
        name_server(silent) as b,
        name_server(silent) as c,
        name_server(HERE) as d,
    ):
        async with resolver_with(a, b, c, d, timeout=0.3) as resolver:
            with pytest.raises(DnsTimeout, match=f"from 127.0.0.1:{a.port}, "):
                await resolver.lookup_ipv4("a.example.")
            assert a.queries and b.queries and c.queries and not d.queries
            await asyncio.sleep(0.01)
            # They were slow, and are last now.
            assert await resolver.lookup("a.example.", V4) == ["192.0.2.1"]


async def test_unreachable_servers_fail_at_once_and_are_named() -> None:
    with socket.socket(V4, socket.SOCK_STREAM) as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        async with DnsResolver([f"127.0.0.1:{port}"]) as resolver:
            with pytest.raises(DnsResolveFailed, match=f"127.0.0.1:{port}: .*refused|Connect"):
                await resolver.lookup_ipv4("a.example.")


async def test_fallback_is_asked_as_its_mode_says() -> None:
    async with name_server(refuses(SERVFAIL)) as bad, name_server(HERE) as public:
        others = [public.config()]
        for mode in ("never", "if_system_empty"):
            async with resolver_with(bad, fallback=mode, fallback_nameservers=others) as resolver:
                with pytest.raises(DnsResolveFailed):
                    await resolver.lookup_ipv4("a.example.")
        assert public.queries == []
        for mode in ("deferred", "eager"):
            async with resolver_with(bad, fallback=mode, fallback_nameservers=others) as resolver:
                assert await resolver.lookup("a.example.", V4) == ["192.0.2.1"]
        async with resolver_with(
            fallback="if_system_empty", fallback_nameservers=others
        ) as resolver:
            assert await resolver.lookup("a.example.", V4) == ["192.0.2.1"]
        public.queries.clear()
        bad.answer = refuses(NXDOMAIN)
        async with resolver_with(bad, fallback="deferred", fallback_nameservers=others) as resolver:
            with pytest.raises(DnsNxDomain):
                await resolver.lookup_ipv4("a.example.")
        assert public.queries == []
        async with resolver_with(fallback="never") as resolver:
            with pytest.raises(DnsResolveFailed, match="no name server to ask"):
                await resolver.lookup_ipv4("a.example.")


# --- cancellation and bounds


async def test_cancelled_lookups_leave_nothing_open() -> None:
    async with name_server(silent) as known, resolver_with(known, timeout=60) as resolver:
        descriptors = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
        tasks = [asyncio.create_task(resolver.lookup_ipv4(f"n{n}.example.")) for n in range(50)]
        while len(known.queries) < 50:
            await asyncio.sleep(0.005)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in ended)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if descriptors:
            assert len(os.listdir("/proc/self/fd")) == descriptors
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_number_of_questions_at_a_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stub, "MAX_QUESTIONS", 10)
    async with name_server(silent) as known, resolver_with(known, timeout=60) as resolver:
        tasks = [asyncio.create_task(resolver.lookup_ipv4(f"n{n}.example.")) for n in range(30)]
        while len(set(known.asked)) < 10:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        assert len(set(known.asked)) == 10
        known.answer = HERE
        assert len(await asyncio.gather(*tasks)) == 30


def test_nameserver_config_forms() -> None:
    assert str(NameserverConfig.udp("192.0.2.53")) == "192.0.2.53"
    assert NameserverConfig.parse("[2001:db8::1]:99") == NameserverConfig.udp(
        "2001:db8::1"
    ).with_port(99)
    tls = NameserverConfig.tls("192.0.2.53").with_tls_server_name("dns.example")
    assert (tls.port, tls.server_name, str(tls)) == (853, "dns.example", "tls://192.0.2.53")
    assert NameserverConfig.https("::1").port == 443 and NameserverConfig.tcp("::1").port == 53
