"""What the doctor says behind kinds of NATs and firewalls, with two relays on the internet."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.world import World, lacking

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(lacking() is not None, reason=f"no lab: {lacking()}"),
]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        for name in ("relay.test", "relay2.test"):
            made.relay(name=name)
        yield made


def report(world: World, nat: str, firewall: str | None = None) -> dict[str, Any]:
    router = world.router(f"r-{nat}"[:8], nat=nat)
    if firewall is not None:
        router.firewall(firewall)
    relays = [option for relay in world.relays for option in ("--relay-url", relay.url)]
    argv = (sys.executable, "-m", "iroh_fast", "doctor", "report", *relays)
    argv += ("--ca", str(world.ca), "--no-port-map-probe", "--json")
    done = router.host(f"h-{nat}"[:8]).run(argv, capture_output=True, text=True, timeout=90)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    assert done.returncode == 0, done.stderr
    return {**found, "wan": str(router.wan4)}


@pytest.mark.parametrize("nat, varies", [("moderate", False), ("strict", True)])
def test_doctor_tells_easy_from_hard_nats(world: World, nat: str, varies: bool) -> None:
    found = report(world, nat)
    seen = found["report"]
    assert seen["udp_v4"] and seen["global_v4"].startswith(f"{found['wan']}:")
    assert seen["mapping_varies_by_dest_v4"] is varies
    assert set(found["relays"]) == {relay.url for relay in world.relays}
    assert found["home_relay"] in found["relays"]


def test_doctor_tells_that_udp_is_blocked(world: World) -> None:
    found = report(world, "open", "udp-blocked")
    assert not found["report"]["udp_v4"] and not found["report"]["udp_v6"]
    assert found["home_relay"] in found["relays"] and found["report"]["relay_latency"]["https"]
