"""What the system says about name servers and search domains."""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass
from typing import Any, Final

from ...errors import ConfigError
from .config import NameserverConfig
from .hosts import stamp

__all__ = ["NO_SYSTEM", "SystemConfig", "SystemSource", "parse_resolv_conf"]

logger = logging.getLogger("iroh_fast.web.resolver")

RESOLV_CONF: Final = "/etc/resolv.conf"
MAX_CONF_BYTES: Final = 1 << 16
MAX_SERVERS: Final = 8
MAX_SEARCH: Final = 16
MAX_NDOTS: Final = 15
WINDOWS_MAX_AGE_S: Final = 30.0  # there is no file whose change could be seen
# Placeholders of Windows that nothing answers at.
_WINDOWS_UNUSED: Final = {f"fec0:0:0:ffff::{n}" for n in (1, 2, 3)}


@dataclass(frozen=True, slots=True)
class SystemConfig:
    """Name servers in order, domains to search, and with how many dots a name is tried first."""

    nameservers: tuple[NameserverConfig, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = 1


NO_SYSTEM: Final = SystemConfig()


def _nameserver(text: str) -> NameserverConfig | None:
    try:
        return NameserverConfig.parse(text)
    except ConfigError:
        return None


def _is_domain(text: str) -> bool:
    """Whether it can stand behind a name; systemd writes "--" where there is none."""
    labels = text.rstrip(".").split(".")
    return text != "--" and len(text) < 250 and all(0 < len(label) < 64 for label in labels)


def parse_resolv_conf(text: str) -> SystemConfig:
    """Read a file of resolv.conf(5); lines that make no sense are skipped.

    ``search`` and ``domain`` replace each other, the last one counts. Besides the form of the
    manual, a name server may have a port: ``127.0.0.1:5353``. Of the options, ``ndots`` counts:
    servers are asked side by side and with times of our own.
    """
    servers: list[NameserverConfig] = []
    search: list[str] = []
    ndots = 1
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        keyword, *rest = words
        if keyword == "nameserver":
            server = _nameserver(rest[0])
            if server is not None and len(servers) < MAX_SERVERS:
                servers.append(server)
        elif keyword == "search":
            search = [domain for domain in rest if _is_domain(domain)][:MAX_SEARCH]
        elif keyword == "domain":
            search = [rest[0]] if _is_domain(rest[0]) else []
        elif keyword == "options":
            for option in rest:
                name, _, value = option.partition(":")
                if name == "ndots" and value.isascii() and value.isdigit():
                    ndots = min(int(value[:4]), MAX_NDOTS)
    return SystemConfig(tuple(servers), tuple(search), ndots)


def _read_resolv_conf(path: str) -> SystemConfig:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse_resolv_conf(file.read(MAX_CONF_BYTES))
    except OSError:
        return NO_SYSTEM


def _read_windows() -> SystemConfig:
    """Ask Windows, by what dnspython knows of it; no thread is started."""
    import dns.win32util  # late: of Windows alone

    util: Any = dns.win32util
    method = util._config_method
    util.set_config_method(util.ConfigMethod.Win32)  # the one of WMI starts a thread
    try:
        info = util.get_dns_info()
    except OSError as error:
        logger.info("the name servers of this system are unknown: %s", error)
        return NO_SYSTEM
    finally:
        util.set_config_method(method)
    wanted = (str(text) for text in info.nameservers if str(text) not in _WINDOWS_UNUSED)
    servers = [server for server in map(_nameserver, wanted) if server is not None]
    names = list(info.search) or ([info.domain] if info.domain is not None else [])
    search = [str(name).rstrip(".") for name in names]
    return SystemConfig(
        tuple(servers[:MAX_SERVERS]), tuple(filter(_is_domain, search[:MAX_SEARCH])), 1
    )


class SystemSource:
    """The configuration of the system as it is now.

    macOS keeps ``/etc/resolv.conf`` for programs such as this one.

    Parameters
    ----------
    path : another file in place of ``/etc/resolv.conf``.
    """

    def __init__(self, path: str = RESOLV_CONF) -> None:
        self._path = path
        self._config: SystemConfig | None = None
        self._stamp: object = None

    def current(self) -> SystemConfig:
        """The same object as before unless something changed."""
        windows = sys.platform == "win32"
        now: object
        if windows:
            now = asyncio.get_running_loop().time() // WINDOWS_MAX_AGE_S
        else:
            now = stamp(self._path)
        if self._config is None or now != self._stamp:
            self._stamp = now
            found = _read_windows() if windows else _read_resolv_conf(self._path)
            if found != self._config:
                self._config = found
        assert self._config is not None
        return self._config
