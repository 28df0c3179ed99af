"""Looking for UPnP gateways: a question to everybody on the link (SSDP), and who answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from ipaddress import IPv4Address
from urllib.parse import urlsplit

from ..aio._waiters import Handoff
from ..errors import PortmapError
from .model import Gateway, is_public

__all__ = ["location_of", "search"]

LIMIT_S = 1.0
AGAIN_S = 0.3  # once more after this time: the first question may be lost
MAX_DATAGRAMS = 64  # looked at for one search
MAX_SIZE = 2048
MAX_URL = 512
TARGET = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"


def request(gateway: Gateway) -> bytes:
    """The question who is a gateway; those of version 2 answer it as well."""
    lines = (
        "M-SEARCH * HTTP/1.1",
        f"Host:{gateway.search[0]}:{gateway.search[1]}",
        f"ST:{TARGET}",
        'Man:"ssdp:discover"',
        "MX:3",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def location_of(data: bytes, source: str) -> str | None:
    """Where somebody who answered describes itself; None when it is no gateway or cannot be right.

    Parameters
    ----------
    source : address that it answered from. Nobody may send us elsewhere: others would have us
        make requests to whomever they want.
    """
    if len(data) > MAX_SIZE:
        return None
    head, *lines = data.decode("latin-1").split("\r\n")
    if head.split(" ")[0:2] not in (["HTTP/1.1", "200"], ["HTTP/1.0", "200"]):
        return None
    fields = {
        name.strip().lower(): value.strip()
        for name, colon, value in (line.partition(":") for line in reversed(lines))
        if colon
    }
    location = fields.get("location", "")
    # Some answer every question, whatever it was for.
    if "InternetGatewayDevice" not in fields.get("st", TARGET) or len(location) > MAX_URL:
        return None
    return location if is_at(location, source) else None


def is_at(url: str, host: str) -> bool:
    """Whether a URL is one of plain HTTP at this very address."""
    if not (url.isascii() and url.isprintable()) or " " in url:
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = parts.scheme == "http" and parts.username is None and parts.password is None
    return plain and port != 0 and parts.hostname == host


class _Answers(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.queue: Handoff[tuple[bytes, str]] = Handoff()
        self._left = MAX_DATAGRAMS

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._left:
            self._left -= 1
            self.queue.put((data, addr[0]))


async def search(gateway: Gateway) -> AsyncGenerator[str, None]:
    """Give the URLs of descriptions as answers come, each once, for a second.

    Raises
    ------
    PortmapError : nobody can be asked.
    """
    loop = asyncio.get_running_loop()
    try:
        sock = _socket(gateway)
    except OSError as error:
        text = f"cannot search for UPnP gateways: {error.strerror}"
        raise PortmapError("no_gateway", text) from error
    transport, answers = await loop.create_datagram_endpoint(_Answers, sock=sock)
    try:
        ends = loop.time() + LIMIT_S
        question = request(gateway)
        transport.sendto(question, gateway.search)
        again = loop.time() + AGAIN_S
        known: set[str] = set()
        while (now := loop.time()) < ends:
            if now >= again:
                transport.sendto(question, gateway.search)
                again = ends
            try:
                async with asyncio.timeout_at(min(again, ends)):
                    answer = await answers.queue.wait()
            except TimeoutError:
                continue
            found = answer and _trusted(*answer, gateway)
            if found and found not in known:
                known.add(found)
                yield found
    finally:
        transport.close()


def _trusted(data: bytes, source: str, gateway: Gateway) -> str | None:
    """The URL of an answer, if it comes from where a gateway of this network may be."""
    ip = IPv4Address(source)
    # Some homes have a gateway that is not the default route, never one outside.
    if ip != gateway.ip and is_public(ip):
        return None
    return location_of(data, source)


def _socket(gateway: Gateway) -> socket.socket:
    """A socket whose questions leave towards the gateway."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind((str(gateway.local), 0))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, gateway.local.packed)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)
    except BaseException:
        sock.close()
        raise
    return sock
