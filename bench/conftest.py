"""Benches run in one process: pytest-benchmark measures nothing beside others."""

from __future__ import annotations

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """No workers, whatever the settings of the test suite say."""
    return 0
