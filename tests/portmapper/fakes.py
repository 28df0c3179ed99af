"""Gateways on loopback that answer as the test says."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import cast
from xml.etree import ElementTree

from iroh_fast.portmapper.model import Gateway

HERE = IPv4Address("127.0.0.1")
PUBLIC = IPv4Address("203.0.113.7")

Give = Callable[[bytes], list[bytes]]


class UdpGateway(asyncio.DatagramProtocol):
    """Answers datagrams with what `give` makes of them."""

    def __init__(self, give: Give) -> None:
        self.give = give
        self.heard: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.append(data)
        for answer in self.give(data):
            self.transport.sendto(answer, addr)


@asynccontextmanager
async def udp_gateway(give: Give) -> AsyncIterator[tuple[Gateway, UdpGateway]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: UdpGateway(give), local_addr=(str(HERE), 0)
    )
    try:
        yield Gateway(HERE, HERE, port=transport.get_extra_info("sockname")[1]), server
    finally:
        transport.close()


def nat_pmp_answer(
    request: bytes,
    *,
    result: int = 0,
    external: int = 0,
    lifetime: int = 7200,
    ip: IPv4Address = PUBLIC,
) -> bytes:
    """What a gateway says to a request of NAT-PMP."""
    head = struct.pack("!BBHI", 0, 0x80 | request[1], result, 1000)
    if request[1] == 0:
        return head + ip.packed
    internal, wish = struct.unpack_from("!HH", request, 4)
    return head + struct.pack("!HHI", internal, external or wish, lifetime)


def pcp_answer(
    request: bytes,
    *,
    result: int = 0,
    external: int = 0,
    lifetime: int = 3600,
    ip: IPv4Address = PUBLIC,
) -> bytes:
    """What a gateway says to a request of PCP."""
    head = struct.pack("!BBBBII12x", 2, 0x80 | request[1], 0, result, lifetime, 1000)
    if request[1] == 0:
        return head
    wish = struct.unpack_from("!H", request, 42)[0]
    where = struct.pack("!H", external or wish) + bytes(10) + b"\xff\xff" + ip.packed
    return head + request[24:42] + where


# ---------------------------------------------------------------- UPnP
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:2"
ANSWER = (
    '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
    '<u:{action}Response xmlns:u="x">{inside}</u:{action}Response></s:Body></s:Envelope>'
)
FAULT = (
    '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault>'
    "<faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>"
    '<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{code}</errorCode>'
    "<errorDescription>why</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>"
)


def description(control: str = "/ctl", service: str = SERVICE, base: str = "") -> str:
    """What a gateway says of itself; the service is two devices deep, as it is everywhere."""
    return (
        '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">'
        f"{base and f'<URLBase>{base}</URLBase>'}"
        "<device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>"
        "<serviceList><service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1"
        "</serviceType><controlURL>/l3f</controlURL></service></serviceList>"
        "<deviceList><device><deviceList><device><serviceList><service>"
        f"<serviceType>{service}</serviceType><controlURL>{control}</controlURL>"
        "<SCPDURL>/scpd.xml</SCPDURL></service></serviceList></device></deviceList></device>"
        "</deviceList></device></root>"
    )


class UpnpGateway:
    """Describes itself and does as it is told, but for what the test changes.

    Attributes
    ----------
    actions : name of an action and what was given, of each request.
    taken : ports that somebody else has.
    fault : gives for an action and its arguments a code to refuse with, or None.
    """

    def __init__(self) -> None:
        self.actions: list[tuple[str, dict[str, str]]] = []
        self.paths: list[str] = []
        self.searches: list[bytes] = []
        self.taken: set[int] = set()
        self.mapped: dict[int, dict[str, str]] = {}
        self.fault: Callable[[str, dict[str, str]], int | None] = lambda action, given: None
        self.external = str(PUBLIC)
        self.describe: Callable[[], bytes] = lambda: http(description())
        self.answer: Callable[[str, dict[str, str]], bytes] = self.obey
        self.search_answers: Callable[[bytes], list[bytes]] = lambda data: [self.here()]
        self.port = 0

    def here(self, location: str | None = None) -> bytes:
        """The answer to a search."""
        location = location or f"http://127.0.0.1:{self.port}/root.xml"
        lines = ("HTTP/1.1 200 OK", "CACHE-CONTROL: max-age=120", f"LOCATION: {location}", "EXT:")
        return "\r\n".join((*lines, "", "")).encode()

    def obey(self, action: str, given: dict[str, str]) -> bytes:
        code = self.fault(action, given)
        port = int(given.get("NewExternalPort", "0"))
        if code is None and action == "AddPortMapping" and port in self.taken:
            code = 718
        if code is None and action == "DeletePortMapping" and port not in self.mapped:
            code = 714
        if code is not None:
            return http(FAULT.format(code=code), "500 Internal Server Error")
        inside = ""
        if action == "GetExternalIPAddress":
            inside = f"<NewExternalIPAddress>{self.external}</NewExternalIPAddress>"
        elif action == "AddAnyPortMapping":
            port = 60000
            inside = f"<NewReservedPort>{port}</NewReservedPort>"
        if action.startswith("Add"):
            self.mapped[port] = given
        elif action == "DeletePortMapping":
            del self.mapped[port]
        return http(ANSWER.format(action=action, inside=inside))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                fields = dict(
                    line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line
                )
                body = await reader.readexactly(int(fields.get("content-length", "0")))
                method, path, _ = head.split(" ", 2)
                self.paths.append(path)
                if method == "GET":
                    writer.write(self.describe())
                    continue
                tree = ElementTree.fromstring(body.decode())
                (inside,) = tree[0]
                action = inside.tag.rpartition("}")[2]
                assert fields["soapaction"] == f'"{inside.tag[1:].replace("}", "#")}"'.lower()
                self.actions.append((action, {part.tag: part.text or "" for part in inside}))
                writer.write(self.answer(*self.actions[-1]))
        except (EOFError, OSError):
            pass
        finally:
            writer.close()


def http(body: str | bytes, status: str = "200 OK", *headers: str) -> bytes:
    """An HTTP answer."""
    body = body.encode() if isinstance(body, str) else body
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def upnp_gateway() -> AsyncIterator[tuple[Gateway, UpnpGateway]]:
    made = UpnpGateway()

    def give(data: bytes) -> list[bytes]:
        made.searches.append(data)
        return made.search_answers(data)

    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with udp_gateway(give) as (gateway, _):
        yield Gateway(HERE, HERE, search=("127.0.0.1", gateway.port)), made
    server.close()
