"""What the commands that run a server share."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from collections.abc import Callable, Coroutine, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from .. import __version__
from ..errors import BindError, ConfigError, PacketStoreError

__all__ = ["run_server", "serve_until_asked"]


def _keep_garbage_small() -> None:
    """What start-up made stays; later collections need not look at it."""
    gc.collect()
    gc.freeze()


class Server(Protocol):
    """A server that a command runs."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def wait_stopped(self) -> None: ...


async def serve_until_asked(
    server: Server,
    log: logging.Logger,
    *,
    ready: Callable[[], object],
    reload: Callable[[], None],
) -> None:
    """Start a server, tell when it is ready, and stop it at a signal; SIGHUP reloads."""
    from ..web.run import ignore_signals, on_hangup, until_asked_to_stop

    async def stopped() -> None:
        ready()
        _keep_garbage_small()
        await server.wait_stopped()

    on_hangup(lambda: None)  # nothing to read again yet
    await server.start()
    try:
        on_hangup(reload)
        await until_asked_to_stop(stopped())
        log.info("stopping")
    finally:
        await server.stop()
        ignore_signals()


def run_server(
    arguments: argparse.Namespace,
    *,
    logger: str,
    packages: Sequence[str],
    extra: str,
    check: Callable[[argparse.Namespace], int],
    serve: Callable[[argparse.Namespace], Coroutine[Any, Any, None]],
) -> int:
    """Run until a signal, or check the settings; returns the exit status.

    Parameters
    ----------
    logger : str
        Name of the server's.
    packages, extra : list of str and str
        What must be installed, and what to do about it.
    check : callable
        Does what ``--check-config`` asks for.
    serve : callable
        Serves until it is asked to stop.
    """
    from ..web.limits import raise_descriptor_limit
    from ..web.run import log_to_stderr, run_on_best_loop

    log = logging.getLogger(logger)
    try:
        log_to_stderr()
    except ConfigError as err:
        print(err, file=sys.stderr)
        return 2
    # Some are loaded only when they are needed: find out now that one is missing.
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        log.error("%s (missing: %s)", extra, ", ".join(missing))
        return 1
    try:
        if arguments.check_config:
            return check(arguments)
        log.info("iroh_fast %s; up to %d open files", __version__, raise_descriptor_limit())
        run_on_best_loop(serve(arguments))
    except (ConfigError, BindError, PacketStoreError) as err:
        log.error("%s", err)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
