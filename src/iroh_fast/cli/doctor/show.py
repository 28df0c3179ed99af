"""How the doctor speaks: in lines for people, or in JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import Any

from ...errors import printable

__all__ = ["Failed", "Out", "milliseconds", "rate"]


class Failed(Exception):
    """What was asked for does not work; the text says what."""


class Out:
    """Where the doctor speaks.

    Parameters
    ----------
    as_json : one object in each line, which has at least ``"event"``.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def tell(self, event: str, text: str | list[str], **facts: Any) -> None:
        """Tell something: `text` to people, the name of the event and its facts to programs."""
        if self.as_json:
            print(json.dumps({"event": event, **facts}, default=str), flush=True)
            return
        for line in [text] if isinstance(text, str) else text:
            print(_shown(line), flush=True)


def _shown(line: str) -> str:
    """A line without what a terminal would obey, in letters that the output has."""
    encoding = sys.stdout.encoding or "ascii"
    return printable(line).translate(_PLAIN if "utf" not in encoding.lower() else {})


_PLAIN = str.maketrans({"─": "-", "│": "|", "┌": "+", "┐": "+", "└": "+", "┘": "+", "▶": ">"})


def milliseconds(seconds: float | None) -> str:
    """A short time, for people."""
    return "no answer" if seconds is None else f"{seconds * 1e3:.1f} ms"


def rate(size: int, seconds: float) -> str:
    """A speed, for people."""
    return f"{size / max(seconds, 1e-9) / 1e6:,.1f} MB/s"
