"""``iroh-fast dns-server``: run the server that endpoints are found by."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import ConfigError
from .serving import run_server, serve_until_asked

if TYPE_CHECKING:
    from ..dns_server.config import DnsServerConfig
    from ..dns_server.server import DnsServer

EXTRA = "the DNS server needs further packages: pip install 'iroh-fast[dns-server]'"
EPILOG = (
    "Without a file and without --dev: HTTP on port 8080, HTTPS with a certificate of its own on "
    "8443, DNS on 5300, packets in the user's folder of data. SIGHUP reads the certificate again, "
    "SIGTERM and SIGINT stop. IROH_FAST_LOG=DEBUG, INFO, WARNING or ERROR in the environment "
    "chooses what is logged. The file is described at "
    "https://github.com/iroh-fast/iroh-fast/blob/main/docs/dns_server.md"
)
LOGGER = "iroh_fast.dns_server"
PACKAGES = ("httptools", "msgspec", "prometheus_client")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--dev",
        action="store_true",
        help="HTTP on port 8080 and DNS on 5300 of 127.0.0.1, packets in memory, no rate limit: "
        "nothing to set up",
    )
    which.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML file of settings, of the format of iroh-dns-server",
    )
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="read the file, say what is wrong with it or that it is right, and end",
    )
    parser.add_argument("--version", action="version", version=f"iroh_fast {__version__}")


def read_config(path: Path | None, *, dev: bool = False) -> DnsServerConfig:
    """The settings in a file; those for no file at all when `path` is None.

    Raises
    ------
    ConfigError
        The file cannot be read, or something in it is wrong; the text names it.
    """
    from ..dns_server.config import DNS_PORT, HTTP_PORT, METRICS_PORT, DnsServerConfig
    from ..web.toml_file import read_text

    if dev:
        return DnsServerConfig.dev(
            http_port=HTTP_PORT,
            dns_port=DNS_PORT,
            metrics_bind_addr=("127.0.0.1", METRICS_PORT),
            other_ports=True,
        )
    if path is None:
        return DnsServerConfig()
    text = read_text(path)
    log = logging.getLogger(LOGGER)
    try:
        return DnsServerConfig.from_toml(
            text, on_unknown=lambda message: log.warning("%s: %s", path, message)
        )
    except ConfigError as err:
        raise ConfigError(f"{path}: {err}") from err


def welcome(server: DnsServer) -> str:
    """What a person who started the server wants to know."""
    host, port = server.dns_addr
    origins = server.config.zones.origins
    rows = [
        ("pkarr relay", server.pkarr_url),
        (
            "DNS",
            f"{f'[{host}]' if ':' in host else host}:{port} (UDP and TCP) for {', '.join(origins)}",
        ),
        ("DNS over HTTPS", server.pkarr_url.removesuffix("pkarr") + "dns-query"),
    ]
    if server.https_url is not None and server.http_url is not None:
        rows.append(("with TLS", server.https_url))
    if "metrics" in server.addresses:
        where, at = server.addresses["metrics"]
        rows.append(("metrics", f"http://{f'[{where}]' if ':' in where else where}:{at}/"))
    table = "\n".join(f"{name:16}{text}" for name, text in rows)
    return f"""{table}

Endpoints that publish here and find each other by key alone (publishers tell the addresses of
relays only, unless they are told otherwise):

    from iroh_fast import Endpoint
    from iroh_fast.lookup import PkarrPublisher, PkarrResolver

    url = "{server.pkarr_url}"
    publisher = PkarrPublisher(url, addr_filter="unfiltered")
    ep = await Endpoint.bind(address_lookup=[publisher, PkarrResolver(url)])
"""


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until a signal."""
    from ..dns_server.server import DnsServer

    log = logging.getLogger(LOGGER)
    server = DnsServer(read_config(arguments.config, dev=arguments.dev))

    def reload() -> None:
        if server.config.https is None:
            log.info("nothing to read again: there is no certificate")
        else:
            server.reload_certificates()

    await serve_until_asked(
        server, log, ready=lambda: print(welcome(server), flush=True), reload=reload
    )


def check(arguments: argparse.Namespace) -> int:
    """Tell whether a file is right; returns the exit status."""
    path = arguments.config
    config = read_config(path, dev=arguments.dev)
    if (source := config.certificates()) is not None:
        source.check()
    name = "the default settings" if path is None else str(path)
    store = config.store
    kept = "PostgreSQL" if store.postgres else config.store_path or "memory"
    print(f"{name}: right; origins: {', '.join(config.zones.origins)}; packets in {kept}")
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run until a signal; returns the exit status."""
    return run_server(
        arguments, logger=LOGGER, packages=PACKAGES, extra=EXTRA, check=check, serve=serve
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command by itself."""
    parser = argparse.ArgumentParser(
        prog="iroh-fast dns-server", description=__doc__, epilog=EPILOG
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
