"""``iroh-fast relay``: run a relay server."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .serving import run_server, serve_until_asked

if TYPE_CHECKING:
    from ..relay.server.config import RelayServerConfig

EXTRA = "the relay server needs further packages: pip install 'iroh-fast[relay]'"
EPILOG = (
    "SIGHUP reads file and certificate again, SIGTERM and SIGINT stop. IROH_FAST_LOG=DEBUG, INFO, "
    "WARNING or ERROR in the environment chooses what is logged. The file is described at "
    "https://github.com/iroh-fast/iroh-fast/blob/main/docs/relay.md"
)
LOGGER = "iroh_fast.relay.server"
PACKAGES = ("aiohttp", "blake3", "httptools", "msgspec", "prometheus_client")


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
        help="TOML file of settings, of the format of iroh's relay",
    )
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="read the file, say what is wrong with it or that it is right, and end",
    )


def read_config(path: Path | None, *, dev: bool = False) -> RelayServerConfig:
    """The settings in a file; those for no file at all when `path` is None.

    Raises
    ------
    ConfigError
        The file cannot be read, or something in it is wrong; the text names it.
    """
    from ..relay.server.config import RelayServerConfig
    from ..web.toml_file import read_text

    if path is None:
        return RelayServerConfig.from_toml("", dev=dev)
    text = read_text(path)
    try:
        return RelayServerConfig.from_toml(text, dev=dev)
    except ConfigError as err:
        raise ConfigError(f"{path}: {err}") from err


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until a signal."""
    from ..relay.server.server import RelayServer

    path, dev = arguments.config_path, arguments.dev
    log = logging.getLogger(LOGGER)
    server = RelayServer(read_config(path, dev=dev))

    def reload() -> None:
        try:
            server.reload(read_config(path, dev=dev))
        except ConfigError as err:
            log.error("settings stay as they are: %s", err)

    def ready() -> None:
        if server.config.enable_relay:
            log.info("relay ready at %s", server.url)

    await serve_until_asked(server, log, ready=ready, reload=reload)


def check(arguments: argparse.Namespace) -> int:
    """Tell whether a file is right; returns the exit status."""
    path = arguments.config_path
    config = read_config(path, dev=arguments.dev)
    config.check()
    if config.tls is not None and config.tls.cert_mode in ("Manual", "Reloading"):
        config.tls.source().check()
    name = "the default settings" if path is None else str(path)
    print(f"{name}: right; access: {type(config.access).__name__}")
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run until a signal; returns the exit status."""
    return run_server(
        arguments, logger=LOGGER, packages=PACKAGES, extra=EXTRA, check=check, serve=serve
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command by itself."""
    parser = argparse.ArgumentParser(prog="iroh-fast relay", description=__doc__, epilog=EPILOG)
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
