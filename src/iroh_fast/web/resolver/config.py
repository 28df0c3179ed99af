"""Name servers: how each of them is asked, and those of last resort."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeAlias

from ..._check import check_integer, check_items, check_text, kind_of, shown
from ...errors import ConfigError

__all__ = [
    "GOOGLE",
    "PUBLIC",
    "Fallback",
    "NameserverConfig",
    "NameserverProtocol",
    "nameservers",
]

MAX_NAMESERVERS: Final = 32

NameserverProtocol: TypeAlias = Literal["udp", "tcp", "tls", "https"]
"""DNS over UDP (with TCP for what does not fit), over TCP, over TLS, over HTTPS."""

Fallback: TypeAlias = Literal["never", "if_system_empty", "deferred", "eager"]
"""When name servers are asked that nobody configured; see :class:`DnsResolver`."""

_PORTS: Final[dict[NameserverProtocol, int]] = {"udp": 53, "tcp": 53, "tls": 853, "https": 443}
_TEXT: Final = re.compile(r"\[([^\[\]]+)\](?::([0-9]{1,5}))?|([0-9.]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class NameserverConfig:
    """A name server and the way to ask it.

    Parameters
    ----------
    ip : IP address; one of a link has its interface behind a percent sign: ``fe80::1%eth0``.
    protocol : "udp", "tcp", "tls" or "https".
    port : None is the one of the protocol: 53, 53, 853, 443.
    tls_server_name : what the certificate has to be for; None: the IP address.

    Raises
    ------
    ConfigError : one of them is wrong.

    Notes
    -----
    Shorter: ``NameserverConfig.tls("192.0.2.53").with_tls_server_name("dns.example")``.
    """

    ip: str
    protocol: NameserverProtocol = "udp"
    port: int | None = None
    tls_server_name: str | None = None

    def __post_init__(self) -> None:
        check_text("the address of a name server", self.ip)
        try:
            ip = ipaddress.ip_address(self.ip)
        except ValueError:
            raise ConfigError(
                f"a name server is given by its IP address, not {shown(self.ip)}"
            ) from None
        object.__setattr__(self, "ip", str(ip))
        if self.protocol not in _PORTS:
            raise ConfigError(
                f'protocol is "udp", "tcp", "tls" or "https", not {shown(self.protocol)}'
            )
        if self.port is None:
            object.__setattr__(self, "port", _PORTS[self.protocol])
        check_integer("the port of a name server", self.port, 1, 65535)
        name = check_text("tls_server_name", self.tls_server_name, none=True)
        if name is not None and not re.fullmatch(r"[A-Za-z0-9._:-]{1,253}", name):
            raise ConfigError(f"tls_server_name is a host name in ASCII, not {shown(name)}")

    @classmethod
    def udp(cls, ip: str) -> Self:
        """Ask over UDP on port 53, and over TCP for what does not fit into a datagram."""
        return cls(ip, "udp")

    @classmethod
    def tcp(cls, ip: str) -> Self:
        """Ask over TCP on port 53."""
        return cls(ip, "tcp")

    @classmethod
    def tls(cls, ip: str) -> Self:
        """Ask over TLS on port 853 (RFC 7858)."""
        return cls(ip, "tls")

    @classmethod
    def https(cls, ip: str) -> Self:
        """Ask over HTTPS on port 443, path ``/dns-query`` (RFC 8484)."""
        return cls(ip, "https")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``192.0.2.53``, ``192.0.2.53:5353``, ``2001:db8::53`` or ``[2001:db8::53]:5353``."""
        match = _TEXT.fullmatch(text)
        if match is None:
            return cls(text)
        port = match[2] or match[4]
        return cls(match[1] or match[3], "udp", int(port) if port else None)

    def with_port(self, port: int) -> Self:
        """The same on another port."""
        return dataclasses.replace(self, port=port)

    def with_tls_server_name(self, name: str) -> Self:
        """The same with a certificate for this name."""
        return dataclasses.replace(self, tls_server_name=name)

    @property
    def server_name(self) -> str:
        """What the certificate has to be for."""
        return self.tls_server_name or self.ip

    def __str__(self) -> str:
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        default = self.port == _PORTS[self.protocol]
        text = host if default else f"{host}:{self.port}"
        return text if self.protocol == "udp" else f"{self.protocol}://{text}"


def nameservers(name: str, value: Any) -> tuple[NameserverConfig, ...]:
    """Read an option that is a list of name servers.

    Raises
    ------
    ConfigError : it is none; the message names the option.
    """
    found = []
    for item in check_items(name, value, "name servers"):
        if isinstance(item, str):
            try:
                item = NameserverConfig.parse(item)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
        if not isinstance(item, NameserverConfig):
            raise ConfigError(
                f"{name}: a name server is an IP address as text or a NameserverConfig, "
                f"not {kind_of(item)}"
            )
        found.append(item)
    if len(found) > MAX_NAMESERVERS:
        raise ConfigError(f"{name} has {len(found)} name servers, at most {MAX_NAMESERVERS}")
    return tuple(found)


def _all(kind: Literal["udp", "https"], addresses: Iterable[str]) -> tuple[NameserverConfig, ...]:
    return tuple(NameserverConfig(address, kind) for address in addresses)


# What iroh 1.0 asks when there is no configuration of the system.
GOOGLE: Final = _all("udp", ("8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"))

# Cloudflare, Google and Quad9, as iroh 1.4 has them: UDP first, then HTTPS where UDP is blocked.
_SECOND: Final = ("1.0.0.1", "8.8.4.4", "149.112.112.112")
_IPV6: Final = ("2606:4700:4700::1111", "2001:4860:4860::8888", "2620:fe::fe")
PUBLIC: Final = (
    *_all("udp", ("1.1.1.1", "8.8.8.8")),
    *_all("https", ("1.1.1.1", "8.8.8.8", "9.9.9.9")),
    *_all("udp", ("9.9.9.9", *_IPV6)),
    *_all("https", _IPV6),
    *_all("udp", _SECOND),
    *_all("https", _SECOND),
)
