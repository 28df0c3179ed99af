"""Publishes to a DNS server, kills it with ``kill -9``, starts it again, and looks for every packet that
was accepted: over HTTP, and over DNS.

    python tests/dns_server/publish_and_kill.py --rounds 100

Exit code 1, and the ids, when one is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dns.message
import dns.query
import dns.rcode

from iroh_fast import SecretKey
from iroh_fast.lookup import z32
from iroh_fast.lookup.signed_packet import SignedPacket

CONFIG = """
pkarr_put_rate_limit = "disabled"
data_dir = "{folder}"
[http]
port = 0
bind_addr = "127.0.0.1"
[dns]
port = 0
bind_addr = "127.0.0.1"
default_soa = "dns1.irohdns.example hostmaster.irohdns.example 0 10800 3600 604800 3600"
default_ttl = 900
origins = ["irohdns.example.", "."]
[metrics]
disabled = true
"""
AT_A_TIME = 16


def limit_files(size: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


class Server:
    """A server in a process of its own, on a folder that outlives it.

    Parameters
    ----------
    more : added to its settings.
    file_size : bytes that its files may have, as if the disk were full then.
    """

    def __init__(self, folder: Path, more: str = "", *, file_size: int | None = None) -> None:
        path, log = folder / "config.toml", folder / "log"
        path.write_text(CONFIG.format(folder=folder) + more)
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "iroh_fast", "dns-server", "-c", str(path)],
                stdout=subprocess.DEVNULL,
                stderr=file,
                preexec_fn=None if file_size is None else lambda: limit_files(file_size),
                env={**os.environ, "IROH_FAST_LOG": "INFO"},
            )
        ports: dict[str, int] = {}
        while len(ports) < 2:
            time.sleep(0.02)
            text = log.read_text(errors="replace")
            if self.process.poll() is not None:
                raise SystemExit(f"the server does not start: {text}")
            found = re.findall(r": (http|dns) on \S+ port (\d+)\n", text)
            ports = {name: int(port) for name, port in found}
        self.http, self.dns = ports["http"], ports["dns"]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Publisher:
    """Publishes again and again, some of it anew, and remembers what was accepted.

    Attributes
    ----------
    accepted : dict
        Newest accepted payload of each key.
    tried : dict
        Newest payload that was sent and may have been accepted, too.
    answers : int
        How often something was accepted.
    """

    def __init__(self, seed: int) -> None:
        self.accepted: dict[bytes, SignedPacket] = {}
        self.tried: dict[bytes, SignedPacket] = {}
        self.answers = 0
        self._rng = random.Random(seed)
        self._secrets: list[SecretKey] = []
        self._busy: set[int] = set()

    def _next(self) -> tuple[int, SignedPacket]:
        index = self._rng.randrange(len(self._secrets) + 3)
        if index >= len(self._secrets) or index in self._busy:
            index = len(self._secrets)
            self._secrets.append(SecretKey.generate())
        self._busy.add(index)
        text = f"relay=https://relay{self._rng.randrange(1000)}.example./"
        return index, SignedPacket.from_txt(self._secrets[index], "_iroh", [text])

    async def run(self, port: int) -> None:
        """Publish on one connection until the server is gone."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        index = None
        try:
            while True:
                index, packet = self._next()
                key, payload = packet.public_key, packet.relay_payload
                self.tried[key] = packet
                head = f"PUT /pkarr/{z32.encode(key)} HTTP/1.1\r\nhost: localhost\r\n"
                writer.write(f"{head}content-length: {len(payload)}\r\n\r\n".encode() + payload)
                answer = await reader.readuntil(b"\r\n\r\n")
                if not answer.startswith(b"HTTP/1.1 204"):
                    raise SystemExit(f"refused: {answer!r}")
                self.accepted[key] = packet
                self.answers += 1
                self._busy.discard(index)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._busy.discard(index)
            writer.close()


async def fetched(port: int, keys: list[bytes]) -> dict[bytes, bytes]:
    """The payloads that a server has of some keys, over HTTP."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = {}
    for key in keys:
        writer.write(f"GET /pkarr/{z32.encode(key)} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(
            (line for line in head.split("\r\n") if line.startswith("content-length:")), ":0"
        )
        body = await reader.readexactly(int(length.partition(":")[2]))
        if head.startswith("http/1.1 200"):
            found[key] = body
    writer.close()
    return found


def resolved(port: int, key: bytes) -> bool:
    """Whether a server answers a question for the key over DNS; asked again while its database is slow."""
    query = dns.message.make_query(
        f"_iroh.{z32.encode(key)}.irohdns.example.", "TXT", use_edns=True
    )
    for _ in range(30):
        answer = dns.query.udp(query, "127.0.0.1", port=port, timeout=60)
        if answer.rcode() != dns.rcode.REFUSED:
            break
    return answer.rcode() == dns.rcode.NOERROR and bool(answer.answer)


async def publish_and_kill(server: Server, publisher: Publisher, count: int) -> None:
    """Kill a server while it works: what was sent and not answered is in every state there is."""
    loads = [asyncio.ensure_future(publisher.run(server.http)) for _ in range(AT_A_TIME)]
    until = publisher.answers + count
    while publisher.answers < until and not all(load.done() for load in loads):
        await asyncio.sleep(0)
    server.kill()
    await asyncio.gather(*loads)


async def missing(server: Server, publisher: Publisher, rng: random.Random) -> list[str]:
    """The ids of accepted packets that a server does not have, or only older ones of."""
    found = await fetched(server.http, list(publisher.accepted))
    gone = []
    for key, packet in publisher.accepted.items():
        allowed = {packet.relay_payload, publisher.tried[key].relay_payload}
        if found.get(key) not in allowed:
            gone.append(z32.encode(key))
    some = rng.sample(list(publisher.accepted), min(20, len(publisher.accepted)))
    return gone + [f"{z32.encode(key)} (DNS)" for key in some if not resolved(server.dns, key)]


async def one_round(folder: Path, publisher: Publisher, rng: random.Random) -> list[str]:
    """Publish, kill, restart; returns the ids that are missing."""
    server = Server(folder)
    try:
        await publish_and_kill(server, publisher, rng.randrange(1, 300))
    finally:
        server.kill()
    server = Server(folder)
    try:
        return await missing(server, publisher, rng)
    finally:
        server.kill()


async def rounds(count: int, seed: int) -> tuple[int, list[str]]:
    """How many packets were accepted in so many rounds, and which of them are missing."""
    rng = random.Random(seed)
    publisher = Publisher(seed)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(count):
            gone = await one_round(Path(folder), publisher, rng)
            if gone:
                return len(publisher.accepted), gone
    return len(publisher.accepted), []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    accepted, gone = asyncio.run(rounds(arguments.rounds, arguments.seed))
    print(f"seed {arguments.seed}: {accepted} ids, {len(gone)} lost in {arguments.rounds} rounds")
    for one in gone:
        print(one)
    return 1 if gone else 0


if __name__ == "__main__":
    sys.exit(main())
