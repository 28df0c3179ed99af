"""Times and sizes that a peer or the application chose, at the far end of what they may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from announce import Announcing
from impostor import Impostor, vi
from sim import MS, SECOND, calm, transfer

from iroh_fast.config import AckFrequencyConfig, MtuDiscoveryConfig
from iroh_fast.quic.parameters import TransportParameters

MakePair = Callable[..., Any]
LARGEST = 2**62 - 1
LONG = 1e10  # seconds: three centuries, more than 63 bits of nanoseconds
MAX_IDLE_TIMEOUT = 0x01


@pytest.mark.parametrize(
    "milliseconds", [LARGEST, 2**61, 9_300_000_000_000, 2**64 // 10**6 + 30, 2**63 // 10**6]
)
@pytest.mark.parametrize("side", ["client_options", "server_options"])
def test_peers_idle_timeout_is_never_shortened_by_its_size(
    make_pair: MakePair, milliseconds: int, side: str
) -> None:
    p = make_pair(**{side: {"tls": Announcing({MAX_IDLE_TIMEOUT: vi(milliseconds)})}})
    c, s = p.connect()
    p.run_for(29 * SECOND)
    assert c.close_reason is None and s.close_reason is None
    p.run_for(5 * SECOND)  # the smaller one holds: 30 s of the other side
    assert {c.close_reason.kind, s.close_reason.kind} == {"timed_out"}


def test_idle_timeout_of_both_sides_is_longer_than_any_clock(make_pair: MakePair) -> None:
    p = make_pair(transport=calm(max_idle_timeout=LONG))
    c, s = p.connect()
    p.run_for(365 * 86400 * SECOND)
    assert c.close_reason is None and s.close_reason is None
    transfer(p, c, s, bytes(5000))


def test_idle_timeout_that_is_announced_is_a_valid_one(make_pair: MakePair) -> None:
    announcing = Announcing({})
    p = make_pair(transport=calm(max_idle_timeout=LONG), client_options={"tls": announcing})
    p.connect()
    announced = TransportParameters.decode(announcing.sent[0], False)
    assert 30_000 < announced.max_idle_timeout_ms <= LARGEST


@pytest.mark.parametrize(
    "options",
    [
        {"keep_alive_interval": LONG},
        {"default_path_keep_alive_interval": LONG},
        {"default_path_max_idle_timeout": LONG},
        {"mtu_discovery": MtuDiscoveryConfig(interval=LONG, black_hole_cooldown=LONG)},
        {"ack_frequency": AckFrequencyConfig(max_ack_delay=LONG)},
        {"ack_frequency": AckFrequencyConfig(ack_eliciting_threshold=LARGEST)},
        {"ack_frequency": AckFrequencyConfig(reordering_threshold=LARGEST)},
        {"persistent_congestion_threshold": 2**31, "time_threshold": 99.9},
        {"packet_threshold": LARGEST},
        {"receive_window": LARGEST, "stream_receive_window": LARGEST, "send_window": LARGEST},
        {"datagram_receive_buffer_size": 2**62, "datagram_send_buffer_size": LARGEST},
    ],
    ids=lambda o: "-".join(o),
)
def test_large_option_does_what_a_smaller_one_does(
    make_pair: MakePair, options: dict[str, Any]
) -> None:
    p = make_pair(transport=calm(**options))
    c, s = p.connect()
    p.to_server.loss = 0.05
    transfer(p, c, s, bytes(300_000))
    p.to_server.loss = 0.0
    p.drive()
    before = p.steps
    p.run_for(20 * SECOND)
    assert p.steps - before < 40, "it does not wait"
    assert c.close_reason is None and s.close_reason is None


def test_initial_rtt_without_end_is_only_a_guess(make_pair: MakePair) -> None:
    p = make_pair(transport=calm(initial_rtt=LONG))
    c, s = p.connect()
    transfer(p, c, s, bytes(300_000))
    assert c.path_info(0)["rtt"] < 0.1


@pytest.mark.parametrize("size", [16_400, 65_527])
def test_initial_mtu_above_what_a_long_header_can_say(make_pair: MakePair, size: int) -> None:
    p = make_pair(transport=calm(initial_mtu=size, min_mtu=1200))
    c, s = p.connect()
    assert not any(len(d.data) > size for d in p.client.sent + p.server.sent)
    transfer(p, c, s, bytes(300_000))


def test_handshake_respects_the_peers_largest_datagram(make_pair: MakePair) -> None:
    """RFC 9000 §18.2: the limit holds from the moment it is known."""
    limit = 1300
    p = make_pair(
        transport=calm(initial_mtu=4000), client_options={"tls": Announcing({0x03: vi(limit)})}
    )
    c, s = p.connect()
    transfer(p, s, c, bytes(50_000))
    assert max(len(d.data) for d in p.server.sent) <= limit


@pytest.mark.parametrize("seconds", [LONG, float("inf")])
def test_path_idle_timeout_without_end(make_pair: MakePair, seconds: float) -> None:
    p = make_pair(transport=calm(max_idle_timeout=None))
    c, s = p.connect()
    for side in (c, s):
        side.set_path_max_idle(0, seconds)
    p.run_for(3600 * SECOND)
    assert c.path_ids() == [0] and s.path_ids() == [0]


@pytest.mark.parametrize("seconds", [float("nan"), -1.0, float("-inf")])
def test_path_idle_timeout_that_is_none(make_pair: MakePair, seconds: float) -> None:
    p = make_pair(transport=calm(max_idle_timeout=None))
    c, s = p.connect()
    for side in (c, s):
        side.set_path_max_idle(0, seconds)
    p.run_for(60 * SECOND)
    assert c.path_ids() == [0] and s.path_ids() == [0]


@pytest.mark.parametrize("delay", [LARGEST, 2**61, 2**43, 2**30])
def test_acknowledgement_delay_is_at_most_the_announced_one(
    make_pair: MakePair, delay: int
) -> None:
    lines: list[str] = []
    p = make_pair(client_options={"keylog": lines.append})
    c, s = p.connect()
    rtt = s.path_info(0)["rtt"]
    attacker = Impostor(p, lines)
    stream = s.open_stream(False)
    for _ in range(20):
        stream.write(b"x")
        p.flush()
        p.now += 10 * MS
        attacker.send(b"\x02" + vi(newest(attacker)) + vi(delay) + vi(0) + vi(0))
    assert s.close_reason is None
    assert 0 < s.path_info(0)["rtt"] <= 2 * rtt + 0.02


def newest(attacker: Impostor) -> int:
    """The number of the victim's newest packet."""
    data = attacker.received[-1].data
    mask = attacker.rx.header_mask(data[13:29])
    n = ((data[0] ^ mask[0]) & 3) + 1
    return int.from_bytes(
        bytes(a ^ b for a, b in zip(data[9 : 9 + n], mask[1 : 1 + n], strict=True)), "big"
    )


def test_requested_acknowledgement_delay_is_bounded(make_pair: MakePair) -> None:
    """ACK_FREQUENCY with the largest values: acknowledgements still come, at the latest after 2^14 ms."""
    lines: list[str] = []
    p = make_pair(client_options={"keylog": lines.append})
    _, s = p.connect()
    attacker = Impostor(p, lines)
    attacker.send(b"\x40\xaf" + vi(5) + vi(LARGEST) + vi(LARGEST) + vi(LARGEST))
    mark = len(attacker.received)
    attacker.send(b"\x01")
    assert not attacker.received[mark:]
    p.run_for(17 * SECOND)
    assert s.close_reason is None
    assert any(f["type"] in (0x3E, 0x3F) for f in attacker.frames(attacker.received[mark:]))


@pytest.mark.parametrize("paths", [2**31 - 1, 2**31 + 8, 2**32 - 1])
@pytest.mark.parametrize("side", ["transport", "server_transport"])
def test_any_number_of_paths_may_be_allowed(make_pair: MakePair, paths: int, side: str) -> None:
    options = {"transport": calm(), side: calm(max_concurrent_multipath_paths=paths)}
    p = make_pair(**options)
    c, s = p.connect()
    transfer(p, c, s, bytes(20_000))
    assert p.server.endpoint.known_ids() < 2000


@pytest.mark.parametrize(
    "name", ["keep_alive_interval", "default_path_keep_alive_interval", "mtu_discovery"]
)
@pytest.mark.parametrize("seconds", [1e-12, 1e-9, 1e-4])
def test_short_intervals_leave_the_loop_time(
    make_pair: MakePair, name: str, seconds: float
) -> None:
    value = MtuDiscoveryConfig(interval=seconds) if name == "mtu_discovery" else seconds
    p = make_pair(transport=calm(**{name: value}))
    c = p.dial()
    p.run_until(lambda: c.handshake_confirmed)
    before = p.steps
    p.run_for(SECOND)
    assert p.steps - before <= 5000  # both sides, each millisecond, and the acknowledgements
    assert c.close_reason is None


@pytest.mark.parametrize("seconds", [1e-12, 0.0004, 0.0011])
def test_idle_timeout_below_what_can_be_announced_is_one(
    make_pair: MakePair, seconds: float
) -> None:
    announcing = Announcing({})
    p = make_pair(transport=calm(max_idle_timeout=seconds), client_options={"tls": announcing})
    c = p.dial()
    p.flush()
    announced = TransportParameters.decode(announcing.sent[0], False).max_idle_timeout_ms
    assert 0 < announced <= 2
    p.run_until(lambda: c.close_reason, limit=20 * SECOND)
    assert c.close_reason.kind == "timed_out"
