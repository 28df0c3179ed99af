"""Several flows on one link, in virtual time: streams of a connection, connections of an endpoint."""

from __future__ import annotations

import pytest
from emulated import SECOND, LinkConfig, Wire, settings, start

LINK = LinkConfig(rate=100, delay=20, queue=333)


@pytest.fixture
def wire():
    w = Wire(LINK, LINK, 3, server_transport=settings("cubic"))
    yield w
    w.close()


@pytest.mark.parametrize("controller", ["cubic", "newreno", "bbr"])
def test_streams_of_a_connection_get_the_same(wire, controller):
    flow = start(wire, controller)
    wire.watchers.clear()
    streams = [flow.connection.open_stream(False) for _ in range(8)]
    got = {stream.id: 0 for stream in streams}
    inbound = []
    data = bytes(1 << 16)

    def pump(side):
        if side is wire.client:
            for stream in streams:
                while stream.write(data):
                    pass
            return
        inbound.extend(s for s in iter(lambda: flow.peer.accept_stream(False), None) if s.id in got)
        for stream in inbound:
            while chunk := stream.read():
                got[stream.id] += len(chunk)

    wire.watchers.append(pump)
    wire.run_for(4 * SECOND, steps=10**9)
    total = sum(got.values())
    assert total > 0.7 * 4 * 12_500_000
    assert min(got.values()) > 0.9 * total / 8
    assert max(got.values()) < 1.1 * total / 8


def shared(seed: int, late: float, seconds: float) -> float:
    """What the first of two connections of an endpoint gets in the last `seconds`, when the other comes `late`."""
    wire = Wire(LINK, LINK, seed, server_transport=settings("cubic"))
    try:
        flows = [start(wire, "bbr", begins=60 * SECOND) for _ in range(2)]
        wire.run_for(SECOND // 2, steps=10**9)
        wire.due.clear()
        for n, flow in enumerate(flows):
            flow.begins = wire.now + round(n * late * SECOND)
        wire.run_for(round((5 + late + seconds) * SECOND), steps=10**9)
        first = flows[0].between(5 + late, 5 + late + seconds)
        second = flows[1].between(5, 5 + seconds)
        assert first + second > 0.9 * 100
        return first / (first + second)
    finally:
        wire.close()


def test_two_connections_of_an_endpoint_share_a_link():
    """Each 40 to 60 %."""
    shares = sorted(shared(seed, 0, 15) for seed in range(1, 4))
    assert 0.4 <= shares[1] <= 0.6
    assert 0.3 <= shares[0] and shares[2] <= 0.7


def test_one_that_comes_later_gets_its_share_in_the_end():
    assert 0.25 <= shared(1, 3, 15) <= 0.75


def test_a_slow_flow_beside_a_fast_one_gets_its_turns(wire):
    """One connection has little to send, as often as it likes; the bulk of the other delays it by no more than the queue."""
    bulk, small = start(wire, "bbr"), start(wire, "bbr")
    wire.watchers.pop()
    stream = small.connection.open_stream(False)
    sent: list[int] = []
    came: list[int] = []
    got = [0]
    inbound = []

    def pump(side):
        if side is wire.client:
            if wire.now >= (sent[-1] if sent else 0) + 50_000_000:
                assert stream.write(bytes(1000)) == 1000
                sent.append(wire.now)
            return
        inbound.extend(
            s for s in iter(lambda: small.peer.accept_stream(False), None) if s.id == stream.id
        )
        for s in inbound:
            while chunk := s.read():
                got[0] += len(chunk)
        came.extend([wire.now] * (got[0] // 1000 - len(came)))

    wire.watchers.append(pump)
    wire.run_for(6 * SECOND, steps=10**9)
    assert bulk.between(1, 6) > 0.85 * 100
    waits = sorted(b - a for a, b in zip(sent[20:], came[20:], strict=False))
    assert len(waits) > 60
    # 20 ms of the way, a full queue of 40 ms, and a turn
    assert waits[len(waits) // 2] < 65_000_000
