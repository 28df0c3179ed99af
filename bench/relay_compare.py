"""Compare our relay server with relays on WebSocket libraries, each in a process of its own.

``python bench/relay_compare.py`` takes a few minutes, ``--quick`` about one. All relays run one
after the other in each round, and a number is the median of the rounds. The load generator uses
ready-made frames and plain sockets in threads, so that the relay is what is measured; CPU time is
that of the relay process.

An ``iroh-relay`` binary on PATH takes part too. ``--pin`` runs every relay on the first core and the
load on the second, so that latencies do not depend on where the scheduler puts them.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import platform
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from iroh_fast import SecretKey
from iroh_fast._relay import ClientWriter, WsReader, build_frame
from iroh_fast.relay.wire import ClientHandshake
from iroh_fast.web.tls_files import self_signed

BENCH = Path(__file__).parent
CONTENTS = 1200
WINDOW = 256  # frames in one write of the generator
TICK = os.sysconf("SC_CLK_TCK")

FAST = """
import asyncio, sys, uvloop
from pathlib import Path
from iroh_fast.relay import RelayServer, RelayServerConfig, RelayTlsConfig
async def main():
    config = RelayServerConfig.dev()
    if len(sys.argv) > 1:
        tls = RelayTlsConfig("Manual", ("127.0.0.1", 0), cert_path=Path(sys.argv[1]), key_path=Path(sys.argv[2]))
        config = config.with_changes(tls=tls)
    async with RelayServer(config) as server:
        print(server.addresses["https" if len(sys.argv) > 1 else "http"][1], flush=True)
        await server.wait_stopped()
uvloop.run(main())
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Relay:
    """A relay in a child process."""

    def __init__(self, name: str, files: tuple[str, str] | None, *, pin: bool = False) -> None:
        self.name = name
        self.tls = files is not None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        extra = list(files or ())
        if name == "iroh_fast":
            command = [sys.executable, "-c", FAST, *extra]
        elif name == "iroh-relay":
            self.port, command = self._rust(files)
        else:
            command = [sys.executable, str(BENCH / "rivals" / "relay_library.py"), name, *extra]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if name == "iroh-relay":
            self._wait()
        else:
            self.port = int(self.process.stdout.readline())
        if pin:
            for thread in os.listdir(f"/proc/{self.process.pid}/task"):
                os.sched_setaffinity(int(thread), {0})

    def _rust(self, files: tuple[str, str] | None) -> tuple[int, list[str]]:
        """Port and command of iroh's relay, with a file of settings."""
        ports = [free_port() for _ in range(3)]
        lines = [f'http_bind_addr = "127.0.0.1:{ports[0]}"', "enable_metrics = false"]
        if files is not None:
            lines += ["[tls]", f'https_bind_addr = "127.0.0.1:{ports[1]}"', 'cert_mode = "Manual"']
            lines += [f'manual_cert_path = "{files[0]}"', f'manual_key_path = "{files[1]}"']
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name, "relay.toml")
        path.write_text("\n".join(lines) + "\n")
        return ports[0 if files is None else 1], ["iroh-relay", "--config-path", str(path)]

    def _wait(self) -> None:
        """Wait until the relay listens."""
        for _ in range(200):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not listen")

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def resident(self) -> int:
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        if self._folder is not None:
            self._folder.cleanup()


class Client:
    """A blocking client; what it reads is handed out as messages or counted as bytes."""

    def __init__(self, relay: Relay) -> None:
        self.secret = SecretKey.generate()
        self.key = bytes(self.secret.public)
        sock = socket.create_connection(("127.0.0.1", relay.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if relay.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            sock = context.wrap_socket(sock)
        self.sock = sock
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET /relay HTTP/1.1\r\nHost: 127.0.0.1:{relay.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "sec-websocket-protocol: iroh-relay-v2, iroh-relay-v1\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        assert head.startswith(b"HTTP/1.1 101"), head
        self.reader = WsReader("client")
        self.reader.feed(head.partition(b"\r\n\r\n")[2])
        handshake = ClientHandshake(self.secret)
        while not handshake.done:
            reply = handshake.feed(self.receive())
            if reply is not None:
                sock.sendall(build_frame(reply[0], reply[1:], os.urandom(4)))

    def receive(self) -> bytes:
        while True:
            message = self.reader.next_message()
            if message is None:
                data = self.sock.recv(65536)
                if not data:
                    raise EOFError
                self.reader.feed(data)
            elif message[0] == 2:
                return message[1]

    def settle(self) -> None:
        """Wait until the relay has registered us: it answers a ping."""
        self.sock.sendall(build_frame(9, bytes(8), os.urandom(4)))
        while self.receive()[0] != 10:
            pass


def frames(destinations: list[bytes], count: int, segments: int = 1) -> bytes:
    writer = ClientWriter()
    for i in range(count):
        size = CONTENTS * segments
        writer.add_datagram(
            destinations[i % len(destinations)], 0, 0 if segments == 1 else CONTENTS, bytes(size)
        )
    return writer.take()


def throughput(
    relay: Relay, senders: int, receivers: int, seconds: float, segments: int = 1
) -> dict[str, float]:
    """Frames per second through the relay, while senders never wait for anything but TCP."""
    sources = [Client(relay) for _ in range(senders)]
    sinks = [Client(relay) for _ in range(receivers)]
    for client in (*sources, *sinks):
        client.settle()
    size = 34 + CONTENTS * segments + (4 if segments < 54 else 10) + (2 if segments > 1 else 0)
    received = [0] * receivers
    running = True

    def sink(index: int) -> None:
        client = sinks[index]
        view = memoryview(bytearray(1 << 18))
        with contextlib.suppress(OSError):
            while n := client.sock.recv_into(view):
                received[index] += n

    def source(index: int) -> None:
        if senders == receivers:
            targets = [sinks[index].key]
        else:
            targets = [s.key for s in sinks]
        blob = frames(targets, max(WINDOW // segments, 8 * len(targets)), segments)
        with contextlib.suppress(OSError):
            while running:
                sources[index].sock.sendall(blob)

    threads = [threading.Thread(target=sink, args=(i,)) for i in range(receivers)]
    threads += [threading.Thread(target=source, args=(i,)) for i in range(senders)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    start, cpu, before = time.perf_counter(), relay.cpu(), sum(received)
    time.sleep(seconds)
    elapsed, cpu = time.perf_counter() - start, relay.cpu() - cpu
    count = (sum(received) - before) / size
    running = False
    for client in (*sources, *sinks):
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    for client in (*sources, *sinks):
        client.sock.close()
    payload = count * CONTENTS * segments
    return {
        "frames_s": count / elapsed,
        "mb_s": payload / elapsed / 1e6,
        "frames_per_cpu_s": count / cpu if cpu else 0.0,
        "cpu_s_per_gb": cpu / payload * 1e9 if payload else 0.0,
    }


def latency(relay: Relay, rounds: int) -> float:
    """Median time of a datagram there and back through the relay, in microseconds."""
    a, b = Client(relay), Client(relay)
    a.settle()
    b.settle()
    there, back = frames([b.key], 1), frames([a.key], 1)

    def echo() -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                b.receive()
                b.sock.sendall(back)

    thread = threading.Thread(target=echo)
    thread.start()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        a.sock.sendall(there)
        a.receive()
        times.append(time.perf_counter() - start)
    for client in (a, b):
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_RDWR)
    thread.join()
    a.sock.close()
    b.sock.close()
    return statistics.median(times) * 1e6


def direct_latency(rounds: int) -> float:
    """The same between the same threads over one TCP connection, without a relay."""
    listener = socket.create_server(("127.0.0.1", 0))
    a = socket.create_connection(listener.getsockname())
    b, _ = listener.accept()
    data = bytes(CONTENTS + 42)
    for sock in (a, b):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def echo() -> None:
        while len(got := b.recv(65536)):
            b.sendall(got)

    thread = threading.Thread(target=echo)
    thread.start()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        a.sendall(data)
        left = len(data)
        while left:
            left -= len(a.recv(65536))
        times.append(time.perf_counter() - start)
    a.close()
    thread.join()
    b.close()
    listener.close()
    return statistics.median(times) * 1e6


def idle_memory(relay: Relay, count: int) -> float:
    """Resident KiB of the relay per idle client."""
    warm = [Client(relay) for _ in range(50)]
    for client in warm:
        client.settle()
    before = relay.resident()
    clients = [Client(relay) for _ in range(count)]
    for client in clients:
        client.settle()
    used = relay.resident() - before
    for client in (*warm, *clients):
        client.sock.close()
    return used / count / 1024


@contextlib.contextmanager
def certificate(wanted: bool) -> Iterator[tuple[str, str] | None]:
    if not wanted:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, data in zip(("cert.pem", "key.pem"), self_signed()):
            path = Path(folder, name)
            path.write_bytes(data)
            paths.append(str(path))
        yield paths[0], paths[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, shorter")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="one relay")
    parser.add_argument("--pin", action="store_true", help="relay on core 0, load on core 1")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    seconds = 1.0 if arguments.quick else 2.0
    names = ["iroh_fast", "websockets", "aiohttp"]
    if shutil.which("iroh-relay"):
        names.append("iroh-relay")
    if arguments.only:
        names = [arguments.only]
    if arguments.pin:
        os.sched_setaffinity(0, {1})
    found: dict[str, dict[str, list[float]]] = {}

    def note(relay: Relay, key: str, value: float) -> None:
        name = relay.name + (" tls" if relay.tls else "")
        found.setdefault(name, {}).setdefault(key, []).append(value)

    scenarios = {"1-1": (1, 1, 1), "1-1 batch": (1, 1, 10), "1-16": (1, 16, 1), "8-8": (8, 8, 1)}
    direct = []
    for _ in range(rounds):
        direct.append(direct_latency(2000))
        for tls in (False, True):
            with certificate(tls) as files:
                for name in names:
                    relay = Relay(name, files, pin=arguments.pin)
                    try:
                        note(relay, "start MiB", relay.resident() / (1 << 20))
                        note(relay, "idle KiB", idle_memory(relay, 300))
                        note(relay, "rtt us", latency(relay, 1000))
                        for key, (senders, receivers, segments) in scenarios.items():
                            result = throughput(relay, senders, receivers, seconds, segments)
                            note(relay, f"{key} kframes/s", result["frames_s"] / 1e3)
                            note(relay, f"{key} MB/s", result["mb_s"])
                            note(relay, f"{key} kframes/cpu-s", result["frames_per_cpu_s"] / 1e3)
                            note(relay, f"{key} cpu s/GB", result["cpu_s_per_gb"])
                    finally:
                        relay.stop()
    table = {n: {k: statistics.median(v) for k, v in keys.items()} for n, keys in found.items()}
    base = statistics.median(direct)
    for keys in table.values():
        # There and back are two hops of the relay, each with one more TCP connection.
        keys["added p50 us"] = (keys["rtt us"] - base) / 2
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
          f"direct TCP round trip {base:.1f} us")  # fmt: skip
    columns = list(table)
    width = max(map(len, columns)) + 2
    print(" " * 24 + "".join(f"{c:>{width}}" for c in columns))
    for key in next(iter(table.values())):
        print(f"{key:<24}" + "".join(f"{table[c].get(key, 0):>{width}.1f}" for c in columns))
    if arguments.json:
        arguments.json.write_text(json.dumps({"direct_rtt_us": base, "relays": table}, indent=1))


if __name__ == "__main__":
    main()
