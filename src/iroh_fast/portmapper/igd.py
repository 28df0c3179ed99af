"""What UPnP gateways say, in XML: where their services are, answers and faults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urljoin
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ..errors import PortmapError
from .ssdp import is_at

__all__ = ["Fault", "Igd", "answer_of", "fault_of", "gateway_of", "parse_xml"]

MAX_ELEMENTS = 4096
MAX_DEPTH = 32
MAX_TEXT = 1 << 18  # characters of a document
# The best first: what a device has of these.
SERVICES = ("WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1")
_PREFIX = "urn:schemas-upnp-org:service:"


@dataclass(frozen=True, slots=True)
class Igd:
    """A gateway's service for port mappings.

    Parameters
    ----------
    control : URL that requests go to.
    service : its type.
    host : address of the gateway.
    """

    control: str
    service: str
    host: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request was refused: code and text of the gateway."""

    code: int
    text: str


def parse_xml(data: bytes) -> Element:
    """Read a document, names without namespaces; no entities, no documents elsewhere, all bounded.

    Raises
    ------
    PortmapError : it is none, or too much.
    """
    builder = _Bounded()
    parser = expat.ParserCreate(namespace_separator="}")
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = builder.refuse  # before any entity could be told
    parser.buffer_text = True
    try:
        parser.Parse(data, True)
        return builder.tree.close()
    except (expat.ExpatError, ValueError, LookupError, AssertionError) as error:
        raise PortmapError("bad_answer", "the gateway sent bad XML") from error


class _Bounded:
    def __init__(self) -> None:
        self.tree = TreeBuilder()
        self._elements = self._depth = self._text = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        self._depth += 1
        if self._elements > MAX_ELEMENTS or self._depth > MAX_DEPTH:
            self.refuse()
        self.tree.start(name.rpartition("}")[2], {})

    def end(self, name: str) -> None:
        self._depth -= 1
        self.tree.end(name.rpartition("}")[2])

    def data(self, text: str) -> None:
        self._text += len(text)
        if self._text > MAX_TEXT:
            self.refuse()
        self.tree.data(text)

    def refuse(self, *_: object) -> None:
        raise PortmapError("bad_answer", "the gateway sent more XML than there can be")


def _text(element: Element | None, name: str) -> str:
    found = None if element is None else element.find(name)
    return (found.text or "").strip() if found is not None else ""


def _services(root: Element) -> Iterator[tuple[str, Element]]:
    for service in root.iter("service"):
        kind = _text(service, "serviceType")
        if kind.startswith(_PREFIX) and kind.removeprefix(_PREFIX) in SERVICES:
            yield kind, service


def gateway_of(data: bytes, location: str, host: str) -> Igd:
    """Find the service for port mappings in a description.

    Parameters
    ----------
    location : URL of the description.
    host : the address that it must be at, too.

    Raises
    ------
    PortmapError : there is none, or it is elsewhere.
    """
    root = parse_xml(data)
    base = _text(root, "URLBase") or location
    found = sorted(_services(root), key=lambda item: SERVICES.index(item[0].removeprefix(_PREFIX)))
    if not found:
        raise PortmapError("unavailable", f"{host} describes no service for port mappings")
    kind, service = found[0]
    try:
        control = urljoin(base, _text(service, "controlURL"))
    except ValueError:
        control = ""
    if not is_at(control, host):
        raise PortmapError("bad_answer", f"{host} sends us elsewhere with requests")
    return Igd(control, kind, host)


def answer_of(data: bytes, name: str) -> str:
    """What an answer says of one thing.

    Raises
    ------
    PortmapError : nothing.
    """
    for element in parse_xml(data).iter(name):
        return (element.text or "").strip()
    raise PortmapError("bad_answer", f"the gateway's answer has no {name}")


def fault_of(data: bytes) -> Fault | None:
    """The fault that an answer is; None when it is something else."""
    try:
        root = parse_xml(data)
    except PortmapError:
        return None
    for error in root.iter("UPnPError"):
        code = _text(error, "errorCode")
        if code.isascii() and code.isdigit() and len(code) <= 4:
            return Fault(int(code), _text(error, "errorDescription")[:100])
    return None
