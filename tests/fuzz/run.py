"""Fuzz parsers and connections for a while.

    python tests/fuzz/run.py --seconds 60 --target packet
    python tests/fuzz/run.py --seconds 600 --target all --seed 12345
    python tests/fuzz/run.py --seconds 1800 --together
    python tests/fuzz/run.py --target tls --replay build/fuzz/tls-1-815.bin

A seed and a target give the same inputs in every run and on every machine.  Inputs run in a
child process, so that a crash, a hang or a leak in compiled code is noticed and its input
saved.  The exit status is 0 when nothing was found.

With `atheris` installed, ``--coverage`` guides the mutations by coverage instead; compiled
modules count when they were built by clang with IROH_FAST_SANITIZE=fuzzer-no-link.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "quic")]

from fuzz_mutate import MAX_BYTES, case  # noqa: E402

# Written before each case, read by the parent: how many there were, index, length, input.
NOTE = struct.Struct("=QQI")
FAILED = 3
HANG_S = 120  # a machine may have more to do than this
LEAK_BYTES = 64 << 20


def resident() -> int:
    """Largest resident memory so far in bytes, 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def child(name: str, seed: int, seconds: float, note: mmap.mmap) -> int:
    """Run cases until the time is over; the parent knows the last one by `note`."""
    from fuzz_targets import TARGETS

    faulthandler.enable()
    target = TARGETS[name]
    corpus = target.seeds()
    index = steps = 0

    def run(data: bytes) -> bool:
        nonlocal steps
        steps += 1
        NOTE.pack_into(note, 0, steps, index, len(data))
        note[NOTE.size : NOTE.size + len(data)] = data
        try:
            target.run(data)
        except Exception:
            traceback.print_exc()
            return False
        return True

    for data in corpus:
        if not run(data):
            return FAILED
    start = time.monotonic()
    warm = 0
    while (spent := time.monotonic() - start) < seconds:
        if not warm and spent > seconds / 4:
            warm = resident()
        index += 1
        if not run(case(name, seed, index, corpus)):
            return FAILED
    grown = resident() - warm
    print(
        f"{name}: {index} cases in {spent:.1f} s, seed {seed}, {len(corpus)} starting points, "
        f"memory grew by {grown >> 10} KiB after warming up",
        flush=True,
    )
    # The quarantine of the address sanitizer looks like a leak.
    if warm and grown > LEAK_BYTES and "ASAN_OPTIONS" not in os.environ:
        print(f"{name}: that is a leak", file=sys.stderr)
        return FAILED
    return 0


def watch(name: str, seed: int, seconds: float, folder: Path) -> bool:
    """Run a target in a child; True when nothing was found."""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(NOTE.size + 2 * MAX_BYTES)
        with mmap.mmap(file.fileno(), 0) as note:
            command = [sys.executable, sys.argv[0], "--target", name, "--seed", str(seed)]
            command += ["--seconds", str(seconds), "--child", file.name]
            process = subprocess.Popen(command)
            last, since = -1, time.monotonic()
            problem = ""
            try:
                while process.poll() is None:
                    time.sleep(0.05)
                    steps = NOTE.unpack_from(note, 0)[0]
                    if steps != last:
                        last, since = steps, time.monotonic()
                    elif time.monotonic() - since > HANG_S:
                        problem = f"no progress for {HANG_S} s"
                        process.send_signal(getattr(signal, "SIGABRT", signal.SIGTERM))
                        process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            if process.returncode == 0:
                return True
            _, index, size = NOTE.unpack_from(note, 0)
            data = note[NOTE.size : NOTE.size + size]
    if not problem:
        code = process.returncode
        problem = "failed" if code == FAILED else f"died with status {code}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{seed}-{index}.bin"
    path.write_bytes(data)
    script = os.path.relpath(sys.argv[0])
    print(f"{name}: case {index} of seed {seed} {problem}; {size} bytes saved as {path}")
    print(f"again: {sys.executable} {script} --target {name} --replay {path}", flush=True)
    return False


def replay(name: str, path: Path) -> int:
    from fuzz_targets import TARGETS

    faulthandler.enable()
    TARGETS[name].run(path.read_bytes())
    print(f"{name}: {path} passed")
    return 0


def guided(name: str, seconds: float, folder: Path) -> int:
    """Let atheris, that is libFuzzer, choose the inputs."""
    import atheris

    with atheris.instrument_imports(include=["iroh_fast"]):
        from fuzz_targets import TARGETS

    target = TARGETS[name]
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (folder / f"start-{number}").write_bytes(data)
    options = [f"-max_total_time={int(seconds)}", f"-max_len={MAX_BYTES}", f"-timeout={HANG_S}"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/", str(folder)], target.run)
    atheris.Fuzz()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="all", help="a target or all (default)")
    parser.add_argument("--seconds", type=float, default=60, help="in total (default 60)")
    parser.add_argument(
        "--together", action="store_true", help="all targets at once, each for all of the time"
    )
    parser.add_argument("--seed", default="1", help="a number, or `random` (default 1)")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="for findings")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one saved input")
    parser.add_argument("--coverage", action="store_true", help="guide by coverage with atheris")
    parser.add_argument("--list", action="store_true", help="print the targets")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    seed = random.randrange(2**32) if args.seed == "random" else int(args.seed)

    if args.child:
        logging.disable(logging.WARNING)  # what peers cause; errors are findings
        with open(args.child, "r+b") as file, mmap.mmap(file.fileno(), 0) as note:
            return child(args.target, seed, args.seconds, note)
    if args.coverage:
        return guided(args.target, args.seconds, args.folder)
    from fuzz_targets import TARGETS

    if args.list:
        print("\n".join(TARGETS))
        return 0
    names = list(TARGETS) if args.target == "all" else args.target.split(",")
    for name in names:
        if name not in TARGETS:
            parser.error(f"no target {name!r}; there are {', '.join(TARGETS)}")
    if args.replay:
        return replay(names[0], args.replay)
    if args.together:
        with ThreadPoolExecutor(len(names)) as threads:
            good = list(threads.map(lambda n: watch(n, seed, args.seconds, args.folder), names))
    else:
        good = [watch(name, seed, args.seconds / len(names), args.folder) for name in names]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
