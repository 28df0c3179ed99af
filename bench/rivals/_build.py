"""Compile the benchmarks' own small sources on demand, next to nothing of the project."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

import iroh_fast

CACHE = Path(__file__).parent.parent / "results" / "build"


def load_pyx(source: Path) -> ModuleType:
    """Import a .pyx of this folder, built anew when it or the library is newer."""
    name = source.stem
    package = Path(iroh_fast.__file__).parent
    target = CACHE / (name + sysconfig.get_config_var("EXT_SUFFIX"))
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # server and client start at the same time
        inputs = [source, *package.rglob("*.pxd")]
        if not target.exists() or target.stat().st_mtime < max(p.stat().st_mtime for p in inputs):
            build(source, package.parent, target)
    spec = importlib.util.spec_from_file_location(name, target)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(source: Path, include: Path, target: Path) -> None:
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        copy = shutil.copy(source, folder)
        modules = cythonize(
            [Extension(source.stem, [copy], extra_compile_args=["-O3"])],
            include_path=[str(include)],
            quiet=True,
        )
        command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
        command.build_lib = command.build_temp = folder
        command.ensure_finalized()
        command.run()
        shutil.move(command.get_ext_fullpath(source.stem), target)
