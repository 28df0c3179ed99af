"""Nodes of the simulated DHT that do not play fair."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

import bencode2
from dht_sim import CLIENT, VALUE, SimNode, compact, make_item
from nacl.signing import SigningKey

from iroh_fast.lookup.dht.ids import secure_id, target_of
from iroh_fast.lookup.dht.krpc import Address, Item

STRANGER = SigningKey(bytes(range(32)))
UNWANTED = (
    *("10.1.2.3", "192.168.1.1", "172.16.5.5", "127.0.0.1", "169.254.1.1", "0.0.0.0"),
    *("224.0.0.251", "255.255.255.255", "100.64.0.1"),
)


class Named(SimNode):
    """Only an id and an address, to be named by others."""

    def __init__(self, id: bytes, address: Address) -> None:
        self.id = id
        self.address = address


class Silent(SimNode):
    """Never answers."""

    def receive(self, data: bytes, source: Address) -> bytes | None:
        return None


class Garbage(SimNode):
    """Answers with what is no message, or none that makes sense."""

    def receive(self, data: bytes, source: Address) -> bytes | None:
        message = bencode2.bdecode(data)
        transaction = message[b"t"]
        good = self.reply(transaction, {b"id": self.id, b"nodes": b""})
        return self.net.random.choice(
            (
                b"",
                self.net.random.randbytes(300),
                b"l" * 2000,
                b"d1:rd2:id20:" + bytes(20),
                good[:-1],
                good + b"e",
                bencode2.bencode({"r": {"id": self.id[:19]}, "t": transaction, "y": "r"}),
                bencode2.bencode(
                    {"r": {"id": self.id, "nodes": b"x" * 25}, "t": transaction, "y": "r"}
                ),
                bencode2.bencode({"r": [], "t": transaction, "y": "r"}),
                bencode2.bencode({"e": "no", "t": transaction, "y": "e"}),
                bencode2.bencode({"r": {"id": self.id}, "t": b"", "y": "r"}),
                bencode2.bencode([1, 2, 3]),
                b"d1:t4:" + transaction + b"1:rd2:id20:" + self.id + b"e1:y1:re",  # not in order
                data,
            )
        )


class Forger(SimNode):
    """Has items that are newer than any, and not valid; and valid ones that are old, or of others."""

    def answer(
        self, method: bytes, arguments: dict[bytes, Any], transaction: bytes, source: Address
    ) -> bytes | None:
        if method != b"get":
            return super().answer(method, arguments, transaction, source)
        key = self.wanted()
        item = self.net.random.choice(
            (
                Item(key, 2**62, bytes(64), VALUE),
                Item(bytes(32), 2**62, bytes(64), VALUE),  # a key of small order
                make_item(STRANGER, 2**62),  # right, but somebody else's
                make_item(STRANGER, 2**62)._replace(key=key),
                self.old,
                self.old._replace(seq=self.old.seq + 10),
                self.old._replace(value=VALUE + b"!"),
                Item(key, 2**63 - 1, b"\xff" * 64, bytes(1000)),
                Item(key, 0, bytes(63), b""),
            )
        )
        values: dict[bytes, Any] = {
            b"id": self.id,
            b"k": item.key,
            b"nodes": compact(self.closest(arguments[b"target"])),
            b"seq": item.seq,
            b"sig": item.signature,
            b"token": b"aaaa",
            b"v": item.value,
        }
        return self.reply(transaction, values)

    old: Item

    def wanted(self) -> bytes:
        return self.old.key


class Inventor(SimNode):
    """Names nodes that are not there: many, near to the target, with ids that look right."""

    def closest(self, target: bytes) -> list[SimNode]:
        return list(self.invented(target))

    def invented(self, target: bytes, number: int = 70) -> Iterable[SimNode]:
        for _ in range(number):
            address = self.net.address()
            id = target[:18] + self.net.random.randbytes(2)
            if self.net.random.random() < 0.7:
                id = secure_id(address[0], id)
            yield Named(id, address)


class Inviter(SimNode):
    """Names the client, its local network, and what is no address of a host."""

    def closest(self, target: bytes) -> list[SimNode]:
        hosts = [(host, 53) for host in UNWANTED] + [CLIENT, ("8.8.8.8", 0)]
        near = [Named(target[:19] + bytes((n,)), at) for n, at in enumerate(hosts)]
        return [*near[:10], *super().closest(target)[:4], *near[10:]]


class Slanderer(SimNode):
    """Names those that are near under ids that are not theirs."""

    def closest(self, target: bytes) -> list[SimNode]:
        return [
            Named(target[:19] + bytes((n,)), node.address)
            for n, node in enumerate(self.net.nearest(target, 20))
        ]


class Hider(SimNode):
    """Names those that are near under ids that are far, so that nobody asks them."""

    def closest(self, target: bytes) -> list[SimNode]:
        far = bytes(byte ^ 0xFF for byte in target[:8])
        return [
            Named(far + self.net.random.randbytes(12), node.address)
            for node in self.net.nearest(target, 20)
        ]


class Neighbour(SimNode):
    """Names ports where nobody is, beside those that are near: at the same address, by the same id."""

    def closest(self, target: bytes) -> list[SimNode]:
        return [
            Named(node.id, (node.address[0], self.net.random.randrange(1025, 65536)))
            for node in self.net.nearest(target, 20)
        ]


class Squatter(SimNode):
    """Says that its id is next to whatever is looked for, and that nothing is there."""

    def answer(
        self, method: bytes, arguments: dict[bytes, Any], transaction: bytes, source: Address
    ) -> bytes | None:
        target = arguments.get(b"target", bytes(20))
        values: dict[bytes, Any] = {
            b"id": target[:19] + self.net.random.randbytes(1),
            b"nodes": b"",
            b"token": b"squat",
        }
        return self.reply(transaction, values)


class Crowd(SimNode):
    """Names more of its kind, nearer each time, and these answer; nobody has the item."""

    numbers = count(1)

    def answer(
        self, method: bytes, arguments: dict[bytes, Any], transaction: bytes, source: Address
    ) -> bytes | None:
        values: dict[bytes, Any] = {b"id": self.id, b"token": b"crowd"}
        target = arguments.get(b"target")
        if target is not None:
            more = []
            for _ in range(8):
                near = int.from_bytes(target, "big") ^ (2**100 - next(self.numbers))
                more.append(self.net.add(Crowd, near.to_bytes(20, "big")))
            values[b"nodes"] = compact(more)
        return self.reply(transaction, values)


class Flood(SimNode):
    """Sends a hundred answers for each question, most of them of addresses that were not asked."""

    def receive(self, data: bytes, source: Address) -> bytes | None:
        answer = super().receive(data, source)
        assert answer is not None
        for number in range(100):
            sender = self.address if number % 2 else self.net.address()
            self.net.fly(sender, source, answer)
        return answer


class Refuser(SimNode):
    """Does nothing that it is asked for."""

    def answer(
        self, method: bytes, arguments: dict[bytes, Any], transaction: bytes, source: Address
    ) -> bytes | None:
        return self.error(transaction, 202, b"no \x1b[2J" + bytes(300))


class BigToken(SimNode):
    """Its token alone would make our datagrams long."""

    def token(self, source: Address) -> bytes:
        return bytes(900)


class ReadOnly(SimNode):
    """Asks not to be asked."""

    read_only = True


LIARS = (
    *(Silent, Garbage, Forger, Inventor, Inviter, Slanderer, Hider, Neighbour, Squatter, Crowd),
    *(Flood, Refuser, BigToken, ReadOnly),
)


def prepare(old: Item) -> None:
    """What forgers make of their items."""
    Forger.old = old


__all__ = ["LIARS", "STRANGER", "UNWANTED", "Forger", "prepare", "target_of"]
