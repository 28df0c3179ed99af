"""An endpoint as a process of the lab, driven by lines of JSON; the same of Rust is ``peer node``.

    python -m tests.lab.node

One object per line. Nothing else comes on stdout; logs go to stderr. The process ends when its input does. What follows is
the protocol, for both kinds.

Requests are ``{"n": 1, "cmd": "ping", ...}``. They run side by side; each is answered once, in any order, by
``{"n": 1, "ok": true, ...}`` or ``{"n": 1, "ok": false, "kind": "TimedOut", "error": "text"}``; the kind is the name of an
exception, ``Timeout`` where the `timeout` of the request passed, ``Unsupported`` where this kind of node has no such command.
All other lines are events, ``{"event": "path", "t": 12.3, ...}``. Every `t` is a second of CLOCK_MONOTONIC, which all processes
of a machine share. Every `timeout` is in seconds and may be left out; so may what has "=" here. A `conn` is a number, counted
from 1 in this process, of connections dialed and accepted alike. An endpoint id is 64 hexadecimal digits. An address is
``"1.2.3.4:5"``, ``"[::1]:5"`` or ``"relay:URL"``; kinds of addresses are ip4, ip6, relay, custom.

=================  =================================================  ==========================================================
command            takes                                              answers
=================  =================================================  ==========================================================
bind               relays=[URL], qad_port=7842 (0: no QAD),           id, sockets=[address]; one endpoint per process, which
                   ca=PEM file (the only roots), ip=true (UDP),       accepts at once
                   bind_addrs=[], secret=hex, external=[],
                   net_report=true, portmapper=false
online             timeout=30                                         relay: URL of the home relay, connected
addr               -                                                  id, relays=[URL], ips=[address]
connect            to: id, relays=[URL], ips=[address], timeout=30    conn, took: seconds, t: when it was complete
conns              -                                                  conns=[{conn, remote, side: client|server, t, closed: null
                                                                      or text}]
ping               conn, bytes=8, timeout=10                          took: opens a stream, writes, reads the echo, compares
paths              conn                                               paths=[{id, remote, kind, local: address or null,
                                                                      selected: bool, status: available|backup or null, rtt:
                                                                      seconds, mtu, tx, rx: bytes of UDP, lost: packets}]
wait_path          conn, kind: ip (ip4 or ip6) or a kind, timeout=15, path, t, since: seconds from when the connection was
                   prefix="" of the address, other_than=[address]     complete until this path was selected
wait_direct        conn, timeout=15                                   the same as wait_path with kind ip
wait_closed        conn, timeout=60                                   t, kind, reason
bulk               conn, bytes (per stream), way: up|down|echo,       took, tenths=[bytes that arrived in each tenth of a second;
                   streams=1, timeout=120                             of up: []]
ticker             conn, interval=0.05                                ticker: a number; see below
ticker_stop        ticker, timeout=10                                 sent, received, longest: [t, seconds] without an echo,
                                                                      gaps=[[t, seconds]] of more than 0.2 s
network_change     -                                                  -
relay_insert       url, qad_port=7842                                 -
relay_remove       url                                                -
report             timeout=10                                         report: object or null, the latest net report
metrics            -                                                  counters={"group:name": number}
remote_info        of: id                                             addrs=[{addr, usage}]
why                conn                                               text: why it is relayed
process            -                                                  tasks, fds, threads, rss: bytes, cpu: seconds
close_conn         conn, code=0, reason=""                            -
close              -                                                  took; of the endpoint
=================  =================================================  ==========================================================

Events: ``ready`` (first line: `kind` ours|rust|wheel, `version`); ``accepted`` and ``connected`` (conn, remote); ``path`` (conn,
`what`: opened, closed, selected; `remote`, `kind`, `id` and `reason` where known); ``closed`` (conn, kind, reason); ``home`` (relay:
URL or null, `state`); ``addr`` (relays, ips). A path is watched from when its connection is complete, so that the path that was
selected then is an event too.

Over the wire: ALPN ``iroh-lab/1``. Every stream is opened by whoever asked for it, is bidirectional and begins with one byte:

* ``E``: the other side sends back what follows, as it comes.
* ``S``: the other side reads to the end, checks it and answers with the number of bytes, 8 bytes, big end first.
* ``G`` and a number of 8 bytes: the other side sends that many bytes.

Byte i of the content of a bulk transfer is i modulo 251 (of each stream); wrong content ends the stream with code 1. A ticker is
a stream of echo on which a number of 8 bytes, big end first, is written at every interval and read back; a write waits for the
one before, no number is left out, and what comes late is counted as a gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from iroh_fast import (
    Connection,
    Endpoint,
    EndpointAddr,
    EndpointId,
    SecretKey,
    __version__,
    presets,
)
from iroh_fast.addr import RelayUrl, SocketAddr
from iroh_fast.errors import WatcherEnded
from iroh_fast.relay import RelayConfig
from iroh_fast.web.ca import CaConfig
from tests.lab import node_traffic
from tests.lab.node_conns import Held, address, path_facts

ALPN = b"iroh-lab/1"
Answer = dict[str, Any]
Asked = dict[str, Any]


class Unsupported(Exception):
    """This kind of node has no such command."""


def say(facts: dict[str, Any]) -> None:
    print(json.dumps(facts, default=str), flush=True)


def tell(event: str, **facts: Any) -> None:
    say({"event": event, "t": facts.pop("t", None) or time.monotonic(), **facts})


def relay_config(url: str, qad_port: int) -> RelayConfig:
    return RelayConfig(RelayUrl(url), quic_port=qad_port or None)


class Node:
    """The endpoint of the process, its connections, and the commands."""

    def __init__(self) -> None:
        self._endpoint: Endpoint | None = None
        self._held: dict[int, Held] = {}
        self._tickers: dict[int, node_traffic.Ticker] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- what is there
    @property
    def endpoint(self) -> Endpoint:
        if self._endpoint is None:
            raise ValueError("bind first")
        return self._endpoint

    def held(self, asked: Asked) -> Held:
        return self._held[asked["conn"]]

    def hold(self, conn: Connection) -> Held:
        number = len(self._held) + 1
        held = self._held[number] = Held(number, conn, tell)
        return held

    def spawn(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the endpoint
    async def bind(self, asked: Asked) -> Answer:
        qad_port = asked.get("qad_port", 7842)
        options: dict[str, Any] = {
            "alpns": [ALPN],
            "relays": [relay_config(url, qad_port) for url in asked.get("relays", [])] or None,
            "ip_transports": asked.get("ip", True),
            "external_addrs": asked.get("external", []),
        }
        if asked.get("bind_addrs"):
            options["bind_addrs"] = asked["bind_addrs"]
        if asked.get("ca"):
            options["ca"] = CaConfig(roots="none", extra=[Path(asked["ca"]).read_text()])
        if asked.get("secret"):
            options["secret_key"] = SecretKey.parse(asked["secret"])
        for name, default in (("net_report", True), ("portmapper", False)):
            if not asked.get(name, default):
                options[name] = False
            elif not default:
                options[name] = True
        self._endpoint = endpoint = await Endpoint.bind(preset=presets.minimal, **options)
        self.spawn(self._accept(endpoint))
        self.spawn(self._follow_addr(endpoint))
        self.spawn(self._follow_home(endpoint))
        sockets = [str(address) for address in endpoint.bound_sockets]
        return {"id": str(endpoint.id), "sockets": sockets}

    async def _accept(self, endpoint: Endpoint) -> None:
        async for conn in endpoint.connections():
            self.hold(conn)

    async def _follow_addr(self, endpoint: Endpoint) -> None:
        with contextlib.suppress(WatcherEnded):
            async for addr in endpoint.watch_addr():
                tell("addr", **addr_facts(addr))

    async def _follow_home(self, endpoint: Endpoint) -> None:
        with contextlib.suppress(WatcherEnded):
            async for states in endpoint.watch_home_relay():
                home = states[0] if states else None
                tell(
                    "home",
                    relay=None if home is None else str(home.url),
                    state=None if home is None else home.state,
                )

    async def online(self, asked: Asked) -> Answer:
        await self.endpoint.online()
        urls = addr_facts(self.endpoint.addr)["relays"]
        return {"relay": urls[0] if urls else None}

    async def addr(self, asked: Asked) -> Answer:
        return {"id": str(self.endpoint.id), **addr_facts(self.endpoint.addr)}

    async def network_change(self, asked: Asked) -> Answer:
        await self.endpoint.network_change()
        return {}

    async def relay_insert(self, asked: Asked) -> Answer:
        config = relay_config(asked["url"], asked.get("qad_port", 7842))
        await self.endpoint.insert_relay(config)
        return {}

    async def relay_remove(self, asked: Asked) -> Answer:
        await self.endpoint.remove_relay(asked["url"])
        return {}

    async def report(self, asked: Asked) -> Answer:
        endpoint = self.endpoint
        if not hasattr(endpoint, "net_report"):
            raise Unsupported("net reports")
        report = endpoint.net_report
        return {"report": None if report is None else dataclasses.asdict(report)}

    async def metrics(self, asked: Asked) -> Answer:
        return {"counters": self.endpoint.metrics.snapshot()}

    async def remote_info(self, asked: Asked) -> Answer:
        info = await self.endpoint.remote_info(EndpointId(asked["of"]))
        if info is None:
            return {"addrs": None}
        return {"addrs": [{"addr": address(i.addr), "usage": i.usage} for i in info.addrs]}

    async def close(self, asked: Asked) -> Answer:
        started = time.monotonic()
        await self.endpoint.close()
        return {"took": time.monotonic() - started}

    # --- connections
    async def connect(self, asked: Asked) -> Answer:
        started = time.monotonic()
        target = EndpointAddr(
            EndpointId(asked["to"]),
            [RelayUrl(url) for url in asked.get("relays", [])],
            ip_addrs=[SocketAddr.parse(text) for text in asked.get("ips", [])],
        )
        held = self.hold(await self.endpoint.connect(target, ALPN))
        return {"conn": held.number, "took": held.complete - started, "t": held.complete}

    async def conns(self, asked: Asked) -> Answer:
        return {"conns": [held.describe() for held in self._held.values()]}

    async def ping(self, asked: Asked) -> Answer:
        started = time.monotonic()
        await node_traffic.echo(self.held(asked).conn, asked.get("bytes", 8))
        return {"took": time.monotonic() - started}

    async def paths(self, asked: Asked) -> Answer:
        return {"paths": [path_facts(path) for path in self.held(asked).conn.paths]}

    async def wait_path(self, asked: Asked) -> Answer:
        held, kind = self.held(asked), asked.get("kind", "ip")
        return await held.wait_path(kind, asked.get("prefix", ""), asked.get("other_than", []))

    async def wait_direct(self, asked: Asked) -> Answer:
        return await self.held(asked).wait_path("ip", "", [])

    async def wait_closed(self, asked: Asked) -> Answer:
        return await self.held(asked).wait_closed()

    async def bulk(self, asked: Asked) -> Answer:
        conn, way = self.held(asked).conn, asked.get("way", "echo")
        return await node_traffic.bulk(conn, way, asked["bytes"], asked.get("streams", 1))

    async def ticker(self, asked: Asked) -> Answer:
        number = len(self._tickers) + 1
        ticker = await node_traffic.Ticker.start(self.held(asked).conn, asked.get("interval", 0.05))
        self._tickers[number] = ticker
        return {"ticker": number}

    async def ticker_stop(self, asked: Asked) -> Answer:
        return await self._tickers[asked["ticker"]].stop(asked.get("timeout", 10.0))

    async def why(self, asked: Asked) -> Answer:
        conn = self.held(asked).conn
        if not hasattr(conn, "why_relayed"):
            raise Unsupported("why_relayed")
        return {"text": str(conn.why_relayed())}

    async def close_conn(self, asked: Asked) -> Answer:
        self.held(asked).conn.close(asked.get("code", 0), asked.get("reason", "").encode())
        return {}

    async def process(self, asked: Asked) -> Answer:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {
            "tasks": len(asyncio.all_tasks()),
            "fds": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "rss": pages * resource.getpagesize(),
            "cpu": usage.ru_utime + usage.ru_stime,
        }

    async def stop(self) -> None:
        """End what the process still does."""
        if self._endpoint is not None:
            await self._endpoint.close()
        for held in self._held.values():
            await held.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def addr_facts(addr: EndpointAddr) -> dict[str, Any]:
    words = [address(one) or "" for one in addr.addrs]
    return {
        "relays": [word.removeprefix("relay:") for word in words if word.startswith("relay:")],
        "ips": [word for word in words if not word.startswith(("relay:", "custom:"))],
    }


#: Seconds that a command may take unless the request says so. `ticker_stop` has a limit of its own.
LIMITS = {"online": 30, "connect": 30, "ping": 10, "wait_path": 15, "wait_direct": 15, "wait_closed": 60, "bulk": 120}  # fmt: skip
COMMANDS: dict[str, Callable[[Node, Asked], Awaitable[Answer]]] = {
    name: getattr(Node, name)
    for name in (
        "bind online addr connect conns ping paths wait_path wait_direct wait_closed bulk ticker ticker_stop "
        "network_change relay_insert relay_remove report metrics remote_info why process close_conn close"
    ).split()
}


async def answer(node: Node, asked: Asked) -> None:
    """Do what a line asks for, and say how it went."""
    try:
        command = COMMANDS.get(asked["cmd"])
        if command is None:
            raise Unsupported(asked["cmd"])
        limit = asked.get("timeout", LIMITS[asked["cmd"]]) if asked["cmd"] in LIMITS else None
        try:
            async with asyncio.timeout(limit):
                result: Answer = {"ok": True, **await command(node, asked)}
        except TimeoutError as error:
            if type(error) is not TimeoutError:
                raise
            result = {"ok": False, "kind": "Timeout", "error": f"not within {limit} s"}
    except Exception as error:
        cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        result = {"ok": False, "kind": type(cause).__name__, "error": str(cause)}
        logging.getLogger("tests.lab.node").debug("%s failed", asked, exc_info=True)
    say({"n": asked["n"], **result})


async def main() -> None:
    logging.basicConfig(
        level=os.environ.get("IROH_FAST_LOG", "WARNING"),
        format="%(relativeCreated)9.0f %(levelname)-7s %(name)s: %(message)s",
    )
    tell("ready", kind="ours", version=__version__)
    node = Node()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        async for line in reader:
            node.spawn(answer(node, json.loads(line)))
    finally:
        await node.stop()


if __name__ == "__main__":
    asyncio.run(main())
