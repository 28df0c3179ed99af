"""The seam between those who dial hosts and whoever finds their addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Names"]


class Names(Protocol):
    """Whoever finds the addresses of hosts: a :class:`DnsResolver`."""

    async def lookup(self, host: str, family: int, /) -> Sequence[str]:
        """The IP addresses of a host in one family, as text; OSError when there are none."""
        ...
