"""Frames about streams from a peer that means harm: bounded work and memory, the right error."""

from __future__ import annotations

import pytest
from sim import MS, calm, frames

STREAM_OFF_LEN = 0x0E
INTERNAL_ERROR = 0x01


def varint(value: int) -> bytes:
    size = next(n for n in (1, 2, 4, 8) if value < 1 << (8 * n - 2))
    return (value | (size.bit_length() - 1) << (8 * size - 2)).to_bytes(size, "big")


def frame(*numbers: int, data: bytes = b"") -> bytes:
    return b"".join(map(varint, numbers)) + data


def flood(peer, parts, packet=1100):
    """Send frames, as many as fit into each packet."""
    payload = b""
    for part in parts:
        if len(payload) + len(part) > packet:
            peer.send(payload, flush=False)
            payload = b""
        payload += part
    if payload:
        peer.send(payload)


def test_gaps_in_all_streams_together_are_bounded(hostile):
    p, victim, peer = hostile(transport=calm(max_concurrent_uni_streams=100))
    ids = [2 + 4 * k for k in range(100)]
    rounds = 0
    for gap in range(1, 400):
        flood(peer, [frame(STREAM_OFF_LEN, id, 2 * gap, 1, data=b"x") for id in ids])
        rounds = gap
        if victim.close_reason is not None:
            break
    assert victim.close_reason is not None
    assert victim.close_reason.code == INTERNAL_ERROR
    assert rounds * len(ids) <= 16_384 + len(ids)


def test_every_second_packet_of_a_large_window_may_be_lost(hostile):
    """As when a fast start overruns a queue: thousands of gaps, each behind a whole packet."""
    p, victim, peer = hostile(transport=calm(stream_receive_window=1 << 26))
    size, count = 1100, 10_000
    for first in (1, 0):
        for k in range(first, count, 2):
            peer.send(frame(STREAM_OFF_LEN, 2, k * size, size, data=bytes(size)), flush=False)
        assert victim.close_reason is None
    assert victim.accept_stream(False).readable == count * size


def test_gaps_that_are_closed_again_count_no_more(hostile):
    p, victim, peer = hostile(transport=calm(max_concurrent_uni_streams=100))
    for turn in range(300):
        id, base = 2 + 4 * (turn % 100), 400 * (turn // 100)
        flood(peer, [frame(STREAM_OFF_LEN, id, base + 2 * k + 1, 1, data=b"x") for k in range(200)])
        flood(peer, [frame(STREAM_OFF_LEN, id, base + 2 * k, 1, data=b"x") for k in range(200)])
    assert victim.close_reason is None
    for stream in iter(lambda: victim.accept_stream(False), None):
        assert stream.readable == 1200
        if stream.id % 8 == 2:
            stream.stop(0)
        else:
            assert stream.read() == b"x" * 1200


@pytest.mark.parametrize("end", ["stop", "reset"])
def test_gaps_of_streams_that_ended_count_no_more(hostile, end):
    p, victim, peer = hostile(transport=calm(max_concurrent_uni_streams=4))
    for number in range(60):
        id = 2 + 4 * number
        flood(peer, [frame(STREAM_OFF_LEN, id, 2 * k, 1, data=b"x") for k in range(1, 500)])
        stream = victim.accept_stream(False)
        if end == "stop":
            stream.stop(0)
            peer.send(frame(0x04, id, 0, 1000))
        else:
            peer.send(frame(0x04, id, 0, 1000))
            with pytest.raises(Exception, match="reset"):
                stream.read()
        del stream
        p.run_for(30 * MS)
        assert victim.close_reason is None, number


def test_repeated_stops_are_answered_once(hostile):
    def prepare(pair, client, server):
        pair.stream = server.open_stream(False)
        pair.stream.write(b"hello")
        pair.drive()

    p, victim, peer = hostile(prepare=prepare)
    flood(peer, [frame(0x05, p.stream.id, code) for code in range(2000)])
    p.run_for(200 * MS)
    assert victim.close_reason is None
    assert p.stream.stop_code == 0
    # Sent again when lost, which is not what a repeated stop causes.
    assert frames(victim)["reset_stream"] <= 5


def test_limits_raised_in_vain_wake_nobody_twice(hostile):
    def prepare(pair, client, server):
        pair.stream = server.open_stream(False)
        while pair.stream.write(bytes(100_000)):
            pass
        server.poll_events()

    p, victim, peer = hostile(
        prepare=prepare, transport=calm(stream_receive_window=200_000, send_window=1 << 20)
    )
    id, woken = p.stream.id, 0
    for k in range(300):
        flood(peer, [frame(0x11, id, 200_000 + 10 * k + j) for j in range(10)])
        woken += sum(stream is p.stream for stream, bits in victim.poll_events()[1] if bits & 2)
    # It was told once, and does not ask again.
    assert woken == 1
    assert victim.close_reason is None


def test_streams_opened_by_one_high_number_cost_nothing(hostile):
    p, victim, peer = hostile(transport=calm(max_concurrent_uni_streams=1 << 40))
    peer.send(frame(STREAM_OFF_LEN, 2 + 4 * (1 << 39), 0, 1, data=b"x"))
    assert victim.close_reason is None
    assert victim.accept_stream(False).id == 2
    assert victim.accept_stream(False).id == 6
