"""The package itself: lazy names, versions, typing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from programs import complaints

import iroh_fast

ROOT = Path(__file__).resolve().parents[2]


def test_every_public_name_can_be_loaded() -> None:
    for name in iroh_fast.__all__:
        assert getattr(iroh_fast, name) is not None
    assert set(iroh_fast.__all__) <= set(dir(iroh_fast))
    assert sorted(iroh_fast.__all__) == list(iroh_fast.__all__)
    assert set(iroh_fast._MODULE_OF) < set(iroh_fast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        iroh_fast.nothing  # noqa: B018


def test_import_alone_loads_nothing_heavy() -> None:
    code = (
        "import sys, iroh_fast; print(*sorted(name for name in sys.modules if name in "
        "{'asyncio', 'cryptography', 'aioquic', 'nacl', 'psutil', 'typing', 'ssl', 'dataclasses'}"
        " or name.startswith('iroh_fast.')))"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert complaints(result.stderr) == ""
    assert result.stdout.strip() == ""


def test_version_is_the_one_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project.get("version", iroh_fast.__version__) == iroh_fast.__version__


def test_build_info_tells_the_version_and_backends() -> None:
    info = iroh_fast.build_info()
    assert info["version"] == iroh_fast.__version__
    assert info["crypto"]["libraries"]["openssl"].startswith("OpenSSL")
    assert info["build"]["compiler"]
