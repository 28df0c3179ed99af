"""Unpredictable values come from the source of the endpoint and from nowhere else."""

from __future__ import annotations

import os

import pytest
from sim import MS, SERVER, START, Pair, calm

from iroh_fast.quic._endpoint import QuicEndpoint
from iroh_fast.quic._random import RandomSource
from iroh_fast.quic.tls import Identity


class Recorder:
    """A source that remembers what it gave."""

    def __init__(self):
        self.given = b""

    def __call__(self, n):
        block = os.urandom(n)
        self.given += block
        return block


def test_bytes_are_handed_out_in_order_and_once():
    recorder = Recorder()
    source = RandomSource(recorder)
    sizes = [8, 1, 3, 600, 0, 20, 1500, 8]
    taken = [source.take(n) for n in sizes]
    assert [len(t) for t in taken] == sizes
    assert recorder.given.startswith(b"".join(taken))
    assert len(recorder.given) - sum(sizes) < 512


def test_a_source_that_gives_too_little_is_refused():
    for bad in (lambda n: b"short", lambda n: None, lambda n: bytearray(n)):
        with pytest.raises(ValueError, match="too little"):
            RandomSource(bad)
        with pytest.raises(ValueError, match="too little"):
            QuicEndpoint(Identity(b"\1" * 32), random=bad)


@pytest.mark.parametrize("later", [b"short", None])
def test_a_source_that_fails_later_is_replaced_by_the_system(later, caplog):
    def source(n):
        if blocks:
            return blocks.pop()
        if later is None:
            raise OSError("no device")
        return later

    blocks = [bytes(512)]
    random = RandomSource(source)
    assert random.take(512) == bytes(512)
    values = {random.take(8) for _ in range(200)}
    assert len(values) == 200


def test_challenges_are_the_bytes_of_the_source(hostile):
    """RFC 9000 §8.2.1: no generator whose state could be computed stands in between."""
    recorder = Recorder()
    p, s, peer = hostile(server_options={"random": recorder})
    values = []
    for k in range(40):
        p.now += 10 * MS
        mark = len(peer.received)
        peer.send(b"\x01" + bytes(1150), src=("10.0.0.77", 1000 + k))
        values += [f["data"] for f in peer.frames(peer.received[mark:]) if f["type"] == 0x1A]
    assert len(values) >= 40
    assert len(set(values)) == len(values)
    places = [recorder.given.index(v) for v in values]
    assert len(set(places)) == len(places)


def test_skipped_packet_numbers_are_drawn_only_when_a_number_is_skipped(make_pair):
    recorder = Recorder()
    p = make_pair(client_options={"random": recorder}, transport=calm())
    c, s = p.connect()
    before = len(recorder.given)
    for _ in range(3000):
        c.ping()
        p.flush()
    assert len(recorder.given) - before <= 512


@pytest.mark.parametrize("allowed", [True, False])
def test_spin_bit_shows_the_round_trip_where_it_is_allowed(allowed):
    """RFC 9000 §17.4; one connection of 16 goes without it, with a value that is random per connection id."""
    turning, still, constants = 0, 0, set()
    for seed in range(24):
        lines: list[str] = []
        p = Pair(
            seed,
            transport=calm(allow_spin=allowed),
            client_options={"keylog": lines.append},
            latency=10 * MS,
        )
        c, s = p.connect()
        bits = spins(p, c, lines)
        p.finish()
        p.close()
        if len(set(bits)) == 1:
            still += 1
            constants |= set(bits)
        else:
            turning += 1
            # One turn per round trip of 20 ms, never more: packets leave every 5 ms.
            turns = [i for i in range(1, len(bits)) if bits[i] != bits[i - 1]]
            assert all(b - a >= 4 for a, b in zip(turns, turns[1:], strict=False))
    if allowed:
        assert turning > still
    else:
        assert turning == 0 and constants == {0, 1}


def spins(p, c, lines):
    """The spin bit of each packet of a client that sends every 5 ms."""
    from impostor import Impostor

    marks = len(p.client.sent)
    for _ in range(60):
        c.ping()
        p.run_for(5 * MS)
    eye = Impostor(p, lines, as_client=False)
    p.filters.clear()
    out = []
    for d in p.client.sent[marks:]:
        if d.dst == SERVER and not d.data[0] & 0x80 and d.sent > START:
            out.append((d.data[0] ^ eye.rx.header_mask(d.data[13:29])[0] & 0x1F) >> 5 & 1)
    return out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_copy_of_the_process_draws_other_values():
    endpoint = QuicEndpoint(Identity(b"\1" * 32))
    endpoint.fresh_cid()
    get, put = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(put, b"".join(endpoint.fresh_cid() for _ in range(8)))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(get, 64)
    os.close(get)
    os.close(put)
    ids = {endpoint.fresh_cid() for _ in range(8)}
    assert len(theirs) == 64 and not ids & {theirs[i : i + 8] for i in range(0, 64, 8)}
