"""Packets of a machine in the lab in a file that Wireshark reads: python -m tests.lab.capture FILE [MEGABYTES]

Every packet of IP on every interface but loopback, as the kernel hands it on: what it joined (GRO) or has not cut yet (GSO) is
one packet here. The time is the kernel's. Ends when the file has its size.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Packet", "read_packets"]

ETH_P_ALL = 3
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
SO_TIMESTAMPNS = 35
LINKTYPE_RAW = 101
KEPT = 256  # bytes of each packet
MAGIC_NS = 0xA1B23C4D
UDP = 17


def capture(path: Path, limit: int) -> None:
    """Write what passes until the file is as large."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
    with path.open("wb", buffering=0) as file:
        file.write(struct.pack("=IHHiIII", MAGIC_NS, 2, 4, 0, 0, KEPT, LINKTYPE_RAW))
        written = 24
        print("ready", flush=True)
        while written < limit:
            data, extra, _, (device, protocol, *_) = sock.recvmsg(1 << 17, 64)
            if protocol not in (ETH_P_IP, ETH_P_IPV6) or device == "lo":
                continue
            seconds, ns = struct.unpack("=qq", extra[0][2])
            kept = data[:KEPT]
            file.write(struct.pack("=IIII", seconds, ns, len(kept), len(data)) + kept)
            written += 16 + len(kept)


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet of UDP.

    Attributes
    ----------
    t : float
        Seconds of CLOCK_MONOTONIC.
    source, target : tuple of (str, int)
    size : int
        Bytes of its content.
    content : bytes
        The beginning of it.
    """

    t: float
    source: tuple[str, int]
    target: tuple[str, int]
    size: int
    content: bytes


def read_packets(path: Path) -> Iterator[Packet]:
    """The packets of UDP in a file; the last may be cut off, as its process was."""
    monotonic = time.monotonic() - time.time()
    data = path.read_bytes()
    at = 24
    while at + 16 <= len(data):
        seconds, ns, kept, _ = struct.unpack_from("=IIII", data, at)
        ip = data[at + 16 : at + 16 + kept]
        at += 16 + kept
        packet = parsed(ip, seconds + ns / 1e9 + monotonic)
        if packet is not None:
            yield packet


def parsed(ip: bytes, t: float) -> Packet | None:
    """A packet of IP, without extensions; None for what is not of UDP."""
    if len(ip) >= 28 and ip[0] >> 4 == 4 and ip[9] == UDP:
        header, source, target = 4 * (ip[0] & 15), ip[12:16], ip[16:20]
    elif len(ip) >= 48 and ip[0] >> 4 == 6 and ip[6] == UDP:
        header, source, target = 40, ip[8:24], ip[24:40]
    else:
        return None
    if len(ip) < header + 8:
        return None
    sport, dport, length = struct.unpack_from("!HHH", ip, header)
    content = ip[header + 8 :]
    return Packet(
        t,
        (str(ipaddress.ip_address(source)), sport),
        (str(ipaddress.ip_address(target)), dport),
        max(length - 8, 0),
        content,
    )


if __name__ == "__main__":
    capture(Path(sys.argv[1]), int(float(sys.argv[2]) * 1e6) if len(sys.argv) > 2 else 100_000_000)
