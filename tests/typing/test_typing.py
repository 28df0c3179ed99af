"""The public API as type checkers see it."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import iroh_fast

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


def test_examples_and_cases_are_clean_for_pyright(tmp_path: Path) -> None:
    """Strict for the examples, which are what users copy."""
    pytest.importorskip("pyright", reason="needs the lint extra")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(Path(__file__).with_name("api_cases.py"), tmp_path)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    program, *_ = re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S)
    (tmp_path / "examples" / "readme.py").write_text(program)
    config = {
        "include": ["examples", "api_cases.py"],
        "strict": ["examples"],
        "extraPaths": [str(ROOT / "src")],
        # The cases hold mistakes on purpose, marked for mypy.
        "enableTypeIgnoreComments": True,
        "reportMissingModuleSource": False,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    result = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert result.returncode == 0, result.stdout + result.stderr


PUBLIC = (iroh_fast, iroh_fast.errors, iroh_fast.presets, iroh_fast.relay)


def callables() -> Iterator[tuple[str, Any]]:
    """All public functions and classes, and what is public in those."""
    for module in PUBLIC:
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value
            elif inspect.isclass(value):
                yield f"{module.__name__}.{name}", value
                own = [base for base in value.__mro__ if base.__module__.startswith("iroh_fast")]
                members = {inner: one for base in own[::-1] for inner, one in vars(base).items()}
                if issubclass(value, tuple):
                    members.pop("__new__", None)  # made by typing.NamedTuple
                for inner, member in members.items():
                    if isinstance(member, property):
                        member = member.fget
                    elif isinstance(member, (classmethod, staticmethod)):
                        member = member.__func__
                    if inspect.isfunction(member):
                        yield f"{module.__name__}.{name}.{inner}", member


def test_type_hints_of_everything_public_can_be_read() -> None:
    found = dict(callables())
    assert len(found) > 800
    failed = {}
    for name, value in found.items():
        try:
            typing.get_type_hints(value)
        except Exception as error:
            failed[name] = repr(error)
    assert failed == {}


def test_everything_public_has_a_docstring() -> None:
    missing = [
        name
        for name, value in callables()
        if not name.rpartition(".")[2].startswith("_") and not inspect.getdoc(value)
    ]
    assert missing == []
