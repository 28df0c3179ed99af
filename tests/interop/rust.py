"""Programs in Rust as peers: where they are, and one as a child process that talks in JSON lines.

`tools/build_peers.sh` builds them once and keeps them in the user's cache.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.lab.namespaces import Namespace


def place() -> Path:
    """The folder that `tools/build_peers.sh` fills."""
    named = os.environ.get("IROH_FAST_PEERS")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(cache) / "iroh_fast" / "peers"


def program(name: str) -> str:
    """The path of a program; the test that asks is skipped where it was not built."""
    path = place() / "bin" / name
    if not os.access(path, os.X_OK):
        pytest.skip(f"no {name}: bash tools/build_peers.sh builds it where cargo is installed")
    return str(path)


class RustPeer:
    """`peer …` as a child process, on the network of a lab where one is given; ends with the block."""

    def __init__(self, *args: str, network: Namespace | None = None) -> None:
        command = (program("peer"), *args)
        self._args = command if network is None else tuple(network.command(command))
        self.seen: list[dict[str, Any]] = []

    async def __aenter__(self) -> RustPeer:
        self._process = await asyncio.create_subprocess_exec(
            *self._args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def event(self, name: str, **facts: Any) -> dict[str, Any]:
        """The next event of that name with these facts; AssertionError when the peer ends before."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            event: dict[str, Any] = json.loads(line)
            self.seen.append(event)
            if event["event"] == name and facts.items() <= event.items():
                return event
        raise AssertionError(f"no {name} {facts} among {self.seen}")

    async def ended(self) -> int:
        """Read what is left, and the exit status."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.seen.append(json.loads(line))
        return await self._process.wait()
