"""Mappings by UPnP (Internet Gateway Device, versions 1 and 2)."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from ipaddress import AddressValueError, IPv4Address
from typing import Any, Protocol
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from ..errors import HttpError, PortmapError, PortmapErrorKind, printable
from . import igd, ssdp
from .igd import Fault, Igd
from .model import Gateway, Lease, ProtocolName, check_external

__all__ = ["Http", "HttpAnswerLike", "Upnp"]

log = logging.getLogger("iroh_fast.portmapper")

LIFETIME_S = 7200
MAX_BODY = 1 << 18
MAX_DEVICES = 4  # whose descriptions are read for one search
MAX_PORTS = 8  # that are tried when the gateway gave ours to somebody else
HTTP_LIMIT_S = 5.0
DESCRIPTION = "iroh-portmap"
CONFLICT, SAME_PORTS, ONLY_PERMANENT = 718, 724, 725
UNKNOWN_ACTION = (401, 602)
_ENVELOPE = (
    '<?xml version="1.0"?>\r\n'
    '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
    's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
    '<u:{action} xmlns:u="{service}">{arguments}</u:{action}></s:Body></s:Envelope>\r\n'
)


class HttpAnswerLike(Protocol):
    """An answer of an HTTP server."""

    @property
    def status(self) -> int:
        """200 and the like."""
        ...

    @property
    def body(self) -> bytes:
        """All of it."""
        ...


class Http(Protocol):
    """Makes HTTP requests, without proxy: a `HttpClient`."""

    @property
    def request(self) -> Callable[..., Awaitable[HttpAnswerLike]]:
        """Method, URL and options to an answer."""
        ...

    async def close(self) -> None:
        """End all connections."""
        ...


class _Refused(Exception):
    def __init__(self, fault: Fault) -> None:
        self.fault = fault


class Upnp:
    """Mappings by UPnP.

    Parameters
    ----------
    http : makes requests, and is closed with this.
    draw : gives a port to try.
    """

    def __init__(
        self,
        http: Http,
        draw: Callable[[], int] = lambda: random.randrange(32768, 65535),
    ) -> None:
        self._http_client = http
        self._draw = draw
        self._known: tuple[Gateway, Igd] | None = None

    @property
    def name(self) -> ProtocolName:
        """It is this one."""
        return "upnp"

    async def probe(self, gateway: Gateway) -> None:
        """Search, and read descriptions until one is of a gateway."""
        self._known = (gateway, await self._find(gateway))

    async def _find(self, gateway: Gateway) -> Igd:
        failed: PortmapError | None = None
        tried = 0
        async with aclosing(ssdp.search(gateway)) as locations:
            async for location in locations:
                try:
                    return await self._describe(location)
                except PortmapError as error:
                    log.debug("UPnP at %s: %s", location, error)
                    failed = error
                tried += 1
                if tried == MAX_DEVICES:
                    break
        raise failed or PortmapError("timeout", "no UPnP gateway answers")

    async def _describe(self, location: str) -> Igd:
        host = urlsplit(location).hostname or ""
        answer = await self._http("GET", location)
        if answer.status != 200:
            text = f"{host} describes itself with HTTP status {answer.status}"
            raise PortmapError("bad_answer", text, code=answer.status)
        return igd.gateway_of(answer.body, location, host)

    async def map(self, gateway: Gateway, port: int, old: Lease | None) -> Lease:
        """Ask for our port, or the one we had; then for others."""
        if self._known is None or self._known[0] != gateway:
            await self.probe(gateway)
        assert self._known is not None
        device = self._known[1]
        try:
            ip = await self._external_ip(device)
            external, lifetime = await self._any_port(device, gateway, port, old)
        except PortmapError as error:
            if error.kind in ("timeout", "bad_answer"):
                self._known = None  # it may be another one next time, or elsewhere
            raise
        return Lease("upnp", port, check_external(ip, external), lifetime, device)

    async def release(self, gateway: Gateway, lease: Lease) -> None:
        """Delete the mapping."""
        assert isinstance(lease.token, Igd)
        arguments = {
            "NewRemoteHost": "",
            "NewExternalPort": lease.external.port,
            "NewProtocol": "UDP",
        }
        try:
            await self._call(lease.token, "DeletePortMapping", arguments)
        except _Refused as refused:
            raise _error(refused.fault) from None

    async def close(self) -> None:
        """End connections to gateways."""
        await self._http_client.close()

    async def _external_ip(self, device: Igd) -> IPv4Address:
        try:
            body = await self._call(device, "GetExternalIPAddress", {})
        except _Refused as refused:
            raise _error(refused.fault) from None
        text = igd.answer_of(body, "NewExternalIPAddress")
        try:
            return IPv4Address(text)
        except AddressValueError:
            shown = printable(text, 40)
            raise PortmapError("bad_answer", f"{shown!r} is no IPv4 address") from None

    async def _any_port(
        self, device: Igd, gateway: Gateway, port: int, old: Lease | None
    ) -> tuple[int, float]:
        """External port and lifetime of a mapping."""
        wish = old.external.port if old is not None else port
        lifetime = 0 if old is not None and old.lifetime == 0 else LIFETIME_S
        ask_for_any, taken = device.service.endswith(":2"), False  # only version 2 can choose
        fault = Fault(0, "")
        for _ in range(MAX_PORTS):
            arguments = _mapping(gateway, port, wish, lifetime)
            any_port = ask_for_any and taken
            try:
                if any_port:
                    return await self._add_any(device, arguments), lifetime
                await self._call(device, "AddPortMapping", arguments)
                return wish, lifetime
            except _Refused as refused:
                fault = refused.fault
            if fault.code == ONLY_PERMANENT and lifetime:
                lifetime = 0  # DIFFERS: iroh gives up
            elif fault.code == SAME_PORTS and wish != port:
                wish = port
            elif fault.code == CONFLICT or (any_port and fault.code in UNKNOWN_ACTION):
                wish, taken, ask_for_any = self._draw(), True, ask_for_any and not any_port
            else:
                break
        raise _error(fault)

    async def _add_any(self, device: Igd, arguments: Mapping[str, object]) -> int:
        """Leave the port to the gateway, which version 2 can."""
        text = igd.answer_of(
            await self._call(device, "AddAnyPortMapping", arguments), "NewReservedPort"
        )
        if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
            raise PortmapError("bad_answer", f"{printable(text, 20)!r} is no port")
        return int(text)

    async def _call(self, device: Igd, action: str, arguments: Mapping[str, object]) -> bytes:
        """Have the gateway do something; the body of its answer."""
        inside = "".join(
            f"<{name}>{escape(str(value))}</{name}>" for name, value in arguments.items()
        )
        body = _ENVELOPE.format(
            action=action, service=escape(device.service), arguments=inside
        ).encode()
        headers = {
            "Content-Type": 'text/xml; charset="utf-8"',
            "SOAPAction": f'"{device.service}#{action}"',
        }
        answer = await self._http("POST", device.control, body=body, headers=headers)
        if answer.status == 200:
            return answer.body
        if (fault := igd.fault_of(answer.body)) is not None:
            raise _Refused(fault)
        text = f"{device.host} answers {action} with HTTP status {answer.status}"
        raise PortmapError("bad_answer", text, code=answer.status)

    async def _http(self, method: str, url: str, **options: Any) -> HttpAnswerLike:
        # A gateway that sends us elsewhere is none.
        options |= {"redirects": 0, "error_body": True, "max_bytes": MAX_BODY}
        try:
            return await self._http_client.request(method, url, timeout=HTTP_LIMIT_S, **options)
        except HttpError as error:
            kind: PortmapErrorKind = (
                "timeout" if error.kind in ("timeout", "connect") else "bad_answer"
            )
            raise PortmapError(kind, str(error)) from error


def _mapping(gateway: Gateway, port: int, external: int, lifetime: int) -> dict[str, object]:
    return {
        "NewRemoteHost": "",
        "NewExternalPort": external,
        "NewProtocol": "UDP",
        "NewInternalPort": port,
        "NewInternalClient": gateway.local,
        "NewEnabled": 1,
        "NewPortMappingDescription": DESCRIPTION,
        "NewLeaseDuration": lifetime,
    }


def _error(fault: Fault) -> PortmapError:
    text = f"the gateway refused: {fault.code} {printable(fault.text, 100)}"
    return PortmapError("refused", text, code=fault.code)
