"""Cost per call of congestion control, pacing and MTU bookkeeping, as a compiled caller sees it.

The loops are compiled at run time against the installed ``.pxd`` (needs a C compiler), so that
no Python call is part of the number. Run: ``python bench/bench_congestion.py [rounds]``.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import Cython
from Cython.Build import cythonize
from setuptools import Distribution, Extension

import iroh_fast

CALLS = 2_000_000

PRELUDE = """
# cython: language_level=3, cdivision=True
from libc.stdint cimport uint64_t, int64_t
from iroh_fast.quic._controllers cimport *
from iroh_fast.quic._controller cimport Acked, Congestion, Lost
from iroh_fast.quic._mtud cimport *
from iroh_fast.quic._pacer cimport *
from iroh_fast.quic._rtt cimport *
from time import perf_counter_ns
"""

PRELUDE += """
cdef inline void ack(Congestion* c, int64_t now, uint64_t size, Rtt* rtt) noexcept nogil:
    cdef Acked acked
    acked.now = now
    acked.sent_at = now - 1
    acked.size = acked.fresh = size
    acked.in_flight = 0
    acked.app_limited = False
    acked.rtt = rtt
    cc_on_acked(c, &acked)

cdef void lose(Congestion* c, int64_t now) noexcept nogil:
    cdef Lost lost
    lost.now = now
    lost.sent_at = now - 1
    lost.size = 1452
    lost.in_flight = 0
    lost.persistent = False
    cc_on_lost(c, &lost)
"""

FUNCTION = """
def case_{number}():
    cdef Congestion c
    cdef Rtt rtt
    cdef Pacer p
    cdef Mtud m
    cdef int64_t i, sink = 0
    rtt_init(&rtt, 333000000)
    rtt_sample(&rtt, 0, 0, 20000000)
    {setup}
    t0 = perf_counter_ns()
    with nogil:
        for i in range({calls}):
            {body}
    return (perf_counter_ns() - t0) / {calls}, sink
"""

AVOIDANCE = "cc_init(&c, {kind}, 1452, 0); ack(&c, 2, 1000000, &rtt); lose(&c, 3)"

# name -> (set-up, loop body); time moves on by about one packet of 1 Gbit/s per call
CASES = {
    "cc_on_acked[slow-start]": ("cc_init(&c, CC_CUBIC, 1452, 0)", "ack(&c, i, 1452, &rtt)"),
    "cc_on_acked[cubic]": (
        AVOIDANCE.format(kind="CC_CUBIC"),
        "ack(&c, 10 + i * 12000, 1452, &rtt)",
    ),
    "cc_on_acked[cubic-32-packets]": (
        AVOIDANCE.format(kind="CC_CUBIC"),
        "ack(&c, 10 + i * 384000, 46464, &rtt)",
    ),
    "cc_on_acked[new-reno]": (
        AVOIDANCE.format(kind="CC_NEW_RENO"),
        "ack(&c, 10 + i * 12000, 1452, &rtt)",
    ),
    "pacer_delay[tokens-left]": (
        "pacer_init(&p, 0)",
        "sink += pacer_delay(&p, 1, 1452, 0.0625, 1452, 0)",
    ),
    "pacer_delay[send-and-refill]": (
        "pacer_init(&p, 0)",
        "sink += pacer_delay(&p, i * 12000, 1452, 0.0625, 1452, 0); pacer_on_sent(&p, 1452)",
    ),
    "pacer_delay[rate-changes]": (
        "pacer_init(&p, 0)",
        "sink += pacer_delay(&p, i * 12000, 1452, 0.0625 + i * 1e-9, 1452, 0)",
    ),
    "rtt_sample": ("", "rtt_sample(&rtt, i, 1000, 20000000 + (i & 1023))"),
    "mtud_on_acked[bulk]": (
        "mtud_init(&m, 1452, 1200, 1452, 1, 1, 20, True)",
        "sink += mtud_on_acked(&m, i, i, 1452)",
    ),
    "mtud_on_acked[mixed-sizes]": (
        "mtud_init(&m, 1452, 1200, 1452, 1, 1, 20, True)",
        "sink += mtud_on_acked(&m, i, i, 1200 + (i * 37 & 255))",
    ),
}


def build(folder: Path) -> ModuleType:
    """Compile all loops into one extension in `folder` and import it."""
    source = PRELUDE.lstrip()
    for number, (setup, body) in enumerate(CASES.values()):
        source += FUNCTION.format(number=number, setup=setup or "pass", body=body, calls=CALLS)
    (folder / "congestion_loops.pyx").write_text(source)
    extension = Extension(
        "congestion_loops", [str(folder / "congestion_loops.pyx")], extra_compile_args=["-O3"]
    )
    include = str(Path(iroh_fast.__file__).parent.parent)
    modules = cythonize([extension], include_path=[include], quiet=True)
    command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = command.build_temp = str(folder)
    command.ensure_finalized()
    command.run()
    spec = importlib.util.spec_from_file_location(
        "congestion_loops", command.get_ext_fullpath("congestion_loops")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        loops = build(Path(folder))
    print(
        f"{platform.machine()}, Python {platform.python_version()}, Cython {Cython.__version__}, best of {rounds}"
    )
    for number, name in enumerate(CASES):
        best = min(getattr(loops, f"case_{number}")()[0] for _ in range(rounds))
        print(f"{name:34} {best:8.2f} ns")


if __name__ == "__main__":
    main()
