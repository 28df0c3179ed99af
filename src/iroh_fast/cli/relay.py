"""``iroh-fast relay``: run a relay server."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import BindError, ConfigError

if TYPE_CHECKING:
    from ..relay.server.config import RelayServerConfig

EXTRA = "the relay server needs further packages: pip install 'iroh-fast[relay]'"
EPILOG = (
    "SIGHUP reads file and certificate again, SIGTERM and SIGINT stop. IROH_FAST_LOG=DEBUG, INFO, "
    "WARNING or ERROR in the environment chooses what is logged. The file is described at "
    "https://github.com/iroh-fast/iroh-fast/blob/main/docs/relay.md"
)
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

    if path is None:
        return RelayServerConfig.from_toml("", dev=dev)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        reason = getattr(err, "strerror", None) or str(err)
        raise ConfigError(f"cannot read the configuration file {path}: {reason}") from err
    try:
        return RelayServerConfig.from_toml(text, dev=dev)
    except ConfigError as err:
        raise ConfigError(f"{path}: {err}") from err


async def _serve(path: Path | None, dev: bool) -> None:
    from ..relay.server.server import RelayServer
    from ..web.run import ignore_signals, on_hangup, until_asked_to_stop

    log = logging.getLogger("iroh_fast.relay.server")
    server = RelayServer(read_config(path, dev=dev))

    def reload() -> None:
        try:
            server.reload(read_config(path, dev=dev))
        except ConfigError as err:
            log.error("settings stay as they are: %s", err)

    async def serve() -> None:
        if server.config.enable_relay:
            log.info("relay ready at %s", server.url)
        # What start-up made stays; later collections need not look at it.
        gc.collect()
        gc.freeze()
        await server.wait_stopped()

    on_hangup(lambda: None)  # nothing to read again yet
    await server.start()
    try:
        on_hangup(reload)
        await until_asked_to_stop(serve())
        log.info("stopping")
    finally:
        await server.stop()
        ignore_signals()


def check(path: Path | None, *, dev: bool) -> int:
    """Tell whether a file is right; returns the exit status."""
    config = read_config(path, dev=dev)
    config.check()
    if config.tls is not None and config.tls.cert_mode in ("Manual", "Reloading"):
        from ..web.tls_files import CertificateFiles, server_context

        tls = config.tls
        CertificateFiles(server_context(), tls.certificate, tls.private_key).load()
    name = "the default settings" if path is None else str(path)
    print(f"{name}: right; access: {type(config.access).__name__}")
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run until a signal; returns the exit status."""
    from ..web.limits import raise_descriptor_limit
    from ..web.run import log_to_stderr, run_on_best_loop

    log = logging.getLogger("iroh_fast.relay.server")
    try:
        log_to_stderr()
    except ConfigError as err:
        print(err, file=sys.stderr)
        return 2
    # Some are loaded only when they are needed: find out now that one is missing.
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        log.error("%s (missing: %s)", EXTRA, ", ".join(missing))
        return 1
    try:
        if arguments.check_config:
            return check(arguments.config_path, dev=arguments.dev)
        log.info("iroh_fast %s; up to %d open files", __version__, raise_descriptor_limit())
        run_on_best_loop(_serve(arguments.config_path, arguments.dev))
    except (ConfigError, BindError) as err:
        log.error("%s", err)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command by itself."""
    parser = argparse.ArgumentParser(prog="iroh-fast relay", description=__doc__, epilog=EPILOG)
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
