"""What net reports say in networks of every kind, over both relays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.lab.child import NodeProcess
from tests.lab.link import LinkConfig
from tests.lab.machines import Router
from tests.lab.test_world_nodes import needs
from tests.lab.world import World, lacking

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(lacking() is not None, reason=f"no lab: {lacking()}"),
]


async def reported(node: NodeProcess, world: World, *urls: str) -> dict[str, Any]:
    await node.call("bind", relays=list(urls), ca=str(world.ca))
    async with asyncio.timeout(20):
        while True:
            if (report := (await node.call("report"))["report"]) is not None:
                return dict(report)
            await asyncio.sleep(0.05)


async def test_reports_tell_what_networks_are_like() -> None:
    needs("iroh-relay")
    with World() as world:
        urls = [world.relay("ours").url, world.relay("iroh-relay", "relay2.test").url]
        wire = LinkConfig(delay=10)
        networks = {
            "moderate": world.router("m", nat="moderate", link=wire),
            "strict": world.router("s", nat="strict", link=wire),
            "open": world.router("o", nat="none", link=wire),
            "no-udp": world.router("u", nat="moderate", link=wire),
        }
        networks["no-udp"].firewall("udp-blocked")

        async def at(name: str) -> tuple[str, dict[str, Any]]:
            async with networks[name].host(name).node("ours") as node:
                return name, await reported(node, world, *urls)

        told = dict(await asyncio.gather(*map(at, networks)))
        for name in ("moderate", "strict", "open"):
            assert told[name]["udp_v4"] is True
            assert told[name]["mapping_varies_by_dest_v4"] is (name == "strict")
            assert set(told[name]["relay_latency"]["qad_v4"]) == set(urls)
            seen = told[name]["global_v4"]
            assert name == "open" or seen["ip"] == address_of(networks[name])
        assert not told["no-udp"]["udp_v4"] and told["no-udp"]["global_v4"] is None
        assert set(told["no-udp"]["relay_latency"]["https"]) == set(urls)
        assert told["no-udp"]["preferred_relay"] in urls


def address_of(router: Router) -> str:
    return next(address for address in router.public if ":" not in address)
