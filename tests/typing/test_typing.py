"""The public API as type checkers see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_public_api_types() -> None:
    pytest.importorskip("mypy", reason="needs the lint extra")
    result = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"),
            *("--config-file", str(ROOT / "pyproject.toml")),
            str(Path(__file__).with_name("api_cases.py")),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=170,
    )
    assert result.returncode == 0, result.stdout + result.stderr
