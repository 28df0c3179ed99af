"""Rival: no protocol at all, only the library's sockets (``_batch``) in two C loops.

With ``--sealed`` every packet is also encrypted and decrypted (AES-128-GCM, ``_crypto``).
Nothing is acknowledged or repeated; what arrives is what counts.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from _child import main

from iroh_fast import _crypto
from iroh_fast._batch import UdpSocket, pump_recv, pump_send

SEALED = "--sealed" in sys.argv
SEGMENTS = 45  # datagrams per call, as many as 64 KiB hold
HEADROOM_S = 0.3  # the sender works so much longer than the receiver measures
OVERHEAD = 13 + 16 if SEALED else 0  # header and tag

if SEALED:
    from _build import load_pyx

    sealed_pump = load_pyx(Path(__file__).parent / "sealed_pump.pyx")


def versions() -> dict[str, Any]:
    return {"aes-128-gcm": _crypto.backend()["suites"]["aes-128-gcm"]} if SEALED else {}


class Server:
    async def start(self, address: None) -> dict[str, Any]:
        self.sock = UdpSocket.bind(("127.0.0.1", 0))
        return {"address": self.sock.local_address[1], "versions": versions()}

    async def receive(self, size: int, seconds: float) -> dict[str, Any]:
        """Count for so long from the first packet on; `size` is that of the payload."""
        size += OVERHEAD
        while self.sock.recv():  # left over from the measure before
            pass
        cpu = time.process_time()
        if SEALED:
            got = sealed_pump.receive(self.sock, size, seconds)
        else:
            pump_recv(self.sock, 1, deadline_s=10)  # the first packet starts the clock
            total, packets, _, took = pump_recv(self.sock, 1 << 62, deadline_s=seconds)
            got = total, packets, took
        return {
            "bytes": got[0],
            "messages": got[1],
            "seconds": got[2],
            "server_cpu_s": time.process_time() - cpu,
        }


class Client:
    async def start(self, address: int) -> dict[str, Any]:
        self.to = ("127.0.0.1", address)
        self.sock = UdpSocket.bind(("127.0.0.1", 0))
        return {"address": None, "versions": versions()}

    async def send(self, size: int, seconds: float) -> dict[str, Any]:
        size += OVERHEAD
        await asyncio.sleep(0.05)  # the receiver is waiting by then
        cpu, started = time.process_time(), time.perf_counter()
        at_a_time = min(SEGMENTS, 65000 // size)
        if SEALED:
            sealed_pump.send(self.sock, self.to, size, at_a_time, seconds + HEADROOM_S)
        else:
            pump_send(self.sock, self.to, 1 << 62, size, at_a_time, deadline_s=seconds + HEADROOM_S)
        took = time.perf_counter() - started
        # only the part of it during which the receiver counted
        return {"client_cpu_s": (time.process_time() - cpu) * seconds / took}


def options(parser: Any) -> None:
    parser.add_argument("--sealed", action="store_true")


if __name__ == "__main__":
    main(Server, Client, options)
