"""Nodes of the lab, ours and the real one, over both relays: the protocol of `tests.lab.node`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.interop.rust import place
from tests.lab.child import NodeError
from tests.lab.hosts import Host
from tests.lab.link import LinkConfig
from tests.lab.namespaces import NAMED, PREFIX
from tests.lab.nat import with_changes
from tests.lab.world import World, lacking

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(lacking() is not None, reason=f"no lab: {lacking()}"),
]


def needs(*kinds: str) -> None:
    """Skip without the programs in Rust."""
    for kind, program in (("rust", "peer"), ("iroh-relay", "iroh-relay")):
        if kind in kinds and not os.access(place() / "bin" / program, os.X_OK):
            pytest.skip(
                f"no {program}: bash tools/build_peers.sh builds it where cargo is installed"
            )


@pytest.mark.parametrize(
    ("client_kind", "server_kind", "relay_kind"),
    [("ours", "ours", "ours"), ("ours", "rust", "iroh-relay"), ("rust", "ours", "ours")],
)
async def test_nodes_talk_through_a_relay_by_its_name(
    client_kind: str, server_kind: str, relay_kind: str
) -> None:
    needs(client_kind, server_kind, relay_kind)
    with World() as world:
        relay = world.relay(relay_kind)
        hosts = [world.router(f"home-{name}", nat="strict").host(name) for name in ("a", "b")]
        async with hosts[0].node(client_kind) as client, hosts[1].node(server_kind) as server:
            for node in (client, server):
                await node.call("bind", relays=[relay.url], ca=str(world.ca))
                assert (await node.call("online"))["relay"] == relay.url
            target = (await server.call("addr"))["id"]
            conn = (await client.call("connect", to=target, relays=[relay.url]))["conn"]
            accepted = await server.event("accepted")
            number = (await client.call("ticker", conn=conn))["ticker"]
            for node, one in ((client, conn), (server, accepted["conn"])):
                await node.call("ping", conn=one)
                for way in ("up", "down", "echo"):
                    size = 300_000
                    told = await node.call("bulk", conn=one, bytes=size, way=way, streams=2)
                    assert way == "up" or sum(told["tenths"]) == 2 * size
                (path,) = [
                    path
                    for path in (await node.call("paths", conn=one))["paths"]
                    if path["selected"]
                ]
                assert path["remote"] == f"relay:{relay.url}" and path["kind"] == "relay"
                with pytest.raises(NodeError) as caught:
                    await node.call("wait_direct", conn=one, timeout=0.2)
                assert caught.value.kind == "Timeout"
            ticks = await client.call("ticker_stop", ticker=number)
            assert ticks["sent"] == ticks["received"] > 0 and ticks["error"] is None
            await client.call("close_conn", conn=conn, code=7, reason="enough")
            closed = await server.call("wait_closed", conn=accepted["conn"])
            assert closed["kind"] == "ApplicationClosed" and "7" in closed["reason"]


async def test_node_says_what_it_cannot_do_and_goes_on() -> None:
    with World() as world:
        host: Host = world.router("home").host("a")
        async with host.node() as node:
            for command, kind in (("paths", "KeyError"), ("addr", "ValueError"), ("fly", "Unsupported")):  # fmt: skip
                with pytest.raises(NodeError) as caught:
                    await node.call(command)
                assert caught.value.kind == kind
            await node.call("bind")
            assert (await node.call("process"))["threads"] == 1
            assert (await node.call("addr"))["ips"] != []


async def test_relay_that_ran_before_runs_again_at_the_same_place() -> None:
    with World() as world:
        relay = world.relay()
        host: Host = world.router("home").host("a")
        async with host.node() as node:
            await node.call("bind", relays=[relay.url], ca=str(world.ca))
            await node.call("online")
            before = len(node.events)
            relay.stop()
            await node.event("home", since=before, state="connecting", relay=relay.url)
            before = len(node.events)
            relay.start()
            await node.event("home", since=before, state="connected", relay=relay.url)


def left(folder: Path) -> tuple[set[str], str, bool]:
    """Namespaces and children of this process, and whether the world's folder is there."""
    spaces = {path.name for path in NAMED.glob(f"{PREFIX}-{os.getpid()}-*")}
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return spaces, children, folder.exists()


async def test_world_leaves_nothing_behind_also_when_its_user_fails() -> None:
    before = left(Path("/nowhere"))
    world = World()
    with pytest.raises(ZeroDivisionError):
        with world:
            relay = world.relay(link=LinkConfig(delay=1))
            router = world.router("home", nat=with_changes("strict", lifetime=60.0))
            world.capture(router)
            async with router.host("a").node() as node:
                await node.call("bind", relays=[relay.url], ca=str(world.ca))
                assert left(world.folder) != before
                1 / 0  # noqa: B018
    assert left(world.folder) == before
