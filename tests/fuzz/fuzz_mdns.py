"""What anybody on the link sends to a node of mDNS."""

from __future__ import annotations

import json
from pathlib import Path

from iroh_fast import EndpointId, SecretKey
from iroh_fast.lookup.mdns.node import Node, Sender
from iroh_fast.lookup.mdns.peers import MAX_ADDRS, MAX_RELAYS
from iroh_fast.lookup.mdns.wire import encode_answer, encode_query, label_of

SECRET = SecretKey(b"\x2a" * 32)
SENDERS = (Sender("10.0.0.9", 4), Sender("fe80::9%2", 6, 2), Sender("127.0.0.1", 4, 0, True))


def mdns_seeds() -> list[bytes]:
    """The first byte chooses the sender."""
    vectors = Path(__file__).parent.parent / "vectors"
    released = json.loads((vectors / "mdns_released.json").read_text("utf-8"))
    old = json.loads((vectors / "pkarr.json").read_text("utf-8"))["mdns"]
    node = _node()
    messages = [
        bytes.fromhex(released["query"]),
        bytes.fromhex(released["response_two_ports_txt"]["hex"]),
        bytes.fromhex(released["response_one_port"]["hex"]),
        bytes.fromhex(old["response_uncompressed"]),
        encode_query(
            node._names, [label_of(SECRET.public), label_of(EndpointId(released["public_key"]))]
        ),
    ]
    return [bytes((number,)) + message for message in messages for number in range(len(SENDERS))]


def _node() -> Node:
    return Node(
        SecretKey(b"\x2b" * 32).public,
        0.0,
        service_name="irohv1",
        cadence=0.7,
        random=lambda: 0.5,
    )


def run_mdns(data: bytes) -> None:
    if not data:
        return
    node, datagram = _node(), data[1:]
    changes = node.receive(datagram, SENDERS[data[0] % len(SENDERS)], 1.0)
    assert len(changes) <= 4
    for id, info in changes:
        assert info is not None and info.id == id
        assert 0 < len(info.data.ip_addrs) <= MAX_ADDRS and len(info.data.relay_urls) <= MAX_RELAYS
        # What was read can be told.
        answer, _ = encode_answer(node._names, info.data)
        assert answer is not None and len(answer) <= 1472
        assert repr(info).isprintable() and str(info.to_addr()).isprintable()
    node.tick(max(1.0, node.deadline))
    assert all(len(sent) <= 1472 for _, sent in node.out)
    assert len(node.out) <= 8
