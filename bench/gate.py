"""Fail when a compiled leaf got slower than it was in another checkout.

``python bench/gate.py [--against REV]`` builds that revision beside this tree, with the same
compiler and switches, and runs the loops below on both.  It counts the instructions that each
executes inside this library's own extension modules, and the calls that leave them, with callgrind
(Debian/Ubuntu: ``apt install valgrind``, and a C compiler).  Unlike time, these counts hardly differ
between runs: what OpenSSL, libc or the interpreter do, which depends on the processor, is left out.

Each checkout runs its own ``bench/gate.py``, so that loops may follow renamed modules; loops that
only one of them has are shown and not compared.

Without valgrind, or with ``--mode time``, both are timed in turns.  That is far less exact, and the
tolerance is larger.  Exit status: 0 fine, 1 slower, 2 no comparison possible.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = {"instructions": 0.05, "time": 0.25}
TURNS = 5  # of the time mode: processes per checkout
ROUNDS = 20  # in each of them
TIMED_CALLS = 5  # calls of a case per round

REQUESTS_C = """
#include <valgrind/callgrind.h>
void zero(void) { CALLGRIND_ZERO_STATS; }
void dump(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
"""

# A case runs a loop and says how many units (packets, frames, calls) that was.
Case = Callable[[], int]
Numbers = dict[str, list[float]]


class Impossible(Exception):
    """Nothing can be compared, for the reason given."""


# --- checkouts -----------------------------------------------------------------------------


def git(*args: str) -> str:
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Impossible(f"git {args[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def previous() -> str:
    """What this tree is compared with by default: HEAD while there are changes, else its parent."""
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "setup.py", "bench")
    return "HEAD" if changed else "HEAD~1"


def checkout(revision: str) -> Path:
    """A built tree of a revision, kept in build/gate for the next run."""
    commit = git("rev-parse", "--verify", f"{revision}^{{commit}}")
    place = ROOT / "build" / "gate" / commit[:12]
    if not (place / "built").exists():
        print(f"building {revision} ({commit[:12]}) in {place.relative_to(ROOT)}", flush=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        archive = subprocess.run(
            ["git", "archive", commit], cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(["tar", "-x", "-C", place], input=archive.stdout, check=True)
        build(place)
        (place / "built").touch()
    return place


def build(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=place, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise Impossible(f"{place} cannot be built:\n{done.stderr[-2000:]}")


def command(place: Path, *args: str) -> list[str]:
    return [sys.executable, str(place / "bench" / "gate.py"), *args]


def environment(place: Path) -> dict[str, str]:
    return os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(place / "src")}


# --- cases ---------------------------------------------------------------------------------


def packet_cases() -> Iterator[tuple[str, Case]]:
    from iroh_fast._packet import bench_decode, bench_put, encode_frame

    loops = 2000

    def ack(ranges: int, **more: Any) -> dict[str, Any]:
        bounds = [(100_000 - 5 * i - 2, 100_000 - 5 * i) for i in range(ranges)]
        return {"type": 0x02, "largest": 100_000, "delay": 100, "ranges": bounds} | more

    path = {"type": 0x3E, "path_id": 1}
    frames: dict[str, dict[str, Any]] = {
        "stream": {"type": 0x0E, "id": 4, "offset": 5_000_000, "fin": False, "data": bytes(1200)},
        "ack-1": ack(1),
        "ack-64": ack(64),
        "path-ack-10": ack(10, **path),
    }
    only_decoded: dict[str, dict[str, Any]] = {
        "datagram": {"type": 0x31, "data": bytes(1200)},
        "max-stream-data": {"type": 0x11, "id": 4, "max": 5_000_000},
        "ping": {"type": 0x01},
    }

    def decode(payload: bytes, walk: bool) -> Case:
        return lambda: bench_decode(payload, loops, walk)

    def put(frame: dict[str, Any]) -> Case:
        def run() -> int:
            bench_put(frame, loops)
            return loops

        return run

    for name, frame in (frames | only_decoded).items():
        yield f"packet-decode[{name}]", decode(encode_frame(frame), "ack" in name)
    for name, frame in frames.items():
        yield f"packet-put[{name}]", put(frame)


def crypto_cases() -> Iterator[tuple[str, Case]]:
    """What is ours around the cipher; always OpenSSL, which is there on all machines."""
    from iroh_fast._crypto import PacketProtection

    count = 960

    def repeat(function: Callable[..., object], calls: int, *args: int) -> Case:
        def run() -> int:
            function(calls, *args)
            return count

        return run

    aes = PacketProtection(0x1301, bytes(32), backend="openssl")
    chacha = PacketProtection(0x1303, bytes(32), backend="openssl")
    yield "crypto-seal", repeat(aes.seal_many, count, 1416)
    yield "crypto-open", repeat(aes.open_many, count, 1416)
    for batch in (1, 16):
        yield f"crypto-masks[aes-batch{batch}]", repeat(aes.masks_many, count // batch, batch)
        yield f"crypto-masks[chacha-batch{batch}]", repeat(chacha.masks_many, count // batch, batch)


def batch_cases() -> Iterator[tuple[str, Case]]:
    from iroh_fast._batch import UdpSocket, pump_recv, pump_send

    packets, segment = 90, 1452
    a, b = UdpSocket.bind(("127.0.0.1", 0)), UdpSocket.bind(("127.0.0.1", 0))
    to = b.local_address
    if not a.gso or not b.gro:
        raise Impossible("the gate needs a kernel with UDP segmentation offload")

    def pump(segments: int) -> Case:
        def run() -> int:
            sent = pump_send(a, to, packets * segment, segment, segments)
            got = pump_recv(b, packets * segment, deadline_s=5)
            if not sent[1] == got[1] == packets:
                raise RuntimeError(f"{got[1]} of {packets} packets arrived")
            return packets

        return run

    for segments in (1, 10, 45):
        yield f"batch-send-receive[{segments}-per-call]", pump(segments)


def buffer_cases() -> Iterator[tuple[str, Case]]:
    from iroh_fast.quic._buffers import RangeSetModel, ReceiveBufferModel, SendBufferModel

    block = bytes(range(256)) * 256
    packet = 1400
    blocks = 8

    def receive() -> int:
        buffer = ReceiveBufferModel()
        for _ in range(blocks):
            buffer.insert_packets(block, packet)
            while buffer.take(len(block)):
                pass
        return blocks * -(-len(block) // packet)

    def receive_late() -> int:
        buffer = ReceiveBufferModel()
        piece = block[:packet]
        for first in (1, 0):
            for i in range(first, 200, 2):
                buffer.insert(i * packet, piece)
        return 200

    def send_by_reference() -> int:
        buffer, count = SendBufferModel(), 0
        for _ in range(blocks):
            buffer.write_ref(block)
            count += buffer.send_all(packet, True)
        return count

    def send_copied() -> int:
        buffer, count = SendBufferModel(), 0
        for _ in range(blocks):
            for _ in range(64):
                buffer.write_copy(block[:1024])
            count += buffer.send_all(packet, True)
        return count

    def ranges() -> int:
        numbers = RangeSetModel()
        for i in range(500):
            numbers.add(i, i + 1)
        for i in range(1000, 1400, 2):
            numbers.add(i, i + 1)
        return 700

    for function in (receive, receive_late, send_by_reference, send_copied, ranges):
        yield f"buffers-{function.__name__.replace('_', '-')}", function


def congestion_cases() -> Iterator[tuple[str, Case]]:
    """Called from Python: the wrappers of the extension module count, too."""
    from iroh_fast.quic._congestion import (
        CUBIC,
        NEW_RENO,
        CongestionController,
        MtuDiscovery,
        PacerModel,
        RttEstimator,
    )

    calls = 1000

    def on_ack(kind: int) -> Case:
        def run() -> int:
            rtt = RttEstimator()
            rtt.sample(0, 0, 20_000_000)
            controller = CongestionController(kind, 1452, 0)
            controller.on_ack(2, 1, 1_000_000, False, rtt)
            controller.on_congestion(3, 2)
            for i in range(calls):
                controller.on_ack(10 + i * 12_000, 9 + i * 12_000, 1452, False, rtt)
            return calls

        return run

    def pacer() -> int:
        bucket = PacerModel(0)
        for i in range(calls):
            bucket.delay(i * 12_000, 1452, 1_000_000, 20_000_000, 1452)
            bucket.on_sent(1452)
        return calls

    def rtt_sample() -> int:
        rtt = RttEstimator()
        for i in range(calls):
            rtt.sample(i, 1000, 20_000_000 + (i & 1023))
        return calls

    def mtu_acked() -> int:
        search = MtuDiscovery(1452, 1200, 1452, 1, 1, 20, True)
        for i in range(calls):
            search.on_acked(i, i, 1452)
        return calls

    yield "congestion-on-ack[cubic]", on_ack(CUBIC)
    yield "congestion-on-ack[new-reno]", on_ack(NEW_RENO)
    yield "congestion-pacer", pacer
    yield "congestion-rtt-sample", rtt_sample
    yield "congestion-mtu-acked", mtu_acked


def cases(pattern: str) -> dict[str, Case]:
    groups = (packet_cases, crypto_cases, batch_cases, buffer_cases, congestion_cases)
    return {name: case for group in groups for name, case in group() if re.search(pattern, name)}


# --- instructions --------------------------------------------------------------------------


def build_requests(folder: Path) -> Path:
    """Compile the two calls by which a program under callgrind controls it."""
    source, library = folder / "requests.c", folder / "requests.so"
    source.write_text(REQUESTS_C)
    compiler = shlex.split(os.environ.get("CC", "cc"))  # may begin with a launcher such as ccache
    if shutil.which(compiler[0]) is None:
        raise Impossible("the gate needs a C compiler")
    subprocess.run([*compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return library


def run_under_callgrind(pattern: str, requests: Path) -> None:
    """Second process: one dump per case; its units go to standard output."""
    library = ctypes.CDLL(str(requests))
    units = {}
    for name, case in cases(pattern).items():
        case()  # first calls resolve symbols and fill caches
        library.zero()
        units[name] = case()
        library.dump(name.encode())
    json.dump(units, sys.stdout)


def own_cost(profile: str) -> tuple[int, int]:
    """Instructions in our own shared objects, and calls from there to elsewhere.

    Of callgrind's format: a cost line is "position cost"; "calls=" gives a number of calls, to an
    object that "cob=" names when it is another one, and the line after it the cost of the callee,
    which has lines of its own. Names may be abbreviated to "(number)" after their first use.
    """
    objects: dict[str, str] = {}

    def is_own(line: str) -> bool:
        number, _, name = line.partition("=")[2].partition(" ")
        if name:
            objects[number] = name
        return "/iroh_fast/" in objects[number] and objects[number].endswith((".so", ".pyd"))

    own = skip = outwards = False
    instructions = calls = 0
    for line in profile.splitlines():
        if line.startswith("ob="):
            own = is_own(line)
        elif line.startswith("cob="):
            outwards = not is_own(line)
        elif line.startswith("calls="):
            if own and outwards:
                calls += int(line[6:].split()[0])
            skip, outwards = True, False
        elif line[:1].isdigit() or line[:1] in ("+", "-", "*"):
            if own and not skip:
                instructions += int(line.split()[1])
            skip = False
    return instructions, calls


def count_instructions(place: Path, pattern: str) -> Numbers:
    """Instructions and outward calls per unit of each case of a checkout."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        requests = build_requests(folder)
        done = subprocess.run(
            [
                "valgrind", "--tool=callgrind", "--quiet", "--compress-strings=yes",
                f"--callgrind-out-file={folder}/out", f"--log-file={folder}/log",
                *command(place, "--only", pattern, "--under-callgrind", str(requests)),
            ],
            env=environment(place), stdout=subprocess.PIPE, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Impossible(f"{place}: failed under valgrind\n{(folder / 'log').read_text()}")
        units = json.loads(done.stdout)
        result = {}
        for path in folder.glob("out.*"):
            profile = path.read_text()
            trigger = re.search(r"^desc: Trigger: Client Request: (.*)$", profile, re.MULTILINE)
            if trigger is not None:
                name = trigger[1]
                result[name] = [round(n / units[name], 2) for n in own_cost(profile)]
        if missing := set(units) - set(result):
            raise Impossible(f"callgrind wrote nothing for {', '.join(sorted(missing))}")
        return {name: result[name] for name in units}


# --- time ----------------------------------------------------------------------------------


def time_cases(pattern: str) -> Numbers:
    """Nanoseconds per unit of each case here, fastest of some rounds."""
    best: Numbers = {}
    found = cases(pattern)
    units = {name: case() for name, case in found.items()}
    for _ in range(ROUNDS):
        for name, case in found.items():
            started = time.perf_counter_ns()
            for _ in range(TIMED_CALLS):
                case()
            spent = (time.perf_counter_ns() - started) / TIMED_CALLS / units[name]
            best[name] = [min(best.get(name, [spent])[0], spent)]
    return best


def compare_times(places: tuple[Path, Path], pattern: str) -> tuple[Numbers, Numbers]:
    """The same for two checkouts, in turns, so that both see the machine's moods."""
    best: tuple[Numbers, Numbers] = {}, {}
    for _ in range(TURNS):
        for place, kept in zip(places, best):
            done = subprocess.run(
                command(place, "--only", pattern, "--timed"),
                env=environment(place), capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                raise Impossible(f"{place}: {done.stderr[-2000:]}")
            for name, (spent,) in json.loads(done.stdout).items():
                kept[name] = [min(kept.get(name, [spent])[0], spent)]
    return best


# --- verdict -------------------------------------------------------------------------------


def check_build() -> None:
    from iroh_fast._crypto import build_switches

    switches = build_switches()
    if switches["debug"] or switches["trace"] or switches["sanitize"]:
        raise Impossible("the gate needs an ordinary, optimised build of iroh_fast")


def changes(before: list[float], now: list[float]) -> list[float]:
    """Relative growth of each number; of few calls, a fraction of one more is no news."""
    slack = (0.0, 1.0)
    return [(new + s) / (old + s) - 1 for old, new, s in zip(before, now, slack)]


def verdict(before: Numbers, now: Numbers, tolerance: float) -> list[str]:
    """Print a table; names of the cases that are slower."""
    slower = []
    width = max(map(len, [*before, *now]))
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            columns = [
                f"{value:19.2f}" if new else f"{value:8.2f}" + " " * 11
                for value in new or old or []
            ]
            remark = "new" if new else "gone"
        else:
            grown = changes(old, new)
            columns = [f"{o:8.2f} -> {n:8.2f} {c:+7.1%}" for o, n, c in zip(old, new, grown)]
            remark = (
                "SLOWER" if max(grown) > tolerance else "faster" if min(grown) < -tolerance else ""
            )
            if max(grown) > tolerance:
                slower.append(name)
        print(f"{name:{width}}  {'    '.join(columns)}  {remark}".rstrip())
    return slower


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--against", metavar="REV", help="default: HEAD while there are changes, else HEAD~1"
    )
    parser.add_argument(
        "--mode", choices=["instructions", "time"], help="default: instructions, if possible"
    )
    parser.add_argument(
        "--tolerance", type=float, help="share, default 0.05 (instructions) or 0.25 (time)"
    )
    parser.add_argument("--only", metavar="REGEX", default="", help="only cases whose name matches")
    parser.add_argument("--under-callgrind", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--timed", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.under_callgrind or args.timed:  # a process that is measured
        check_build()
        if args.timed:
            json.dump(time_cases(args.only), sys.stdout)
        else:
            run_under_callgrind(args.only, args.under_callgrind)
        return 0

    mode = args.mode
    if mode is None:
        mode = "instructions" if shutil.which("valgrind") else "time"
        if mode == "time":
            print("valgrind is missing: times instead of instructions, with a large tolerance")
    tolerance = TOLERANCE[mode] if args.tolerance is None else args.tolerance
    revision = args.against or previous()
    build(ROOT)
    places = checkout(revision), ROOT
    if mode == "instructions":
        before, now = (count_instructions(place, args.only) for place in places)
        unit = "own instructions, then calls out of the module"
    else:
        before, now = compare_times(places, args.only)
        unit = "nanoseconds"
    print(f"{unit}, per unit; {revision} and now; tolerance {tolerance:.0%}")
    slower = verdict(before, now, tolerance)
    if slower and mode == "time":
        print("once more, to be sure")
        again = compare_times(places, args.only)
        before, now = (
            {n: min(v, b.get(n, v)) for n, v in a.items()} for a, b in zip((before, now), again)
        )
        slower = verdict(before, now, tolerance)
    if slower:
        print(f"{len(slower)} of {len(now)} cases are slower: {', '.join(slower)}")
    return 1 if slower else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Impossible as reason:
        print(reason, file=sys.stderr)
        sys.exit(2)
