"""``python bench/mdns.py`` runs, and finds what it measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import missing

BENCH = Path(__file__).parents[2] / "bench"

pytestmark = pytest.mark.lab


def test_mdns_bench_measures_nodes_that_appear_and_idle_ones(tmp_path: Path) -> None:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, str(BENCH / "mdns.py"), "--trials", "2", "--nodes", "3", "--seconds", "1",
         "--json", str(tmp_path / "mdns.json")],
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "mdns.json").read_text())
    assert len(found["appear_ms"]["iroh_fast by iroh_fast"]) == 2
    assert found["idle"]["iroh_fast"]["packets_s"] > 0
