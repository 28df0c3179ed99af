"""Running a server as a program: loop, log and signals."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from ..aio.once import Once
from ..errors import ConfigError

__all__ = [
    "ignore_signals",
    "log_to_stderr",
    "on_hangup",
    "run_on_best_loop",
    "until_asked_to_stop",
]


def log_to_stderr(variable: str = "IROH_FAST_LOG") -> None:
    """Write the log to stderr, from the level on that the environment names.

    Raises
    ------
    ConfigError
        It names no level.
    """
    level = os.environ.get(variable, "INFO").upper()
    if not isinstance(logging.getLevelName(level), int):
        raise ConfigError(f"${variable} is DEBUG, INFO, WARNING or ERROR, not {level[:40]!r}")
    logging.basicConfig(
        stream=sys.stderr,
        level=level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


def run_on_best_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def on_hangup(callback: Callable[[], None]) -> None:
    """Have `callback` called at SIGHUP, where the system has that."""
    if hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, callback)


def ignore_signals() -> None:
    """The program has stopped in good order: what comes now must not make it look killed.

    Loops give signals back to the system when they are closed, so these are blocked.
    """
    if hasattr(signal, "pthread_sigmask"):
        stopping = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_BLOCK, stopping)


async def until_asked_to_stop(served: Coroutine[Any, Any, None]) -> None:
    """Wait for SIGINT or SIGTERM, or for the end of `served`, which may raise."""
    loop = asyncio.get_running_loop()
    stop = Once()
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    except NotImplementedError:  # Windows: Ctrl-C raises KeyboardInterrupt
        pass
    ended = asyncio.ensure_future(served)
    asked = asyncio.ensure_future(stop.wait())
    await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if ended.done():
        ended.result()
    else:
        ended.cancel()
