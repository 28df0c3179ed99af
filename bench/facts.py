"""What belongs beside every number: the machine, the versions, and how numbers are written."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.partition("\n")[0]


def read_text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def machine() -> dict[str, Any]:
    models = [
        line.partition(":")[2].strip()
        for line in read_text("/proc/cpuinfo").splitlines()
        if "model name" in line
    ]
    commit = first_line(["git", "rev-parse", "--short", "HEAD"])
    if commit and first_line(["git", "status", "--porcelain", "--untracked-files=no", "src"]):
        commit += "+changes"
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "rmem_max": int(read_text("/proc/sys/net/core/rmem_max") or 0) or None,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "commit": commit or None,
    }


def loop_version(loop: str) -> str:
    if loop == "asyncio":
        return "asyncio"
    try:
        return f"uvloop {version('uvloop')}"
    except PackageNotFoundError:  # then all children have failed
        return "uvloop"


def number(value: float) -> str:
    """Three significant digits, thousands separated."""
    if abs(value) >= 100:
        digits = len(str(int(abs(value)))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def chosen(text: str, known: list[str], what: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if wrong := [name for name in names if name not in known]:
        raise SystemExit(f"no such {what}: {', '.join(wrong)}; there are {', '.join(known)}")
    return names
