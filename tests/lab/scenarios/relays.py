"""Relays that come and go, several of them, and the data that moves from one to a direct path."""

from __future__ import annotations

import asyncio
import statistics
from typing import Any

from tests.lab.link import LinkConfig
from tests.lab.stage import Failed, Pair, Stage, scenario


@scenario("P26")
async def megabyte(stage: Stage) -> None:
    """A megabyte that is echoed from the first moment on: less than half of it over the relay."""
    link = LinkConfig(rate=8, delay=10)
    pair = await stage.pair(stage.home(link=link), stage.home(link=link))
    await pair.client.call("bulk", conn=pair.c, bytes=1_000_000, way="echo", timeout=60)
    for node, _ in pair.ends:
        counters = (await node.call("metrics"))["counters"]
        for way, name in (("sent", "send"), ("received", "recv_data")):
            relayed = counters[f"socket:{name}_relay"]
            total = relayed + sum(counters[f"socket:{name}_ipv{v}"] for v in (4, 6))
            stage.note(f"{node.label}_{way}_relayed", relayed / total)
            stage.check(
                relayed < 0.5 * total, f"{node.label} {way} {relayed} of {total} over the relay"
            )


@scenario("bulk", limit=120)
async def bulk_across_upgrade(stage: Stage) -> None:
    """A download that moves from the relay to a direct path: no second is slower than over the relay."""
    link = LinkConfig(rate=40, delay=10, queue=200)
    homes = stage.home(link=link), stage.home(link=link)
    ends = [host.ports["eth0"][0].wan4 for host in homes]
    rules = (f"meta l4proto udp ip saddr {x} ip daddr {y}" for x, y in (ends, ends[::-1]))
    number = stage.world.internet.block(*rules)
    pair = await stage.pair(*homes)
    work = asyncio.create_task(
        pair.client.call("bulk", conn=pair.c, bytes=80_000_000, way="down", timeout=90)
    )
    started = stage.mark("download begins")
    await asyncio.sleep(6)
    unblocked = stage.mark("UDP between the homes passes")
    stage.world.internet.unblock(number)
    # Whoever waits for the next round otherwise.
    await asyncio.gather(*(node.call("network_change") for node, _ in pair.ends))
    direct = await pair.direct(40)
    at = max(answer["t"] for answer in direct)
    told = await work
    rates = seconds(told["tenths"])
    # The first two seconds are those of a start; the last tenths are a rest.
    relayed = rates[20 : int((unblocked - started) * 10)]
    after = rates[int((unblocked - started) * 10) : -10]
    stage.check(bool(relayed) and bool(after), "the download was too short")
    rate, worst = statistics.median(relayed), min(after)
    stage.note("direct_after_s", at - unblocked)
    stage.note("relay_mbit", rate * 8 / 1e6)
    stage.note("worst_mbit", worst * 8 / 1e6)
    stage.note("direct_mbit", statistics.median(after) * 8 / 1e6)
    stage.check(
        worst >= 0.9 * rate, f"a second of {worst * 8e-6:.1f} Mbit/s; relay {rate * 8e-6:.1f}"
    )


def seconds(tenths: list[int]) -> list[float]:
    """Bytes of each second that begins with a tenth."""
    return [sum(tenths[i : i + 10]) for i in range(len(tenths) - 9)]


async def home_of(node: Any) -> str | None:
    relays = (await node.call("addr"))["relays"]
    return relays[0] if relays else None


async def until_home(node: Any, url: str, seconds: float) -> None:
    for _ in range(int(seconds * 10)):
        if await home_of(node) == url:
            return
        await asyncio.sleep(0.1)
    raise Failed(f"{node.label}: home is {await home_of(node)}, not {url}")


@scenario("P28", limit=120)
async def faster_relay(stage: Stage) -> None:
    """A faster relay is added and the slow one taken out of the map: a new home, and the connection lives."""
    slow = stage.relay(name="relay.test", link=LinkConfig(delay=60))
    fast = stage.relay(name="relay2.test")
    client, server = await asyncio.gather(
        stage.client(stage.home("strict"), relays=[slow.url]),
        stage.server(stage.home("strict"), relays=[slow.url]),
    )
    pair = await stage.connect(client, server)
    await server.call("relay_insert", url=fast.url)
    await server.call("relay_remove", url=slow.url)
    began = stage.mark("another relay in the map")
    await until_home(server, fast.url, 10)
    stage.note("new_home_s", stage.mark("new home") - began)
    await pair.ping()
    fresh = await stage.connect(client, server, relays=[fast.url])
    await fresh.ping()


@scenario("P37")
async def different_homes(stage: Stage) -> None:
    """Each peer has a relay of its own, and dials the other by that one's: no flapping between them."""
    urls = [stage.relay(name=name).url for name in ("relay.test", "relay2.test")]
    client = await stage.client(stage.home("strict"), relays=urls[:1])
    server = await stage.server(stage.home("strict"), relays=urls[1:])
    there = await stage.connect(client, server, relays=urls[1:])
    back = await stage.connect(server, client, relays=urls[:1])
    await there.ping()
    await back.ping()
    before = len(client.events) + len(server.events)
    await asyncio.sleep(5)
    for pair in (there, back):
        await pair.stays_relayed(1)
        await pair.ping()
    events = [e for node in (client, server) for e in node.events if e["event"] == "path"]
    selected = [e for e in events if e["what"] == "selected"]
    stage.note("selections", len(selected))
    stage.check(len(selected) <= 8, f"{len(selected)} selections; {before} events before")


@scenario("P38", limit=90)
async def one_relay_blocked(stage: Stage) -> None:
    """The client's own relay is blocked for it: a connection over that ends, a new one over the other's works at once."""
    mine, theirs = (stage.relay(name=name) for name in ("relay.test", "relay2.test"))
    home = stage.home("strict")
    client = await stage.client(home, relays=[mine.url])
    server = await stage.server(stage.home("strict"), relays=[theirs.url])
    over_mine = await stage.connect(server, client, relays=[mine.url])
    await over_mine.ping()
    address = mine.host.address()
    blocked = stage.mark("the client's relay is blocked for it")
    home.ports["eth0"][0].firewall("none", f"ip daddr {address} drop", f"ip saddr {address} drop")
    if (
        client.kind == "rust"
    ):  # as long as it is connected, it dials by nothing else than the selected path
        await client.call("wait_closed", timeout=45)
    fresh = await stage.connect(client, server, relays=[theirs.url], within=15)
    await fresh.ping()
    stage.note("connected_after_s", fresh.t - blocked)


@scenario("P4319", limit=60)
async def home_relay_dies(stage: Stage) -> None:
    """The home relay ends, another one is known: reachable over that within seconds."""
    relays = [stage.relay(name=name) for name in ("relay.test", "relay2.test")]
    urls = [relay.url for relay in relays]
    server = await stage.server(stage.home("strict"), relays=urls)
    client = await stage.client(stage.home("strict"), relays=urls)
    home = await home_of(server)
    began = stage.mark("the home relay ends")
    dying = next(relay for relay in relays if relay.url == home)
    await asyncio.to_thread(dying.stop, kill=True)
    other = next(url for url in urls if url != home)
    await until_home(server, other, 30 if server.kind == "rust" else 5)
    stage.note("new_home_s", stage.mark("new home") - began)
    fresh: Pair = await stage.connect(client, server, relays=[other])
    await fresh.ping()
