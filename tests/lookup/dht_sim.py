"""A DHT of many nodes in one process, with a virtual clock: honest nodes, and liars of every kind.

The nodes are written from the BEPs with bencode2 alone, so that they share no code with the client.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import Any

import bencode2
from nacl.signing import SigningKey

from iroh_fast.lookup.dht.core import DhtCore, Put, Task
from iroh_fast.lookup.dht.ids import secure_id, target_of
from iroh_fast.lookup.dht.items import verified
from iroh_fast.lookup.dht.krpc import Address, Item
from iroh_fast.lookup.dht.search import Search
from iroh_fast.lookup.signed_packet import SignedPacket

CLIENT: Address = ("81.2.69.142", 6881)
VALUE = bytes.fromhex("000080000000000000000000")  # a DNS message without records


def distance(a: bytes, b: bytes) -> int:
    return int.from_bytes(a, "big") ^ int.from_bytes(b, "big")


def make_item(secret: SigningKey, seq: int, value: bytes = VALUE) -> Item:
    """An item as BEP 44 has it, signed without the code under test."""
    signed = b"3:seqi%de1:v%d:%s" % (seq, len(value), value)
    return Item(bytes(secret.verify_key), seq, secret.sign(signed).signature, value)


def compact(nodes: Iterable[SimNode]) -> bytes:
    return b"".join(
        n.id + bytes(map(int, n.address[0].split("."))) + n.address[1].to_bytes(2, "big")
        for n in nodes
    )


class SimNode:
    """An honest node: answers ping, find_node, get and put."""

    read_only = False

    def __init__(self, net: SimNet, id: bytes, address: Address) -> None:
        self.net = net
        self.id = id
        self.address = address
        self.contacts: list[SimNode] = []
        self.items: dict[bytes, Item] = {}
        self.secret = net.random.randbytes(8)
        self.asked = 0

    def receive(self, data: bytes, source: Address) -> bytes | None:
        self.asked += 1
        message = bencode2.bdecode(data)
        assert message[b"y"] == b"q" and message[b"ro"] == 1
        arguments = message[b"a"]
        assert len(arguments[b"id"]) == 20
        return self.answer(message[b"q"], arguments, message[b"t"], source)

    def answer(
        self, method: bytes, arguments: dict[bytes, Any], transaction: bytes, source: Address
    ) -> bytes | None:
        values: dict[bytes, Any] = {b"id": self.id}
        if method in (b"find_node", b"get"):
            values[b"nodes"] = compact(self.closest(arguments[b"target"]))
        if method == b"get":
            values[b"token"] = self.token(source)
            item = self.items.get(arguments[b"target"])
            if item is not None:
                values |= {
                    b"k": item.key,
                    b"seq": item.seq,
                    b"sig": item.signature,
                    b"v": item.value,
                }
        elif method == b"put":
            refused = self.store(arguments, source)
            if refused:
                return self.error(transaction, *refused)
        elif method not in (b"ping", b"find_node"):
            return self.error(transaction, 204, b"Method Unknown")
        return self.reply(transaction, values)

    def store(self, arguments: dict[bytes, Any], source: Address) -> tuple[int, bytes] | None:
        if arguments[b"token"] != self.token(source):
            return 203, b"Bad token"
        item = Item(arguments[b"k"], arguments[b"seq"], arguments[b"sig"], arguments[b"v"])
        target = arguments[b"target"]
        assert target == target_of(item.key)
        assert verified(item) is not None
        old = self.items.get(target)
        if old is not None and old.seq > item.seq:
            return 302, b"Sequence number less than current."
        self.items[target] = item
        return None

    def token(self, source: Address) -> bytes:
        return (hash((source, self.secret)) & 0xFFFFFFFF).to_bytes(4, "big")

    def closest(self, target: bytes) -> list[SimNode]:
        return sorted(self.contacts, key=lambda n: distance(n.id, target))[:8]

    def reply(self, transaction: bytes, values: dict[bytes, Any]) -> bytes:
        message = {"r": values, "t": transaction, "y": b"r", "ip": b"\1\2\3\4\5\6"}
        return bencode2.bencode(message | ({"ro": 1} if self.read_only else {}))

    def error(self, transaction: bytes, code: int, text: bytes) -> bytes:
        return bencode2.bencode({"e": [code, text], "t": transaction, "y": b"e"})


Making = Callable[["SimNet", bytes, Address], SimNode]


@dataclass(eq=False)
class SimNet:
    """Nodes, and one client; datagrams take their time and get lost.

    Parameters
    ----------
    count : nodes.
    kinds : what makes each node, in turn.
    private : all of them at 10.0.0.0/8, where any id counts.
    """

    count: int = 300
    seed: int = 1
    kinds: tuple[Making, ...] = (SimNode,)
    loss: float = 0.0
    insecure: float = 0.0
    private: bool = False
    now: float = 1000.0
    nodes: list[SimNode] = field(default_factory=list)
    sent: list[tuple[float, bytes, Address]] = field(default_factory=list)
    most_open: int = 0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.flying: list[tuple[float, int, Address, Address, bytes]] = []
        self.order = itertools.count()
        self.at: dict[Address, SimNode] = {}
        while len(self.nodes) < self.count:
            make = self.kinds[len(self.nodes) % len(self.kinds)]
            self.add(make)
        self.connect()
        self.core = self.client()

    def client(self) -> DhtCore:
        core = DhtCore(self.random.randbytes, verified)
        core.avoid = frozenset({CLIENT})
        return core

    def address(self) -> Address:
        first = 10 if self.private else self.random.choice((5, 23, 46, 78, 91, 130, 151, 188))
        rest = ".".join(str(self.random.randrange(1, 255)) for _ in range(3))
        return f"{first}.{rest}", self.random.randrange(1025, 65536)

    def add(self, make: Making, id: bytes | None = None) -> SimNode:
        address = self.address()
        if id is None:
            id = self.random.randbytes(20)
            if self.random.random() >= self.insecure:
                id = secure_id(address[0], id)
        node = make(self, id, address)
        self.nodes.append(node)
        self.at[address] = node
        return node

    def connect(self) -> None:
        """Give each node those it would know: eight of each bucket."""
        for node in self.nodes:
            buckets: dict[int, list[SimNode]] = {}
            for other in self.nodes:
                if other is not node:
                    buckets.setdefault(distance(node.id, other.id).bit_length(), []).append(other)
            node.contacts = [
                other
                for bucket in buckets.values()
                for other in (bucket if len(bucket) <= 8 else self.random.sample(bucket, 8))
            ]

    def nearest(self, target: bytes, count: int = 20) -> list[SimNode]:
        return sorted(self.nodes, key=lambda n: distance(n.id, target))[:count]

    @property
    def bootstrap(self) -> list[Address]:
        return [node.address for node in self.nodes[:3]]

    # --- the client's work ------------------------------------------------------------------

    def run(self, task: Task) -> None:
        """Let time pass until a task is over."""
        core = self.core
        while task not in core.finished:
            self.flush()
            self.most_open = max(self.most_open, len(core._requests))
            due = core.deadline()
            arrives = self.flying[0][0] if self.flying else None
            assert due is not None, "nothing will ever happen"
            if arrives is not None and arrives <= due:
                self.now, _, source, to, data = heappop(self.flying)
                self.deliver(source, to, data)
            else:
                assert due > self.now or due <= self.now  # time never goes back
                self.now = max(self.now, due)
                core.advance(self.now)
        core.finished.remove(task)
        self.flush()

    def flush(self) -> None:
        out, self.core.outgoing = self.core.outgoing, []
        for data, address in out:
            assert len(data) <= 1400
            self.sent.append((self.now, data, address))
            self.fly(CLIENT, address, data)

    def fly(self, source: Address, to: Address, data: bytes) -> None:
        if self.random.random() >= self.loss:
            arrives = self.now + self.random.uniform(0.01, 0.1)
            heappush(self.flying, (arrives, next(self.order), source, to, data))

    def deliver(self, source: Address, to: Address, data: bytes) -> None:
        if to == CLIENT:
            self.core.receive(data, source, self.now)
        elif (node := self.at.get(to)) is not None:
            answer = node.receive(data, source)
            if answer is not None:
                self.fly(to, source, answer)

    def get(self, key: bytes, budget_s: float = 10.0) -> SignedPacket | None:
        search = self.search(key, budget_s)
        return search.best

    def search(self, key: bytes, budget_s: float = 10.0) -> Search:
        search = self.core.search(key, self.now, budget_s, self.bootstrap)
        self.run(search)
        return search

    def put(self, item: Item) -> Put:
        search = self.search(item.key)
        put = self.core.put(search, item, self.now, 10.0)
        self.run(put)
        return put

    def place(self, item: Item, count: int = 20) -> list[SimNode]:
        """Store an item where it belongs, as others did."""
        holders = [n for n in self.nearest(target_of(item.key), self.count) if type(n) is SimNode]
        for node in holders[:count]:
            node.items[target_of(item.key)] = item
        return holders[:count]
