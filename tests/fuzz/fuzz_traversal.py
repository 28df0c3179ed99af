"""NAT traversal against a peer that says and answers what it likes, with the application's calls in between.

The first byte chooses the honest side: 0 the server, 1 the client. Behind it are steps: a byte that says what happens, two
bytes of length, and that many bytes which say how.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Any

from fuzz_connection import pieces, use
from fuzz_mutate import varint
from impostor import Impostor
from sim import MS, SECOND, Address, Datagram, Pair, calm

from iroh_fast._packet import encode_frame
from iroh_fast.errors import IrohError

ADD, REACH, REMOVE = 0x3D7F90, 0x3D7F92, 0x3D7F94
CHALLENGE, RESPONSE = 0x1A, 0x1B
#: what one address may get at once, and each second
BURST, RATE = 64, 8
FRAMES, ELSEWHERE, OWN, ROUND, TIME, CHANGE, ANSWER, PATHS = range(8)


def addresses(data: bytes) -> list[Address]:
    """IPv4 and IPv6 addresses by turns, of six and eighteen bytes."""
    found: list[Address] = []
    at = 0
    while at + 18 <= len(data) and len(found) < 300:
        size = 4 if len(found) % 2 == 0 else 16
        ip = ipaddress.ip_address(data[at : at + size])
        found.append((str(ip), int.from_bytes(data[at + size : at + size + 2], "big")))
        at += size + 2
    return found


def forbidden(address: Address) -> bool:
    """Where no peer may have us send to."""
    ip = ipaddress.ip_address(address[0])
    mapped = ipaddress.ip_address("fd15:70a:510b::")
    return (
        address[1] == 0
        or ip.is_multicast
        or ip.is_unspecified
        or str(ip) == "255.255.255.255"
        or (ip.version == 6 and (int(ip) >> 80 == int(mapped) >> 80 or ip.is_link_local))
    )


class Game:
    """The honest side, whoever plays the other one, and what has to hold after each step."""

    def __init__(self, honest_client: bool) -> None:
        lines: list[str] = []
        self.pair = Pair(11, transport=calm(), client_options={"keylog": lines.append})
        self.pair.verbose = False
        client, server = self.pair.connect()
        self.honest = client if honest_client else server
        self.side = self.pair.client if honest_client else self.pair.server
        self.peer = Impostor(self.pair, lines, as_client=not honest_client)
        self.start = self.pair.now
        self.came: set[Address] = {self.peer_address}
        self.probes: Counter[Address] = Counter()
        self.looked_at = len(self.side.sent)

    @property
    def peer_address(self) -> Address:
        return (self.pair.server if self.side is self.pair.client else self.pair.client).addresses[
            0
        ]

    def send(self, payload: bytes, path: int, src: Address | None) -> None:
        self.came.add(src or self.peer_address)
        self.peer.send(payload[:1300], path if path in self.peer.ids else 0, src)

    def answer(self, which: int) -> None:
        """The right answer to a question, from where it was asked."""
        asked: list[tuple[Datagram, bytes]] = []
        for d in self.peer.received[-40:]:
            asked += [(d, f["data"]) for f in self.peer.frames([d]) if f["type"] == CHALLENGE]
        if asked:
            d, token = asked[which % len(asked)]
            self.send(bytes((RESPONSE,)) + token, 0, d.dst)

    def step(self, what: int, data: bytes) -> None:
        action = what % 8
        try:
            if action == FRAMES:
                self.send(data, what >> 6, None)
            elif action == ELSEWHERE:
                self.send(data[1:], what >> 6, ("10.0.9.9", 1 + (data[0] if data else 0)))
            elif action == OWN:
                self.honest.set_nat_addresses(addresses(data))
            elif action == ROUND:
                self.honest.start_nat_round()
            elif action == TIME:
                self.pair.run_for(min(len(data), 300) * 10 * MS)
            elif action == CHANGE:
                bits = int.from_bytes(data[:2], "big")
                self.honest.network_changed(lambda local, remote: bits >> remote[1] % 16 & 1)
            elif action == ANSWER:
                self.answer(data[0] if data else 0)
            else:
                use(self.honest)
                for id in self.honest.path_ids()[1:]:
                    self.honest.close_path(id)
        except IrohError:
            pass
        self.pair.flush()
        self.check()

    def check(self) -> None:
        for d in self.side.sent[self.looked_at :]:
            if d.dst in self.came:
                continue
            assert not forbidden(d.dst), d.dst
            self.probes[d.dst] += 1
        self.looked_at = len(self.side.sent)
        allowed = BURST + RATE * (1 + (self.pair.now - self.start) // SECOND)
        # Beyond probes: one path and what it asks until it is proven, or answers.
        for address, sent in self.probes.items():
            assert sent <= allowed + 200, (address, sent)
        assert len(self.honest.nat_addresses()) <= 32
        state: dict[str, Any] = dict(self.honest.nat_state())
        assert len(state["own"]) <= 32 and len(state["waiting"]) <= 16
        assert len(self.honest.path_ids()) <= 8


def run_traversal(data: bytes) -> None:
    game = Game(bool(data[:1] and data[0] & 1))
    try:
        for what, how in pieces(data[1:]):
            game.step(what, how)
        game.pair.run_for(5 * SECOND)
        game.check()
        game.honest.close()
        game.pair.run_for(SECOND)
        game.pair.check_log()
    finally:
        game.pair.close()


def step(what: int, how: bytes = b"") -> bytes:
    return bytes((what,)) + len(how).to_bytes(2, "big") + how


def packed(*found: tuple[str, int]) -> bytes:
    return b"".join(ipaddress.ip_address(ip).packed + port.to_bytes(2, "big") for ip, port in found)


def traversal_seeds() -> list[bytes]:
    own = step(
        OWN, packed(("192.0.2.1", 1), ("2001:db8::1", 2), ("192.0.2.3", 3), ("2001:db8::4", 4))
    )
    unfit = (
        ("255.255.255.255", 9),
        ("224.0.0.1", 9),
        ("fd15:70a:510b:1::9", 9),
        ("198.51.100.1", 0),
    )
    adds = b"".join(
        encode_frame({"type": ADD, "seq": seq, "addr": addr})
        for seq, addr in enumerate(
            [("198.51.100.1", 9), ("2001:db8::9", 9), ("10.0.9.9", 2), *unfit]
        )
    )
    reach = b"".join(
        encode_frame({"type": REACH, "round": number, "addr": addr})
        for number in (1, 2)
        for addr in [("198.51.100.1", 9), ("2001:db8::9", 9), *unfit]
    )
    gone = encode_frame({"type": REMOVE, "seq": 1})
    asked = step(ELSEWHERE, b"\x01" + bytes((CHALLENGE,)) + b"8 bytes!")
    wait, twice = step(TIME, bytes(20)), step(ROUND) + step(TIME, bytes(7)) + step(ROUND)
    end = wait + step(CHANGE, b"\x0f\x0f") + step(PATHS) + wait
    many = b"".join(
        b"\x80\x3d\x7f\x92" + varint(3) + b"\xc6\x33\x64\x01" + port.to_bytes(2, "big")
        for port in range(1, 34)
    )
    return [
        b"\1"
        + own
        + step(FRAMES, adds)
        + twice
        + step(ANSWER, b"\0")
        + asked
        + step(ANSWER, b"\3")
        + end,
        b"\1" + own + step(FRAMES, adds) + step(ROUND) + step(FRAMES, gone) + asked * 3 + end,
        b"\0" + own + step(FRAMES, reach) + step(ANSWER, b"\1") + asked + own + end,
        b"\0" + step(FRAMES, many) + wait,
        b"\0" + step(FRAMES, adds),
        b"\1" + step(FRAMES, reach),
    ]
