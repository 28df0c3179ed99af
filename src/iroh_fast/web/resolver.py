"""Addresses of host names, without threads.

The resolver of the operating system blocks: asked through asyncio it holds a thread for up to half
a minute, and a program waits for its threads when it ends.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as DnsResolver

__all__ = ["Resolver", "SystemResolver"]

LIFETIME_S: Final = 3.0
CACHED: Final = 256
MAX_HOSTS_BYTES: Final = 1 << 20


class Resolver(Protocol):
    """Finds the addresses of names."""

    async def lookup(self, host: str, family: socket.AddressFamily) -> Sequence[str]:
        """The IP addresses of a host in one family, as text; OSError when there are none."""
        ...


class SystemResolver:
    """Asks the name servers that the system is configured for, after its table of hosts.

    Changes of both are noticed. There are no threads, and a cancelled question is over at once.
    """

    def __init__(self) -> None:
        self._dns: DnsResolver | None = None
        self._dns_stamp: object = None
        self._hosts: dict[str, list[str]] = {}
        self._hosts_stamp: object = None

    async def lookup(self, host: str, family: socket.AddressFamily) -> Sequence[str]:
        """The IP addresses of a host in one family, as text; OSError when there are none."""
        name = host.removesuffix(".").lower()
        if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 §6.3
            return ["::1" if family == socket.AF_INET6 else "127.0.0.1"]
        listed = [
            address
            for address in self._listed(name)
            if (":" in address) == (family == socket.AF_INET6)
        ]
        return listed or await self._ask(host, family)

    def _listed(self, name: str) -> list[str]:
        """What the table of hosts says."""
        path = _hosts_path()
        stamp = _stamp(path)
        if stamp != self._hosts_stamp:
            self._hosts_stamp = stamp
            self._hosts = _read_hosts(path)
        return self._hosts.get(name, [])

    async def _ask(self, host: str, family: socket.AddressFamily) -> list[str]:
        import dns.exception
        import dns.resolver  # late: only needed for names

        kind = "AAAA" if family == socket.AF_INET6 else "A"
        try:
            answer = await self._resolver().resolve(host, kind, lifetime=LIFETIME_S)
        except dns.resolver.NXDOMAIN:
            raise OSError("there is no such name") from None
        except dns.resolver.NoAnswer:
            raise OSError(f"the name has no {kind} address") from None
        except dns.resolver.NoNameservers:
            raise OSError("the name servers refuse to answer") from None
        except dns.exception.Timeout:
            raise TimeoutError("no name server answers") from None
        except dns.exception.DNSException as err:
            raise OSError(str(err) or type(err).__name__) from err
        return [str(record.address) for record in answer]

    def _resolver(self) -> DnsResolver:
        import dns.asyncresolver
        import dns.resolver

        stamp = _stamp("/etc/resolv.conf")
        if self._dns is None or stamp != self._dns_stamp:
            self._dns_stamp = stamp
            try:
                self._dns = dns.asyncresolver.Resolver()
            except dns.resolver.NoResolverConfiguration:
                raise OSError("this system has no name server") from None
            self._dns.cache = dns.resolver.LRUCache(CACHED)
            self._dns.use_search_by_default = True
        return self._dns


def _stamp(path: str) -> object:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _hosts_path() -> str:
    if sys.platform == "win32":
        return os.path.join(os.environ.get("SystemRoot", r"C:\Windows"), r"System32\drivers\etc\hosts")
    return "/etc/hosts"


def _read_hosts(path: str) -> dict[str, list[str]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_HOSTS_BYTES)
    except OSError:
        return {}
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split()[:64] or [""]
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                socket.inet_pton(family, address)
            except (OSError, ValueError):  # the second for a NUL
                continue
            for name in names:
                found.setdefault(name.lower().removesuffix("."), []).append(address)
    return found
