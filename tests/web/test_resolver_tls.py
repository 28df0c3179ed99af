"""DNS over TLS and HTTPS: whom they trust, what is kept open, what servers get wrong."""

from __future__ import annotations

from typing import Any

import pytest
from name_server import certificate, name_server, refuses, resolver_with, says

from iroh_fast.errors import DnsNxDomain, DnsResolveFailed
from iroh_fast.web.ca import CaConfig

HERE = says(("", "A", 0, "192.0.2.1"))
PROTOCOLS = pytest.mark.parametrize("protocol", ["tls", "https"])


@PROTOCOLS
@pytest.mark.parametrize("name", ["127.0.0.1", "dns.example"])
async def test_server_with_the_right_certificate_is_believed(protocol: str, name: str) -> None:
    context, ca = certificate(name)
    async with name_server(HERE, tls=context, https=protocol == "https") as known:
        config = known.config(protocol)
        if name != "127.0.0.1":
            config = config.with_tls_server_name(name)
        async with resolver_with(config, ca=ca) as resolver:
            for n in range(4):
                assert await resolver.lookup(f"n{n}.example.", 2) == ["192.0.2.1"]
            assert [over for over, _ in known.queries] == [protocol] * 4
            assert known.connections == 1
            known.answer = refuses(3)
            with pytest.raises(DnsNxDomain):
                await resolver.lookup("a.example.", 2)


@PROTOCOLS
async def test_server_with_another_certificate_is_not_asked(protocol: str) -> None:
    context, ca = certificate("other.example")
    async with name_server(HERE, tls=context, https=protocol == "https") as known:
        for trusted in (ca, CaConfig(roots="none"), None):
            async with resolver_with(known.config(protocol), ca=trusted) as resolver:
                with pytest.raises(DnsResolveFailed, match="(?i)certificate"):
                    await resolver.lookup_ipv4("a.example.")
        assert known.queries == []


@PROTOCOLS
async def test_roots_of_the_endpoint_count_where_the_resolver_has_none(protocol: str) -> None:
    context, ca = certificate("127.0.0.1")
    async with name_server(HERE, tls=context, https=protocol == "https") as known:
        resolver = resolver_with(known.config(protocol))
        resolver.attach(ca)
        assert await resolver.lookup("a.example.", 2) == ["192.0.2.1"]
        await resolver.detach()


@PROTOCOLS
async def test_connection_that_ended_is_replaced(protocol: str) -> None:
    context, ca = certificate("127.0.0.1")
    async with name_server(HERE, tls=context, https=protocol == "https") as known:
        async with resolver_with(known.config(protocol), ca=ca) as resolver:
            for n in range(3):
                assert await resolver.lookup(f"n{n}.example.", 2) == ["192.0.2.1"]
                known.end_streams()
            resolver.reset()
            assert await resolver.lookup("again.example.", 2) == ["192.0.2.1"]
            await resolver.close()
            assert await resolver.lookup("more.example.", 2) == ["192.0.2.1"]


@pytest.mark.parametrize(
    "raw",
    [
        b"RAWHTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b"RAWHTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"RAWHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"4000\r\n"
        + b"x" * 0x4000
        + b"\r\n1\r\nx\r\n",
        b"RAWHTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
        b"RAWHTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08",
        b"RAWnonsense\r\n\r\n",
        b"hello",
        b"",
    ],
)
async def test_nonsense_over_https_is_a_failed_server(raw: bytes) -> None:
    context, ca = certificate("127.0.0.1")

    def answer(*_: Any) -> bytes:
        return raw

    async with name_server(answer, tls=context, https=True) as known:
        async with resolver_with(known.config("https"), ca=ca) as resolver:
            with pytest.raises(DnsResolveFailed):
                await resolver.lookup_ipv4("a.example.")
