"""Compare our DNS server with iroh's own and with a plain one on aiohttp and dnspython.

``python bench/dns_compare.py`` takes about ten minutes, ``--quick`` one, without the million records.
All servers run one after the other in each round, in processes of their own with an empty store; a number
is the median of the rounds. The load comes from ``peer load`` (``tests/rust_peer``), prepared before the
clock starts. Server and load have a core each, unless ``--no-pin`` lets them float; CPU time is that of
the server.

``peer`` and ``iroh-dns-server`` are taken from PATH, or from where ``tools/build_peers.sh`` puts them;
without ``iroh-dns-server`` the others are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facts import chosen, machine, number

BENCH = Path(__file__).parent
NAMES = ("iroh_fast", "iroh-dns-server", "aiohttp+dnspython")
ORIGIN = "irohdns.example."

# What iroh's server and ours both read; `udp_rate` is ours, and no limit of answers to one address.
CONFIG = """
pkarr_put_rate_limit = "disabled"
data_dir = "{folder}"
[http]
port = {http}
bind_addr = "127.0.0.1"
[dns]
port = {dns}
bind_addr = "127.0.0.1"
default_soa = "dns1.irohdns.example hostmaster.irohdns.example 0 10800 3600 604800 3600"
default_ttl = 900
origins = ["irohdns.example.", "."]
rr_a = "127.0.0.1"
rr_ns = "ns1.irohdns.example."
udp_rate = 0
[metrics]
disabled = true
[mainline]
enabled = false
"""
# TXT of a name below the origin that no server has.
PROBE = b"\0\7\1\0\0\1\0\0\0\0\0\0\4none\7irohdns\7example\0\0\x10\0\1"


def program(name: str) -> str | None:
    """The path of a program: on PATH, or where the script that builds it keeps it."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = Path(os.environ.get("IROH_FAST_PEERS") or Path(cache) / "iroh_fast" / "peers")
    kept = place / "bin" / name
    return str(kept) if os.access(kept, os.X_OK) else shutil.which(name)


def free_port() -> int:
    """A port that is free for TCP and for UDP."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port = int(tcp.getsockname()[1])
            with contextlib.suppress(OSError):
                udp.bind(("127.0.0.1", port))
                return port


class Server:
    """A server in a process of its own, on a folder that outlives it."""

    def __init__(self, name: str, folder: Path, *, pin: bool) -> None:
        self.name = name
        self._log = (folder / "log").open("ab")
        begin = time.perf_counter()
        command = self._command(folder)
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE if name == "aiohttp+dnspython" else self._log,
            stderr=self._log,
            preexec_fn=(lambda: os.sched_setaffinity(0, {0})) if pin else None,
            env={**os.environ, "RUST_LOG": "warn", "IROH_FAST_LOG": "WARNING"},
        )
        try:
            if self.process.stdout is not None:
                self.http, self.dns = map(int, self.process.stdout.readline().split())
            self._wait_for_answers()
        except BaseException:
            self.stop()
            raise
        self.start_s = time.perf_counter() - begin

    def _command(self, folder: Path) -> list[str]:
        if self.name == "aiohttp+dnspython":
            return [sys.executable, str(BENCH / "rivals" / "dns_library.py"), str(folder)]
        self.http, self.dns = free_port(), free_port()
        path = folder / "config.toml"
        path.write_text(CONFIG.format(folder=folder, http=self.http, dns=self.dns))
        if self.name == "iroh_fast":
            return [sys.executable, "-m", "iroh_fast", "dns-server", "-c", str(path)]
        return [program(self.name) or self.name, "-c", str(path)]

    def _wait_for_answers(self) -> None:
        """Wait until it answers over HTTP and over DNS."""
        end = time.monotonic() + 120
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{self.http}/", timeout=5).close()
                except urllib.error.HTTPError:
                    pass  # an answer, too
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.connect(("127.0.0.1", self.dns))
                    sock.settimeout(1.0)
                    sock.send(PROBE)
                    sock.recv(2048)
                return
            time.sleep(0.005)
        raise SystemExit(f"{self.name} does not serve; its log is in {self._log.name}")

    def resident_mib(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()


@dataclass
class Load:
    """``peer load`` against a server."""

    pin: bool

    def __call__(self, server: Server, what: str, **options: object) -> dict[str, Any]:
        port = server.dns if what == "dns" else server.http
        options = {"server": f"127.0.0.1:{port}", "pid": server.process.pid, "origin": ORIGIN,
                   **({"cpu": 1} if self.pin else {}), **options}  # fmt: skip
        command = [program("peer") or "peer", "load", what]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed against {server.name}")
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if result.get("lost"):
            print(f"{server.name}: {result['lost']} queries lost", file=sys.stderr)
        return result


Note = Callable[[str, str, float], None]


def measure_speed(server: Server, load: Load, note: Note, ids: int, seconds: float) -> None:
    """Publishing and asking, over a store that has what the first load published."""

    def tell(name: str, result: dict[str, Any]) -> None:
        note(server.name, f"{name}, /s", result["per_s"])
        note(server.name, f"{name}, p50 us", result["p50_us"])
        note(server.name, f"{name}, p99 us", result["p99_us"])
        note(server.name, f"{name}, cpu us", result["server_cpu_us"])

    note(server.name, "start, s", server.start_s)
    note(server.name, "start, MiB", server.resident_mib())
    tell("publish, 64 at a time", load(server, "put", ids=ids, seed=1))
    tell("publish again, 64", load(server, "put", ids=ids, seed=1))
    tell("publish, one at a time", load(server, "put", ids=ids // 5, seed=2, at_a_time=1))
    for what, name in (("dns", "UDP"), ("doh", "DoH")):
        result = load(server, what, ids=ids, seed=1, seconds=seconds)
        if result["without_answer_record"]:
            raise SystemExit(f"{server.name} does not know what was published")
        tell(f"{name}, 64 at a time", result)
    tell("UDP, one at a time", load(server, "dns", ids=ids, seed=1, seconds=seconds, at_a_time=1))
    tell("UDP, unknown ids", load(server, "dns", ids=ids, seed=3, seconds=seconds))


def measure_many(
    name: str, load: Load, note: Note, folder: Path, records: int, *, pin: bool
) -> None:
    """Many records: memory after publishing them, after a restart, and after questions for them."""
    server = Server(name, folder, pin=pin)
    try:
        result = load(server, "put", ids=records, seed=1)
        note(name, "many: publish, /s", result["per_s"])
        note(name, "many: MiB after publishing", server.resident_mib())
    finally:
        server.stop()
    note(name, "many: MiB on disk", sum(p.stat().st_size for p in folder.iterdir()) / (1 << 20))
    server = Server(name, folder, pin=pin)
    try:
        note(name, "many: start, s", server.start_s)
        note(name, "many: MiB after start", server.resident_mib())
        result = load(server, "dns", ids=records, seed=1, seconds=5.0)
        if result["without_answer_record"]:
            raise SystemExit(f"{name} lost records over its restart")
        note(name, "many: UDP from the store, /s", result["per_s"])
        note(name, "many: MiB after questions", server.resident_mib())
    finally:
        server.stop()


def table(found: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {key: statistics.median(values) for key, values in keys.items()}
        for name, keys in found.items()
    }


def show(medians: dict[str, dict[str, float]]) -> None:
    """A row for each number; in brackets how many times better the first column is."""
    names = list(medians)
    width = max(20, *(len(name) + 2 for name in names))
    print(" " * 32 + "".join(f"{name:>{width}}" for name in names))
    for key in next(iter(medians.values())):
        cells = []
        own = medians[names[0]][key]
        for name in names:
            value = medians[name].get(key)
            if value is None:
                cells.append("-")
                continue
            ratio = own / value if key.endswith("/s") else value / own
            cells.append(number(value) + ("" if name == names[0] else f" ({ratio:.2f}x)"))
        print(f"{key:<32}" + "".join(f"{cell:>{width}}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, shorter")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--ids", type=int, default=20_000)
    parser.add_argument("--records", type=int, help="of the store with many; 0: leave it out")
    parser.add_argument("--rivals", default=",".join(NAMES))
    parser.add_argument("--no-pin", action="store_true", help="let server and load float")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    records = arguments.records
    if records is None:
        records = 0 if arguments.quick else 1_000_000
    seconds = 1.0 if arguments.quick else 3.0
    pin = not arguments.no_pin and hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1
    names = chosen(arguments.rivals, list(NAMES), "rival")
    if program("peer") is None:
        raise SystemExit("no program `peer`: bash tools/build_peers.sh builds it")
    if "iroh-dns-server" in names and program("iroh-dns-server") is None:
        print("no iroh-dns-server: bash tools/build_peers.sh builds it", file=sys.stderr)
        names.remove("iroh-dns-server")
    found: dict[str, dict[str, list[float]]] = {}
    load = Load(pin)

    def note(name: str, key: str, value: float) -> None:
        found.setdefault(name, {}).setdefault(key, []).append(value)

    for _ in range(rounds):
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                server = Server(name, Path(folder), pin=pin)
                try:
                    measure_speed(server, load, note, arguments.ids, seconds)
                finally:
                    server.stop()
    if records:
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                measure_many(name, load, note, Path(folder), records, pin=pin)
    medians = table(found)
    print(json.dumps(machine()))
    show(medians)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(
            json.dumps({"machine": machine(), "rounds": found, "medians": medians}, indent=1)
        )


if __name__ == "__main__":
    main()
