"""Fail when a compiled leaf got slower than ``bench/baseline.json`` says.

``python bench/gate.py`` counts the instructions that each loop below executes inside this
library's own extension modules, and the calls that leave them, with callgrind (Debian/Ubuntu:
``apt install valgrind``, and a C compiler).  Unlike time, these counts hardly differ between runs
and machines: what OpenSSL, libc or the interpreter do, which depends on the processor, is left out.
They do depend on the compiler, so there is one baseline for each compiler, processor family and
Python version.

Without valgrind, or with ``--mode time``, loops are timed against a fixed loop of pure Python in
the same process instead.  That is far less exact, and the tolerance is larger.

``--update`` stores what was measured as the new baseline.  Exit status: 0 fine, 1 slower, 2 no
comparison possible.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BASELINE = Path(__file__).with_name("baseline.json")
TOLERANCE = {"instructions": 0.05, "time": 0.25}
ROUNDS = 100  # of the time mode
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
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Impossible("the gate needs a C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
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


def count_instructions(pattern: str) -> Numbers:
    """Instructions and outward calls per unit of each case."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        requests = build_requests(folder)
        done = subprocess.run(
            [
                "valgrind", "--tool=callgrind", "--quiet", "--compress-strings=yes",
                f"--callgrind-out-file={folder}/out", f"--log-file={folder}/log",
                sys.executable, __file__, "--only", pattern, "--under-callgrind", str(requests),
            ],
            env=os.environ | {"PYTHONHASHSEED": "0"}, stdout=subprocess.PIPE, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Impossible(f"the loops failed under valgrind\n{(folder / 'log').read_text()}")
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


def reference_loop() -> int:
    x = 1
    for i in range(20_000):
        x = (x * 1103515245 + i) & 0xFFFFFFFF
    return x


def compare_times(pattern: str) -> Numbers:
    """Time per unit of each case, in millionths of the reference loop; fastest of many rounds."""

    def timed(function: Callable[[], object], calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - started) / calls

    best: dict[str, float] = {}
    reference = float("inf")
    found = cases(pattern)
    units = {name: case() for name, case in found.items()}
    for _ in range(ROUNDS):
        reference = min(reference, timed(reference_loop, 1))
        for name, case in found.items():
            best[name] = min(best.get(name, float("inf")), timed(case, TIMED_CALLS) / units[name])
    return {name: [round(value / reference * 1e6, 1)] for name, value in best.items()}


# --- verdict -------------------------------------------------------------------------------


def toolchain(mode: str) -> str:
    """What a number depends on, apart from our sources."""
    from iroh_fast._crypto import build_switches

    switches = build_switches()
    if switches["debug"] or switches["trace"] or switches["sanitize"]:
        raise Impossible("the gate needs an ordinary, optimised build of iroh_fast")
    compiler = re.sub(r"(\w+) (\d+)\..*", r"\1-\2", switches["compiler"]).lower()
    python = f"{platform.python_implementation()}-{sys.version_info[0]}.{sys.version_info[1]}"
    return f"{mode} {sys.platform} {platform.machine()} {compiler} {python.lower()}"


def changes(before: list[float], now: list[float]) -> list[float]:
    """Relative growth of each number; of few calls, a fraction of one more is no news."""
    slack = (0.0, 1.0)
    return [(new + s) / (old + s) - 1 for old, new, s in zip(before, now, slack)]


def verdict(measured: Numbers, known: Numbers, tolerance: float) -> list[str]:
    """Print a table; names of cases that are slower, or that only one side has."""
    bad = []
    width = max(map(len, [*measured, *known]))
    for name in sorted(measured.keys() | known.keys()):
        now, before = measured.get(name), known.get(name)
        remark = ""
        if now is None or before is None:
            columns = [
                f"{value:19.2f}" if now else f"{value:8.2f}" + " " * 11
                for value in now or before or []
            ]
            remark = "new: --update" if now else "the case is gone: --update"
            bad.append(name)
        else:
            grown = changes(before, now)
            columns = [
                f"{old:8.2f} -> {new:8.2f} {c:+7.1%}" for old, new, c in zip(before, now, grown)
            ]
            if max(grown) > tolerance:
                remark = "SLOWER"
                bad.append(name)
            elif min(grown) < -tolerance:
                remark = "faster: --update, to keep it so"
        print(f"{name:{width}}  {'    '.join(columns)}  {remark}".rstrip())
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="store a new baseline")
    parser.add_argument(
        "--mode", choices=["instructions", "time"], help="default: instructions, if possible"
    )
    parser.add_argument(
        "--tolerance", type=float, help="share, default 0.05 (instructions) or 0.25 (time)"
    )
    parser.add_argument("--only", metavar="REGEX", default="", help="only cases whose name matches")
    parser.add_argument("--under-callgrind", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.under_callgrind:
        run_under_callgrind(args.only, args.under_callgrind)
        return 0

    mode = args.mode
    if mode is None:
        mode = "instructions" if shutil.which("valgrind") else "time"
        if mode == "time":
            print("valgrind is missing: times instead of instructions, with a large tolerance")
    tolerance = TOLERANCE[mode] if args.tolerance is None else args.tolerance
    key = toolchain(mode)
    baselines = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    known = {
        name: value for name, value in baselines.get(key, {}).items() if re.search(args.only, name)
    }
    if not known and not args.update:
        print(
            f"no baseline for: {key}\nthere are: {', '.join(baselines) or 'none'}\nrun with --update"
        )
        return 2

    measure = count_instructions if mode == "instructions" else compare_times
    measured = measure(args.only)
    unit = "millionths of the reference loop"
    if mode == "instructions":
        unit = "own instructions, then calls out of the module"
    print(f"{key}\n{unit}, per unit, baseline and now; tolerance {tolerance:.0%}")
    bad = verdict(measured, known, tolerance)
    if bad and mode == "time" and not args.update:
        print("once more, to be sure")
        again = measure(args.only)
        measured = {name: min(value, again[name]) for name, value in measured.items()}
        bad = verdict(measured, known, tolerance)
    if args.update:
        kept = {n: v for n, v in baselines.get(key, {}).items() if not re.search(args.only, n)}
        baselines[key] = dict(sorted((kept | measured).items()))
        BASELINE.write_text(json.dumps(baselines, indent=1, sort_keys=True) + "\n")
        print(f"wrote {BASELINE.name}")
        return 0
    if bad:
        print(f"{len(bad)} of {len(measured)} cases failed: {', '.join(bad)}")
    return 1 if bad else 0


if __name__ == "__main__":
    if importlib.util.find_spec("iroh_fast") is None:  # not installed: this tree, built in place
        sys.path.insert(0, str(Path(__file__).parent.parent / "src"))
    try:
        sys.exit(main())
    except Impossible as reason:
        print(reason, file=sys.stderr)
        sys.exit(2)
