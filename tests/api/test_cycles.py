"""Endpoints that come and go leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "cycles.py"


def test_cycles_of_bind_connect_and_close_leave_nothing() -> None:
    """Two hundred on each event loop, in a process of their own; the nightly run does a thousand."""
    result = subprocess.run(
        [sys.executable, str(BENCH), "--cycles", "200"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "asyncio  200 cycles: +0 descriptors" in result.stdout
