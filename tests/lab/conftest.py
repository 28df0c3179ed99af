"""The emulated links are compiled by builds in place; the tests of this folder are about them."""

from __future__ import annotations

import importlib.util

BUILT = importlib.util.find_spec("tests.lab._link") is not None
collect_ignore_glob = [] if BUILT else ["test_*.py"]


def pytest_report_header() -> str | None:
    if BUILT:
        return None
    return "lab: left out, not built: python setup.py build_ext --inplace"
