"""Modules that load when something of them is first asked for."""

from __future__ import annotations

import sys
import types
import typing

import pytest

from iroh_fast._later import Later

NAME = "iroh_fast_test_of_later"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = types.ModuleType(NAME)
    made.Number = int  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, NAME, made)
    return made


def test_names_are_those_of_the_module_and_stay(module: types.ModuleType) -> None:
    later = Later(NAME)
    assert later.Number is int
    del module.Number
    assert later.Number is int
    with pytest.raises(AttributeError, match="nothing"):
        _ = later.nothing


def test_looking_at_it_loads_nothing() -> None:
    later = Later("iroh_fast_no_such_module")
    assert repr(later) == "<Later iroh_fast_no_such_module>"
    assert not hasattr(later, "__wrapped__")
    with pytest.raises(ModuleNotFoundError):
        _ = later.Number


def test_annotations_can_name_what_is_in_it(module: types.ModuleType) -> None:
    def function(value: object) -> None: ...

    function.__annotations__["value"] = "list[later.Number]"
    hints = typing.get_type_hints(function, {"later": Later(NAME)})
    assert hints["value"] == list[int]
