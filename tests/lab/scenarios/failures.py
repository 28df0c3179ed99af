"""What breaks under a connection: silent paths, links, NATs that forget, relays, suspended machines."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

from tests.lab.link import LinkConfig
from tests.lab.stage import Failed, Pair, Stage, scenario

#: A dead path is left within so many seconds by ours; the real one waits for its path to idle out, 15 s.
SILENCE_S = {"ours": 2.0, "rust": 20.0}


def patience(stage: Stage) -> float:
    """How long data may be away when a path dies silently: both sides have to notice."""
    return max(SILENCE_S[stage.pairing.client], SILENCE_S[stage.pairing.server])


async def direct_pair(stage: Stage, **options: Any) -> tuple[Pair, Any, Any]:
    """Two homes with a direct path between them."""
    options.setdefault("link", LinkConfig(delay=10))
    homes = stage.home(**options), stage.home(**options)
    pair = await stage.pair(*homes)
    await pair.direct()
    await asyncio.sleep(2)  # what else is opened and closed in the beginning
    return pair, *homes


def between(a: Any, b: Any) -> tuple[str, str]:
    """Rules that match UDP between the routers of two hosts."""
    ends = [host.ports["eth0"][0].wan4 for host in (a, b)]
    return tuple(f"meta l4proto udp ip saddr {x} ip daddr {y}" for x, y in (ends, ends[::-1]))  # type: ignore[return-value]


@scenario("P12", limit=150)
async def silent_death(stage: Stage) -> None:
    """UDP between the peers is dropped without a word: data over the relay, and direct again when it is back."""
    pair, a, b = await direct_pair(stage)
    tickers = await pair.ticking()
    await asyncio.sleep(1)
    stage.mark("UDP is dropped")
    number = stage.world.internet.block(*between(a, b))
    await asyncio.sleep(patience(stage) + 3)
    await pair.relayed(5)
    silence = await pair.longest_silence(tickers)
    stage.note("silence_s", silence)
    stage.check(silence <= patience(stage), f"no data for {silence:.1f} s")
    await pair.ping()
    restored = stage.mark("UDP is back")
    stage.world.internet.unblock(number)
    ours = "rust" not in (stage.pairing.client, stage.pairing.server)
    again = await pair.direct(30 if ours else 75)
    stage.note("direct_again_s", max(answer["t"] for answer in again) - restored)
    await pair.ping()


async def outage(stage: Stage, pair: Pair, host: Any, limit: float) -> None:
    """A link is down for 5 s; data within a time after that."""
    stage.mark("link down")
    host.set_link(up=False)
    await asyncio.sleep(5)
    host.set_link(up=True)
    up = stage.mark("link up")
    await pair.ping(limit)
    stage.note("ping_after_s", time.monotonic() - up)


def enter_outages(side: str) -> None:
    @scenario(f"P13-{side}", limit=90)
    async def link_outage(stage: Stage) -> None:
        """A link is down for 5 s under a direct connection: data and a direct path again."""
        pair, client, server = await direct_pair(stage)
        up = time.monotonic()
        await outage(stage, pair, {"client": client, "server": server}[side], 15)
        await pair.direct(15)
        stage.note("direct_after_s", time.monotonic() - up - 5)
        await pair.ping()

    @scenario(f"P14-{side}", limit=90)
    async def pinned_outage(stage: Stage) -> None:
        """A link is down for 5 s under a connection that has only the relay: data again."""
        client, server = stage.home("strict"), stage.home("strict")
        pair = await stage.pair(client, server)
        await outage(stage, pair, {"client": client, "server": server}[side], 30)
        await pair.stays_relayed(2)

    @scenario(f"P21-{side}", limit=120)
    async def nat_forgets(stage: Stage) -> None:
        """A router forgets its mappings under a direct connection: data again within 2 s."""
        pair, client, server = await direct_pair(stage)
        tickers = await pair.ticking()
        await asyncio.sleep(1)
        stage.mark(f"the {side}'s router forgets")
        {"client": client, "server": server}[side].ports["eth0"][0].flush()
        await asyncio.sleep(patience(stage) + 3)
        silence = await pair.longest_silence(tickers)
        stage.note("silence_s", silence)
        stage.check(silence <= patience(stage), f"no data for {silence:.1f} s")
        ours = "rust" not in (stage.pairing.client, stage.pairing.server)
        await pair.direct(30 if ours else 75)
        await pair.ping()


for _side in ("client", "server"):
    enter_outages(_side)


@scenario("P15", limit=90)
async def relay_restarts(stage: Stage) -> None:
    """The relay restarts under a connection that has nothing else: the connection lives."""
    pair = await stage.pair(stage.home("strict"), stage.home("strict"))
    before = [await connected_to_relays(node) for node, _ in pair.ends]
    tickers = await pair.ticking()
    stage.mark("relay restarts")
    await asyncio.to_thread(stage.relay().restart)
    await pair.ping(20)
    stage.note("silence_s", await pair.longest_silence(tickers))
    for (node, _), was in zip(pair.ends, before, strict=True):
        now = await connected_to_relays(node)
        stage.check(now > was, f"{node.label}: {now} connections to relays, before {was}")


async def connected_to_relays(node: Any) -> int:
    counters = (await node.call("metrics"))["counters"]
    return int(counters.get("socket:relay_conns_success", 0))


@scenario("P16", limit=120)
async def relay_away(stage: Stage) -> None:
    """The relay is away for 45 s under a direct connection: nobody notices."""
    pair, _, _ = await direct_pair(stage)
    tickers = await pair.ticking()
    stage.mark("relay stops")
    await asyncio.to_thread(stage.relay().stop)
    await asyncio.sleep(45)
    silence = await pair.longest_silence(tickers)
    stage.note("silence_s", silence)
    stage.check(silence <= 1.0, f"no data for {silence:.1f} s")
    stage.mark("relay starts")
    await asyncio.to_thread(stage.relay().start)
    await pair.ping()
    if "rust" not in (stage.pairing.client, stage.pairing.server):
        # A relay that is back becomes a backup again. The real one keeps a path over it, or never opens it again.
        await until(pair, "relay", 75)


async def until(pair: Pair, kind: str, seconds: float) -> None:
    """Wait until both have a path of a kind."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if all(any(p["kind"] == kind for p in paths) for paths in await pair.paths()):
            return
        await asyncio.sleep(0.5)
    raise Failed(f"no path of {kind} after {seconds:.0f} s")


@scenario("P17", limit=120)
async def relay_gone(stage: Stage) -> None:
    """The relay ends for good under a connection that has nothing else: both time out."""
    pair = await stage.pair(stage.home("strict"), stage.home("strict"))
    stopped = stage.mark("relay stops")
    await asyncio.to_thread(stage.relay().stop)
    for told in await pair.both("wait_closed", timeout=60):
        after = told["t"] - stopped
        stage.check(told["kind"] == "TimedOut", f"ended by {told['kind']}: {told['reason']}")
        stage.check(29 <= after <= 40, f"timed out after {after:.1f} s")


@scenario("P29", limit=120)
async def server_crashes(stage: Stage) -> None:
    """The server is killed: the client times out, and a new one with its key can be dialed at once."""
    secret = "5a" * 32
    homes = stage.home(), stage.home()
    client, server = await asyncio.gather(
        stage.client(homes[0]), stage.server(homes[1], secret=secret)
    )
    pair = await stage.connect(client, server)
    await pair.direct()
    killed = stage.mark("the server is killed")
    await server.close(kill=True)
    again = await stage.server(homes[1], secret=secret)
    fresh = await stage.connect(client, again, within=20)
    await fresh.ping()
    told = await client.call("wait_closed", conn=pair.c, timeout=50)
    after = told["t"] - killed
    # The real one gives up the direct path first, after 15 s, and then waits for the relay.
    limit = 50 if client.kind == "rust" else 40
    stage.check(after <= limit, f"the old connection ended after {after:.1f} s: {told['kind']}")
    await fresh.ping()


@scenario("P36", limit=150)
async def suspended(stage: Stage) -> None:
    """The server sleeps for 40 s: the client times out; the server notices, and both can connect again."""
    pair, _, _ = await direct_pair(stage)
    stage.mark("the server sleeps")
    os.kill(pair.server.pid, signal.SIGSTOP)
    slept = time.monotonic()
    await asyncio.sleep(40)
    os.kill(pair.server.pid, signal.SIGCONT)
    stage.mark("the server wakes up")
    told = await pair.client.call("wait_closed", conn=pair.c, timeout=10)
    stage.check(
        28 <= told["t"] - slept <= 41, f"the client's ended after {told['t'] - slept:.1f} s"
    )
    await pair.server.call("wait_closed", conn=pair.s, timeout=35)
    fresh = await stage.connect(pair.client, pair.server, within=10)
    await fresh.ping()


@scenario("P35", limit=60)
async def storms(stage: Stage) -> None:
    """`network_change` 5 to 20 times a second on both sides while data is echoed."""
    pair, _, _ = await direct_pair(stage)
    going = True

    async def storm(node: Any, pause: float) -> None:
        while going:
            await node.call("network_change")
            await asyncio.sleep(pause)

    storming = [
        asyncio.create_task(storm(n, p)) for (n, _), p in zip(pair.ends, (0.05, 0.2), strict=True)
    ]
    try:
        for _ in range(5):
            await pair.client.call("bulk", conn=pair.c, bytes=10_000, way="echo", timeout=20)
            await pair.server.call("bulk", conn=pair.s, bytes=10_000, way="echo", timeout=20)
    finally:
        going = False
        await asyncio.gather(*storming)
    await pair.direct(15)
