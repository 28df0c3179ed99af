"""Changes of a host's network under an endpoint: interfaces that come, go, and lead elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable

import pytest

from tests.lab.child import NodeProcess
from tests.lab.namespaces import Namespace
from tests.lab.world import World, lacking

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(lacking() is not None, reason=f"no lab: {lacking()}"),
]

LATE_S = 20.0  # for what takes a second


async def until(test: Callable[[], Awaitable[object]]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(LATE_S):
        while not await test():
            await asyncio.sleep(0.05)


async def addr_is(node: NodeProcess, wanted: list[str]) -> None:
    """Wait until the addresses that a node tells of are on these IPs, in whatever order."""

    async def told() -> bool:
        ips = (await node.call("addr"))["ips"]
        return {addr.rpartition(":")[0].strip("[]") for addr in ips} == set(wanted)

    await until(told)


async def counted(node: NodeProcess, name: str) -> int:
    counters: dict[str, int] = (await node.call("metrics"))["counters"]
    return counters[f"socket:{name}"]


async def test_own_addresses_follow_the_interfaces() -> None:
    with World() as world:
        home, cafe = world.router("home", v6=True), world.router("cafe")
        host = home.host("a")
        async with host.node() as node:
            await node.call("bind")
            first = [host.address(), host.address(six=True)]
            await addr_is(node, first)
            host.plug_in(cafe, "eth1")
            second = host.address(device="eth1")
            await addr_is(node, [*first, second])
            host.set_link("eth0", up=False)
            await addr_is(node, [second])
            host.set_link("eth0", up=True)
            await addr_is(node, [*first, second])
            before = await counted(node, "network_changes_major")
            # Interfaces of containers, of no use to others.
            host.ip("link", "add", "box0", "type", "veth", "peer", "name", "box1")
            host.ip("link", "set", "box0", "up")
            host.ip("link", "set", "box1", "up")
            host.unplug("eth1")
            await addr_is(node, first)
            assert await counted(node, "network_changes_major") <= before + 1
            assert await counted(node, "rebinds") == 0
            assert (await node.call("process"))["threads"] == 1


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_kernel_is_heard_on_each_loop(loop: str) -> None:
    """Link, address and route, each told by itself; nothing else runs here."""
    program = f"""
import asyncio, sys
from {loop} import run
from iroh_fast.net.monitor.listening import listen

async def main():
    heard = asyncio.Event()
    listener = listen(asyncio.get_running_loop(), heard.set)
    for line in sys.stdin.read().splitlines():
        async with asyncio.timeout({LATE_S}):
            await (await asyncio.create_subprocess_exec("ip", *line.split())).wait()
            await heard.wait()
        await asyncio.sleep(0.05)
        heard.clear()
        print(line)
    listener.close()

run(main())
"""
    lines = [
        "link add one type veth peer name two",
        "link set one up",
        "link set two up",
        "addr add 10.1.0.1/24 dev one",
        "route add default via 10.1.0.2",
        "rule add from 10.9.0.0/16 table 9",
        "link del one",
    ]
    with contextlib.closing(Namespace("monitor")) as network:
        done = network.run(
            [sys.executable, "-c", program], input="\n".join(lines), text=True, capture_output=True
        )
    assert done.stdout.splitlines() == lines, done.stderr


@pytest.mark.parametrize("side", ["client", "server"])
async def test_direct_connection_outlives_a_short_loss_of_the_link(side: str) -> None:
    with World() as world:
        hosts = [world.router(f"dc-{name}", nat="none").host(name) for name in ("a", "b")]
        async with hosts[0].node() as client, hosts[1].node() as server:
            for node in (client, server):
                await node.call("bind")
            target = await server.call("addr")
            conn = (await client.call("connect", to=target["id"], ips=target["ips"]))["conn"]
            number = (await client.call("ticker", conn=conn))["ticker"]
            host = hosts[side == "server"]
            host.set_link(up=False)
            await addr_is(client if side == "client" else server, ["127.0.0.1", "::1"])
            host.set_link(up=True)
            await client.call("ping", conn=conn, timeout=LATE_S)
            ticks = await client.call("ticker_stop", ticker=number, timeout=LATE_S)
            assert ticks["sent"] == ticks["received"] > 0 and ticks["error"] is None


async def test_client_that_moves_to_another_network_goes_on_from_there() -> None:
    with World() as world:
        home, cafe = world.router("home"), world.router("cafe")
        a, b = home.host("a"), world.router("dc", nat="none").host("b")
        async with a.node() as client, b.node() as server:
            for node in (client, server):
                await node.call("bind")
            target = await server.call("addr")
            conn = (await client.call("connect", to=target["id"], ips=target["ips"]))["conn"]
            number = (await client.call("ticker", conn=conn))["ticker"]
            a.replug(cafe)
            await addr_is(client, [a.address()])
            await client.call("ping", conn=conn, timeout=LATE_S)
            ticks = await client.call("ticker_stop", ticker=number, timeout=LATE_S)
            assert ticks["sent"] == ticks["received"] > 0 and ticks["error"] is None
            accepted = (await server.event("accepted"))["conn"]

            async def moved() -> bool:
                paths = (await server.call("paths", conn=accepted))["paths"]
                return cafe.public[0] in [path["remote"].rpartition(":")[0] for path in paths]

            await until(moved)
            await server.call("ping", conn=accepted)
