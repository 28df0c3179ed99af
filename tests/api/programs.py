"""What programs that tests start write."""

from __future__ import annotations

import re


def complaints(stderr: str) -> str:
    """All of it but how slow the machine is, which asyncio's debug mode tells."""
    lines = stderr.splitlines(keepends=True)
    return "".join(line for line in lines if not re.match(r"Executing <.* took \S+ seconds$", line))
