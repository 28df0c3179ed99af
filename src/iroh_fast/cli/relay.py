"""``python -m iroh_fast relay``: run a relay server."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..errors import BindError, ConfigError

EXTRA = "the relay server needs further packages: pip install 'iroh-fast[relay]'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--dev",
        action="store_true",
        help="plain HTTP on port 3340 unless the file names an address: nothing to set up",
    )
    parser.add_argument(
        "-c",
        "--config-path",
        type=Path,
        metavar="FILE",
        help="TOML file; one that does not exist means defaults (docs/relay.md describes it)",
    )


def read_config(path: Path | None) -> str:
    """The text of the file, empty when there is none.

    Raises
    ------
    ConfigError
        It exists and cannot be read.
    """
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"cannot read {path}: {err}") from err


async def _serve(text: str, dev: bool) -> None:
    from ..relay import RelayServer, RelayServerConfig

    log = logging.getLogger("iroh_fast.relay")
    server = RelayServer(RelayServerConfig.from_toml(text, dev=dev))
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    await server.start()
    try:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop.set)
            if hasattr(signal, "SIGHUP"):
                loop.add_signal_handler(signal.SIGHUP, server.reload_certificates)
        except NotImplementedError:  # Windows: Ctrl-C raises KeyboardInterrupt
            pass
        for name, (host, port) in server.addresses.items():
            log.info("%s on %s port %d", name, host, port)
        if server.config.enable_relay:
            log.info("relay ready at %s", server.url)
        # What start-up made stays; later collections need not look at it.
        gc.collect()
        gc.freeze()
        stopped = asyncio.ensure_future(server.wait_stopped())
        asked = asyncio.ensure_future(stop.wait())
        await asyncio.wait({stopped, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if stopped.done():
            stopped.result()
        else:
            log.info("stopping")
            await server.stop()
            await stopped
    finally:
        await server.stop()


def run(arguments: argparse.Namespace) -> int:
    """Run until a signal; returns the exit status."""
    logging.basicConfig(
        stream=sys.stderr,
        level=os.environ.get("IROH_FAST_LOG", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    log = logging.getLogger("iroh_fast.relay")
    try:
        import aiohttp  # noqa: F401
        import blake3  # noqa: F401
        import httptools  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError as err:
        log.error("%s (%s)", EXTRA, err)
        return 1
    runner = asyncio.run
    try:
        import uvloop

        runner = uvloop.run
    except ImportError:
        pass
    try:
        log.info("iroh_fast %s", __version__)
        runner(_serve(read_config(arguments.config_path), arguments.dev))
    except (ConfigError, BindError) as err:
        log.error("%s", err)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command by itself."""
    parser = argparse.ArgumentParser(prog="python -m iroh_fast relay", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))
