"""Extension list and build switches; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
SRC = ROOT / "src"


def flag(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


DEBUG = flag("IROH_FAST_DEBUG")
TRACE = flag("IROH_FAST_TRACE")
ANNOTATE = flag("IROH_FAST_ANNOTATE")
SANITIZE = os.environ.get("IROH_FAST_SANITIZE", "")
ONLY = os.environ.get("IROH_FAST_ONLY", "")

compile_args = ["-O0", "-g"] if DEBUG else ["-O3", "-g1"]
compile_args += ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"]
link_args: list[str] = []
if SANITIZE:
    compile_args += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g"]
    link_args += [f"-fsanitize={SANITIZE}"]
macros: list[tuple[str, str | None]] = []
if not DEBUG:
    macros.append(("CYTHON_WITHOUT_ASSERTIONS", "1"))
if TRACE:
    macros += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]

LIBRARIES = {"iroh_fast._crypto": ["crypto"]}


def extensions() -> list[Extension]:
    found = []
    for pyx in sorted(SRC.rglob("*.pyx")):
        name = ".".join(pyx.relative_to(SRC).with_suffix("").parts)
        if ONLY and name.removeprefix("iroh_fast.") not in ONLY.split(","):
            continue
        found.append(
            Extension(
                name,
                [str(pyx.relative_to(ROOT))],
                libraries=LIBRARIES.get(name, []),
                define_macros=macros,
                extra_compile_args=compile_args,
                extra_link_args=link_args,
            )
        )
    return found


setup(
    ext_modules=cythonize(
        extensions(),
        include_path=["src"],
        annotate=ANNOTATE,
        compiler_directives={
            "language_level": 3,
            "embedsignature": True,
            "binding": True,
            "freethreading_compatible": True,
            "linetrace": TRACE,
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": not DEBUG,
            "initializedcheck": DEBUG,
        },
    )
)
