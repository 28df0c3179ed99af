"""What lookups give, put into form: errors of ours, both families, hosts of URLs."""

from __future__ import annotations

import asyncio
import ipaddress
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias, TypeVar

from ...addr import RelayUrl
from ...errors import (
    DnsError,
    DnsMissingHost,
    DnsNoResponse,
    DnsResolveBoth,
    DnsResolveFailed,
    DnsTimeout,
    IrohError,
    RelayUrlError,
)

__all__ = ["IpAddress", "host_of", "literal", "of_both", "outcome", "some"]

T = TypeVar("T")

IpAddress: TypeAlias = IPv4Address | IPv6Address


def outcome(host: str, task: asyncio.Future[T]) -> T:
    """The result of a resolver; what it raises is an error of ours."""
    try:
        return task.result()
    except DnsError:
        raise
    except TimeoutError as error:
        raise DnsTimeout(f"{host}: {error or 'no answer in time'}", host=host) from error
    except Exception as error:
        raise DnsResolveFailed(f"{host}: {error or type(error).__name__}", host=host) from error


def some(host: str, found: list[T], kind: str) -> list[T]:
    """What was found, which is something."""
    if not found:
        raise DnsNoResponse(f"{host} has no {kind} record", host=host)
    return found


def of_both(
    host: str,
    ipv4: list[IPv4Address] | BaseException,
    ipv6: list[IPv6Address] | BaseException,
) -> list[IpAddress]:
    """Put together what two lookups gave; one that failed does not matter."""
    for result in (ipv4, ipv6):
        if isinstance(result, BaseException) and not isinstance(result, IrohError):
            raise result
    if isinstance(ipv4, IrohError) and isinstance(ipv6, IrohError):
        text = str(ipv4) if str(ipv4) == str(ipv6) else f"IPv4: {ipv4}; IPv6: {ipv6}"
        raise DnsResolveBoth(text, host=host, ipv4=ipv4, ipv6=ipv6)
    found: list[IpAddress] = []
    for result in (ipv4, ipv6):
        if isinstance(result, list):
            found += result
    return found


def host_of(url: str) -> str:
    """The host of a URL: a name with its last dot if it has one, or an address."""
    try:
        host = RelayUrl(url).host
    except RelayUrlError as error:
        raise DnsMissingHost(str(error)) from None
    if not host:
        raise DnsMissingHost("the URL has no host to look up")
    return host


def literal(host: str) -> IpAddress | None:
    """The address that a host is already."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
