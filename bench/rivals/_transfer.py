"""What the ends of a transfer over an emulated link share: when bytes arrived, what it cost.

Beside ``start``, see ``_child.py``, the receiver, which is the server, understands::

    {"do": "arrivals"}                  -> {"ok": {"arrivals": [[ms, bytes], ...], "cpu_s": ...}}

and the sender, which is the client::

    {"do": "upload", "seconds": 5.0}    -> {"ok": {"started": ..., "sent": ..., "again": ...,
                                                   "cpu_s": ...}}

Times are those of the system's monotonic clock, the same in all processes of a machine.  A sender
notes the time, connects, and writes until its seconds are over; then it reports how many units
(packets or bytes) it sent, and how many of them for another time.  It waits for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

TRANSFER = b"bench/transfer"
WRITE = bytes(1 << 18)


class Receiver:
    """Counts bytes by the millisecond at which the application got them."""

    def __init__(self) -> None:
        self._per_ms: Counter[int] = Counter()
        self._cpu = time.process_time()

    def ready(self) -> None:
        """All is loaded: what is spent from now on belongs to the transfer."""
        self._cpu = time.process_time()

    def add(self, size: int) -> None:
        self._per_ms[int(time.monotonic() * 1e3)] += size

    async def arrivals(self) -> dict[str, Any]:
        cpu = time.process_time() - self._cpu
        return {"arrivals": sorted(self._per_ms.items()), "cpu_s": cpu}


class Upload:
    """Seconds of writing, counted from the moment before the connection is dialed."""

    def __init__(self, seconds: float) -> None:
        self.started = time.monotonic()
        self._cpu = time.process_time()
        self._end = asyncio.get_running_loop().time() + seconds

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work, which never ends by itself, until the seconds are over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._end):
                await work()

    async def into_stream(self, connect: Callable[[], Awaitable[Any]]) -> Any:
        """Write into one stream of a connection until the seconds are over; the connection, or None."""
        conn = None

        async def work() -> None:
            nonlocal conn
            conn = await connect()
            stream = await conn.open_uni()
            while True:
                await stream.write_all(WRITE)

        await self.run(work)
        return conn

    def report(self, sent: int, again: int) -> dict[str, Any]:
        cpu = time.process_time() - self._cpu
        return {"started": self.started, "sent": sent, "again": again, "cpu_s": cpu}
