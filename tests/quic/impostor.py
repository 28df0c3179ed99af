"""A peer that holds the keys of one side of a simulated connection and sends whatever it likes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from sim import Address, Datagram, Pair, varint

from iroh_fast._crypto import PacketProtection
from iroh_fast._packet import decode_frames

SUITES = {32: 0x1301, 48: 0x1302}
CID = 8


def vi(value: int) -> bytes:
    """A QUIC variable-length integer."""
    for size, mark in ((1, 0), (2, 0x40), (4, 0x80), (8, 0xC0)):
        if value < 1 << (8 * size - 2):
            return (mark << (8 * size - 8) | value).to_bytes(size, "big")
    raise ValueError(value)


def fill(frames: Iterable[bytes], size: int = 1150) -> bytes:
    """A payload of as many of these frames as fit into `size` bytes."""
    out = b""
    for frame in frames:
        out += frame
        if len(out) >= size:
            break
    return out


def behind_long(d: Datagram) -> Datagram:
    """What follows the packets with long headers."""
    at = 0
    while d.data[at:] and d.data[at] & 0x80:
        kind, i = d.data[at] >> 4 & 3, at + 5
        i += 1 + d.data[i]
        i += 1 + d.data[i]
        if kind == 0:
            n, i = varint(d.data, i)
            i += n
        n, i = varint(d.data, i)
        at = i + n
    return replace(d, data=d.data[at:] or d.data)


class Impostor:
    """Takes the place of a side (default: the client) of a confirmed connection.

    From then on the honest endpoint of that side hears and says nothing. Make the pair with
    ``client_options={"keylog": lines.append}``, or with `hostile_pair`.
    """

    def __init__(self, pair: Pair, lines: list[str], as_client: bool = True) -> None:
        self.pair = pair
        self.as_client = as_client
        secrets = {line.split()[0]: bytes.fromhex(line.split()[2]) for line in lines}
        own, other = ("CLIENT", "SERVER") if as_client else ("SERVER", "CLIENT")
        tx, rx = secrets[f"{own}_TRAFFIC_SECRET_0"], secrets[f"{other}_TRAFFIC_SECRET_0"]
        self.tx = PacketProtection(SUITES[len(tx)], tx)
        self.rx = PacketProtection(SUITES[len(rx)], rx)
        mine, self.victim = (pair.client, pair.server) if as_client else (pair.server, pair.client)
        #: destination id per path
        self.ids = {0: next(d.data[1:9] for d in reversed(mine.sent) if not d.data[0] & 0x80)}
        for f in self.frames(behind_long(d) for d in self.victim.sent):
            if f["type"] == 0x3E78:
                self.ids.setdefault(f["path_id"], f["cid"])
        #: the next packet number, far above those of the honest side
        self.pn = 1000
        self.received: list[Datagram] = []
        pair.filters.append(self.see)

    def see(self, d: Datagram) -> bool:
        if d.to_server is not self.as_client:
            self.received.append(d)
        return True

    def seal(
        self, payload: bytes, path: int = 0, pn: int | None = None, cid: bytes | None = None
    ) -> bytes:
        """A 1-RTT packet; payloads too short for header protection are padded."""
        payload += bytes(max(0, 4 - len(payload)))
        if pn is None:
            self.pn += 1
            pn = self.pn
        header = b"\x43" + (cid or self.ids[path]) + pn.to_bytes(4, "big")
        sealed = self.tx.seal(path, pn, header, payload)
        mask = self.tx.header_mask(sealed[:16])
        number = bytes(a ^ b for a, b in zip(header[9:], mask[1:5], strict=True))
        return bytes([header[0] ^ mask[0] & 0x1F]) + header[1:9] + number + sealed

    def send(
        self,
        payload: bytes,
        path: int = 0,
        src: Address | None = None,
        pn: int | None = None,
        cid: bytes | None = None,
        flush: bool = True,
    ) -> int:
        """Deliver one packet now; its size. Without `flush` nobody answers yet."""
        packet = self.seal(payload, path, pn, cid)
        if flush:
            self.pair.inject(self.as_client, packet, src)
        else:
            other = self.pair.client if self.as_client else self.pair.server
            self.victim.endpoint.receive_datagram(
                packet, src or other.addresses[0], self.pair.now, local=self.victim.addresses[0]
            )
        return len(packet)

    def open(self, d: Datagram, path: int = 0) -> bytes | None:
        """The payload of a short packet of the victim, None when it is of another path."""
        data, at = d.data, 1 + CID
        mask = self.rx.header_mask(data[at + 4 : at + 20])
        first = data[0] ^ mask[0] & 0x1F
        n = (first & 3) + 1
        raw = bytes(a ^ b for a, b in zip(data[at : at + n], mask[1 : 1 + n], strict=True))
        header = bytes([first]) + data[1:at] + raw
        try:
            return self.rx.open(path, int.from_bytes(raw, "big"), header, data[at + n :])
        except Exception:
            return None

    def number(self, d: Datagram) -> int:
        """The packet number of a short packet of the victim, as far as it is sent."""
        at = 1 + CID
        mask = self.rx.header_mask(d.data[at + 4 : at + 20])
        n = ((d.data[0] ^ mask[0]) & 3) + 1
        return int.from_bytes(
            bytes(a ^ b for a, b in zip(d.data[at : at + n], mask[1 : 1 + n], strict=True)), "big"
        )

    def frames(self, datagrams: Iterable[Datagram], path: int = 0) -> Iterator[dict[str, Any]]:
        """The frames in the victim's short packets of one path."""
        for d in datagrams:
            if not d.data[0] & 0x80 and (plain := self.open(d, path)):
                yield from decode_frames(plain)

    def bytes_to(self, address: Address, mark: int = 0) -> int:
        """What the victim sent to an address since `mark` datagrams were received."""
        return sum(len(d.data) for d in self.received[mark:] if d.dst == address)
