"""The same call several times, the first success counts."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from ...aio.once import seen
from ...errors import DnsStaggered, IrohError

__all__ = ["DNS_STAGGER_S", "staggered"]

T = TypeVar("T")

DNS_STAGGER_S: Final = (0.2, 0.3, 0.6, 1.0, 2.0, 3.0)
"""When the calls of a lookup begin, besides the first one at once (iroh's)."""
JITTER: Final = 0.2


async def _first(
    tasks: set[asyncio.Future[T]], wait_s: float | None
) -> tuple[set[asyncio.Future[T]], set[asyncio.Future[T]]]:
    """Wait for the first of some tasks, or until it is time: those that are done, and the others."""
    if wait_s is not None and wait_s <= 0:
        return set(), tasks
    if tasks:
        return await asyncio.wait(tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(wait_s or 0)
    return set(), tasks


async def staggered(
    call: Callable[[], Awaitable[T]],
    delays: Sequence[float],
    *,
    what: str = "",
    uniform: Callable[[], float] = random.random,
) -> T:
    """Call now and after each delay, until one succeeds; that one ends all others.

    A call that fails ends none: what does not exist now may exist in a second.

    Parameters
    ----------
    delays : seconds from now; each is changed by up to a fifth, so that many do not ask at once.
    what : named in the error.

    Raises
    ------
    DnsStaggered : all calls failed.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()
    starts = deque(sorted(begun + d * (1 - JITTER + 2 * JITTER * uniform()) for d in delays))
    waiting: set[asyncio.Future[T]] = {asyncio.ensure_future(call(), loop=loop)}
    errors: list[IrohError] = []
    try:
        while waiting or starts:
            done, waiting = await _first(waiting, starts[0] - loop.time() if starts else None)
            for task in done:
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, IrohError):
                    raise error
                errors.append(error)
            while starts and starts[0] <= loop.time():
                starts.popleft()
                waiting.add(asyncio.ensure_future(call(), loop=loop))
    finally:
        for task in waiting:
            task.cancel()
            task.add_done_callback(seen)
    text = "; ".join(dict.fromkeys(str(error) for error in errors))
    if what not in text:
        text = f"{what}: {text}"
    raise DnsStaggered(f"{text} ({len(errors)} calls)", host=what, errors=errors)
