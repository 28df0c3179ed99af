"""A search of the DHT whose nodes answer with whatever the input holds."""

from __future__ import annotations

from random import Random

import bencode2
from nacl.signing import SigningKey

from iroh_fast.lookup.dht.core import DhtCore
from iroh_fast.lookup.dht.items import item_of, verified
from iroh_fast.lookup.dht.krpc import Item
from iroh_fast.lookup.dht.search import MAX_CANDIDATES, MAX_REQUESTS, Search

KEY = SigningKey(bytes([11]) * 32)
PUBLIC = bytes(KEY.verify_key)
VALUE = bytes.fromhex("000080000000000000000000")
NODE, OTHER = b"n" * 20, b"o" * 20
HERE = b"\xa5num"  # stands for the number of the request that is answered
START = [("1.2.3.4", 5), ("127.0.0.1", 6), ("5.6.7.8", 9)]
MAX_ANSWERS = 60


def item(seq: int = 5) -> Item:
    signed = b"3:seqi%de1:v%d:%s" % (seq, len(VALUE), VALUE)
    return Item(PUBLIC, seq, KEY.sign(signed).signature, VALUE)


def run_dht(data: bytes) -> Search:
    """Pieces of the input, each behind two bytes of its length, are the answers in turn."""
    random = Random(1)
    answers = []
    while len(data) > 2 and len(answers) < MAX_ANSWERS:
        size = int.from_bytes(data[:2], "big")
        answers.append(data[2 : 2 + size])
        data = data[2 + size :]
    core = DhtCore(random.randbytes, verified)
    now = 0.0
    search = core.search(PUBLIC, now, 10.0, START)
    while search not in core.finished:
        for sent, address in core.outgoing:
            assert len(sent) <= 1400 and 0 < address[1] < 65536
        outgoing, core.outgoing = core.outgoing, []
        for sent, address in outgoing:
            if answers:
                transaction = bencode2.bdecode(sent)[b"t"]
                core.receive(answers.pop(0).replace(HERE, transaction), address, now)
        if core.outgoing:
            continue
        due = core.deadline()
        if due is None:
            break
        now = max(now, due)
        core.advance(now)
    assert search in core.finished
    assert search.requests <= MAX_REQUESTS and len(search._ranked) <= MAX_CANDIDATES
    if search.best is not None:
        assert search.best.public_key == PUBLIC and verified(item_of(search.best)) is not None
    put = core.put(search, item(), now, 1.0)
    core.outgoing.clear()
    core.advance(now + 2.0)
    assert put in core.finished
    core.abandon(search)
    core.abandon(put)
    assert not core._requests and not core._awaited
    return search


def dht_seeds() -> list[bytes]:
    def piece(message: object) -> bytes:
        data = bencode2.bencode(message)
        return len(data).to_bytes(2, "big") + data

    def reply(**values: object) -> bytes:
        return piece({"r": {"id": NODE} | values, "t": HERE, "y": "r"})

    nodes = OTHER + bytes((8, 8, 8, 8, 0, 80)) + NODE + bytes((9, 9, 9, 9, 1, 1))
    good = item()
    full = {"k": good.key, "seq": 5, "sig": good.signature, "v": good.value, "token": b"token"}
    newer = item(6)
    refusal = piece({"e": [203, "Bad token"], "t": HERE, "y": "e"})
    return [
        reply(),
        reply(nodes=nodes, token=b"token"),
        reply(nodes=nodes, **full),
        reply(nodes=nodes) + reply(**full) + reply(**full | {"seq": 6, "sig": newer.signature}),
        reply(nodes=nodes) * 3 + refusal,
        piece({"a": {"id": NODE}, "q": "ping", "t": b"aa", "y": "q"}),
        piece({"r": {"id": NODE, "nodes": nodes * 30}, "ro": 1, "t": HERE, "y": "r"}),
    ]
