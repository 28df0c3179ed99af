"""What a hole punch looks like on the wire."""

from __future__ import annotations

import asyncio

from tests.lab.capture import Packet, read_packets
from tests.lab.stage import Stage, scenario

#: Milliseconds after the first probe of an address.
SCHEDULE_MS = (0, 33, 67, 133, 266, 533, 1066, 2131, 4131)
TOLERANCE_MS = 40.0


@scenario("P33", limit=60)
async def probes_on_the_wire(stage: Stage) -> None:
    """Probes are small, answers are full, and one that nobody answers is repeated eight times as agreed."""
    hosts = stage.home(), stage.home()
    captures = [stage.world.capture(host) for host in hosts]
    pair = await stage.pair(*hosts)
    await pair.direct(15)
    await asyncio.sleep(5)
    for host, other, capture in zip(hosts, hosts[::-1], captures, strict=True):
        packets = list(read_packets(capture))
        # Private addresses of the other lead nowhere from here.
        in_vain = [p for p in packets if p.target[0] == other.address()]
        stage.check(bool(in_vain), f"{host.label} has not probed {other.address()}")
        check_probes(stage, host.label, in_vain)
        router = other.ports["eth0"][0]
        got = [p for p in packets if p.source[0] == router.wan4 and p.size == 1200]
        stage.check(bool(got), f"{host.label} got no answer of 1,200 bytes")


def check_probes(stage: Stage, label: str, packets: list[Packet]) -> None:
    """Those to one address, none of which is answered: rounds, of which a new one ends the one before."""
    ports = {packet.target[1] for packet in packets}
    stage.check(len(ports) == 1, f"{label} probed ports {ports}")
    sizes = {packet.size for packet in packets}
    stage.check(max(sizes) < 100, f"{label}: probes of {sizes} bytes")
    stage.check(all(p.content[0] & 0x80 == 0 for p in packets), f"{label}: a long header")
    offsets = [round((packet.t - packets[0].t) * 1000, 1) for packet in packets]
    stage.note(f"{label}_offsets_ms", offsets)
    stage.check(
        any(complete(offsets, first) for first in offsets), f"{label}: no complete round: {offsets}"
    )
    # A new candidate ends a round and begins another one: a few of those before that are cut short.
    stage.check(len(offsets) <= 2 * len(SCHEDULE_MS), f"{label}: {len(offsets)} probes")


def complete(offsets: list[float], first: float) -> bool:
    """Whether there is a probe at every time of a round that began then."""
    return all(any(abs(at - first - due) < TOLERANCE_MS for at in offsets) for due in SCHEDULE_MS)
