"""Every public call with wrong values: the error is raised by the call and says what it is about."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from iroh_fast import (
    BindAddr,
    Connection,
    CustomAddr,
    Endpoint,
    EndpointAddr,
    EndpointConfig,
    EndpointId,
    EndpointTicket,
    IpAddr,
    IrohError,
    PublicKey,
    QuicTransportConfig,
    RecvStream,
    Reject,
    RelayAddr,
    RelayUrl,
    Router,
    SecretKey,
    SendStream,
    ServerConfig,
    Signature,
    SocketAddr,
    TransportAddr,
    presets,
)
from iroh_fast.config import AckFrequencyConfig, MtuDiscoveryConfig
from iroh_fast.relay import (
    AllowList,
    CaConfig,
    DenyList,
    HttpAccess,
    Proxy,
    RelayConfig,
    RelayLimits,
    RelayMap,
    RelayServer,
    RelayServerConfig,
    RelayTlsConfig,
    SharedToken,
)

from .conftest import ALPN, LOOPBACK, Bind, Pair

Call = Callable[[Any], Any]

KEY = SecretKey.from_bytes(bytes(range(32)))
LONG = "x" * 100_000
VALUES: tuple[Any, ...] = (
    None, 5, -1, 2**80, math.nan, math.inf, 1.5, True, "", "x", LONG, "\ud800", "a\nb\x00", b"",
    b"x", b"\xff" * 40, bytearray(b"x"), memoryview(b"xy"), [], [None], ["x"], [5], {}, {"a": 1}, (),
    {1, 2}, object(), int, Path("x"), KEY,
)  # fmt: skip

# What Python says by itself about the inside of a function that did not check.
OF_PYTHON = re.compile(
    r"not supported between|object is not (iterable|callable|subscriptable)|has no (len|attribute)|"
    r"string argument without|unsupported operand|cannot be interpreted|must be real number|"
    r"expected str|expected string|cannot (convert|use)|can't be used|unhashable|takes \d|"
    r"positional argument|unexpected keyword|too (large|big) to convert|"
    r"embedded null|surrogates|codec can't|sequence item|(enough|too many) values to unpack"
)


async def refused(call: Call, value: Any) -> str | None:
    """What is wrong with the answer to a wrong value; None when there is nothing, or it is taken."""
    try:
        result = call(value)
        if isinstance(result, Awaitable):
            task = asyncio.ensure_future(result)
            for _ in range(10):
                await asyncio.sleep(0)
            if not task.done():  # it waits, so it took the value
                task.cancel()
                await asyncio.wait({task})
            else:
                await task
    except (TypeError, ValueError, BufferError, IrohError) as error:
        text = str(error)
        if isinstance(error, UnicodeError) or OF_PYTHON.search(text):
            return f"{type(error).__name__}: {text[:200]}"
        if len(text) > 500:
            return f"{len(text)} characters of message"
        if not text:
            return f"{type(error).__name__} without a word"
    except OSError as error:
        return None if error.strerror else f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None


def fields(kind: type, **more: Any) -> Iterator[tuple[str, Call]]:
    for item in dataclasses.fields(kind):
        yield (
            f"{kind.__name__}({item.name})",
            lambda value, name=item.name: kind(**{**more, name: value}),
        )


def of_values() -> Iterator[tuple[str, Call]]:
    """Calls that need no event loop."""
    for kind in (QuicTransportConfig, MtuDiscoveryConfig, AckFrequencyConfig, CaConfig):
        yield from fields(kind)
    for kind in (RelayLimits, RelayServerConfig, RelayTlsConfig):
        yield from fields(kind)
    yield from fields(ServerConfig, alpns=[ALPN])
    yield from fields(BindAddr, host="127.0.0.1")
    yield from fields(SocketAddr, ip=ip_address("::1"), port=5)
    yield from fields(CustomAddr, id=5, data=b"")
    yield from fields(RelayConfig, url="http://relay.example/")
    yield from fields(Reject)
    public = KEY.public
    for make in (
        BindAddr.parse, SocketAddr.parse, SocketAddr.from_tuple, IpAddr, RelayAddr, RelayUrl,
        CustomAddr.parse, CustomAddr.from_bytes, CustomAddr.from_json, TransportAddr.from_json,
        EndpointAddr, EndpointAddr.from_json, EndpointAddr.from_postcard, EndpointTicket,
        EndpointTicket.parse, EndpointTicket.from_bytes, PublicKey, PublicKey.parse,
        PublicKey.from_bytes, PublicKey.from_z32, SecretKey, SecretKey.parse,
        SecretKey.from_bytes, KEY.sign, Signature, RelayConfig.from_json, RelayMap,
        RelayMap().insert, RelayMap().remove, RelayMap().extend,
        RelayMap(["http://relay.example/"]).with_auth_token, Proxy.parse, SharedToken, AllowList,
        DenyList, HttpAccess, RelayServer, RelayServerConfig.from_toml, EndpointId.parse,
        EndpointAddr(public).with_addrs, EndpointAddr(public).with_ip_addr,
        EndpointAddr(public).with_relay_url,
    ):  # fmt: skip
        yield getattr(make, "__qualname__", str(make)), make
    yield "EndpointAddr(addrs)", lambda value: EndpointAddr(public, value)
    yield "EndpointAddr(ip_addrs)", lambda value: EndpointAddr(public, ip_addrs=value)
    yield "EndpointAddr(relay_url)", lambda value: EndpointAddr(public, relay_url=value)
    yield "verify(message)", lambda value: public.verify(value, bytes(64))
    yield "verify(signature)", lambda value: public.verify(b"", value)
    yield "HttpAccess(bearer_token)", lambda value: HttpAccess("http://x/", value)
    yield "HttpAccess(timeout)", lambda value: HttpAccess("http://x/", timeout=value)
    yield "HttpAccess(concurrency)", lambda value: HttpAccess("http://x/", concurrency=value)
    yield "RelayServer(routes)", lambda value: RelayServer(routes=value)
    yield "RelayServerConfig.dev(host)", lambda value: RelayServerConfig.dev(host=value)
    yield "RelayServerConfig.dev(port)", lambda value: RelayServerConfig.dev(port=value)


BIND = [item.name for item in dataclasses.fields(EndpointConfig)]


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in of_values()])
async def test_wrong_values_are_told(call: Call) -> None:
    wrong = {repr(value)[:60]: await refused(call, value) for value in VALUES}
    assert not {value: text for value, text in wrong.items() if text is not None}


@pytest.mark.parametrize("name", BIND)
async def test_wrong_options_of_bind_are_told(name: str) -> None:
    needs = {"relays": ["http://127.0.0.1:1"]} if name in ("proxy", "proxy_from_env", "ca") else {}
    home = {} if name == "bind_addrs" else {"bind_addrs": LOOPBACK}
    home["preset"] = presets.minimal

    async def bind(value: Any) -> None:
        async with Endpoint.bind(**{**home, **needs, name: value}):
            pass

    wrong = {repr(value)[:60]: await refused(bind, value) for value in VALUES}
    assert not {value: text for value, text in wrong.items() if text is not None}


def of_endpoint(ep: Endpoint, addr: EndpointAddr) -> Iterator[tuple[str, Call]]:
    yield "connect(addr)", lambda value: ep.connect(value, ALPN)
    yield "connect(alpn)", lambda value: ep.connect(addr, value)
    yield "transport", lambda value: ep.connect_with(addr, ALPN, transport=value)
    yield "extra_alpns", lambda value: ep.connect_with(addr, ALPN, extra_alpns=value)
    yield "add_external_addr", ep.add_external_addr
    yield "remove_external_addr", ep.remove_external_addr
    yield "remote_info", ep.remote_info
    yield "max_pending", lambda value: ep.connections(max_pending=value)
    yield "set_alpns", ep.set_alpns
    yield "server_config", ep.server_config
    yield "server_config(transport)", lambda value: ep.server_config(transport=value)
    yield "insert_relay", ep.insert_relay
    yield "remove_relay", ep.remove_relay
    yield "wait_for", ep.watch_addr().wait_for
    yield "openmetrics", ep.metrics.openmetrics
    yield "Router(endpoint)", Router
    yield "Router(protocols)", lambda value: Router(ep, value)
    yield "Router(handler)", lambda value: Router(ep, {b"x": value})
    yield "Router.accept(alpn)", lambda value: Router(ep).accept(value, _handler)
    yield "incoming_filter", lambda value: Router(ep, incoming_filter=value)
    yield "on_error", lambda value: Router(ep, on_error=value)


async def _handler(conn: Connection) -> None:
    pass


def of_connection(conn: Connection) -> Iterator[tuple[str, Call]]:
    yield "close_on_exit(code)", conn.close_on_exit
    yield "close_on_exit(reason)", lambda value: conn.close_on_exit(0, value)
    yield "linger", lambda value: setattr(conn, "linger", value)
    yield "bi", lambda value: conn.set_limits(bi=value)
    yield "uni", lambda value: conn.set_limits(uni=value)
    yield "receive_window", lambda value: conn.set_limits(receive_window=value)
    yield "label", lambda value: conn.export_keying_material(value, b"", 5)
    yield "context", lambda value: conn.export_keying_material(b"x", value, 5)
    yield "length", lambda value: conn.export_keying_material(b"x", b"", value)
    yield "send_datagram", conn.send_datagram
    yield "send_datagram_wait", conn.send_datagram_wait


def of_stream(send: SendStream, recv: RecvStream) -> Iterator[tuple[str, Call]]:
    yield "write", send.write
    yield "write_all", send.write_all
    yield "writelines", send.writelines
    yield "priority", lambda value: setattr(send, "priority", value)
    yield "read", recv.read
    yield "read_chunk", recv.read_chunk
    yield "readexactly", recv.readexactly
    yield "read_to_end", recv.read_to_end
    yield "readinto", recv.readinto
    yield "readinto_exactly", recv.readinto_exactly
    yield "unordered", recv.unordered
    yield "reset", send.reset
    yield "stop", recv.stop


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")  # of calls that are not awaited
async def test_wrong_values_given_to_live_objects_are_told(pair: Pair, bind: Bind) -> None:
    send, recv = await pair.client.open_bi()
    other = await bind(relays=[])
    nobody = EndpointAddr(KEY.public, ip_addrs=["127.0.0.1:9"])
    calls = [
        *of_endpoint(other, nobody), *of_connection(pair.client), *of_stream(send, recv)
    ]  # fmt: skip
    wrong = {
        f"{name}: {value!r:.60}": text
        for name, call in calls
        for value in VALUES
        if (text := await refused(call, value)) is not None
    }
    assert not wrong
    assert pair.client.close_reason is None
