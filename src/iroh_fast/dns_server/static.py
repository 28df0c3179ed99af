"""Records of the server's own names: SOA, NS and addresses of each origin, made once."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .. import _dns
from ..errors import ConfigError, DnsMessageError

__all__ = ["DEFAULT_SOA", "OriginRecords", "Section", "StaticRecords", "origin_records"]

DEFAULT_SOA: Final = "irohdns.example hostmaster.irohdns.example 0 10800 3600 604800 30"

SOA_TTL: Final = 1_209_600
NS_TTL: Final = 43_200
ADDRESS_TTL: Final = 3_600
_A: Final = 1
_NS: Final = 2
_SOA: Final = 6
_AAAA: Final = 28
_IN: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRecords:
    """What a server says of itself.

    Parameters
    ----------
    origins : sequence of str
        Names under which keys are served, ``"."`` for keys alone; a dot at the end makes no
        difference. The longest one that a question is in counts.
    default_soa : str
        ``"mname rname serial refresh retry expire minimum"``; times in seconds.
    rr_a, rr_aaaa : str, optional
        Addresses of each origin.
    rr_ns : str, optional
        Name server of each origin.
    """

    origins: Sequence[str] = ("irohdns.example.", ".")
    default_soa: str = DEFAULT_SOA
    rr_a: str | None = None
    rr_aaaa: str | None = None
    rr_ns: str | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """Records that stand behind a question; pointers at `places` count from their beginning."""

    data: bytes
    answers: int
    authorities: int
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OriginRecords:
    """The sections of an origin: for what is not there, for SOA, and by type for the origin itself."""

    name: bytes
    labels: int
    negative: Section
    soa: Section
    sets: tuple[tuple[int, Section], ...]


class _SectionWriter:
    """Writes records whose names point to earlier ones."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._names: dict[bytes, int] = {}
        self._places: list[int] = []

    def record(self, name: bytes, kind: int, ttl: int, *parts: bytes, text: bytes = b"") -> None:
        """Write a record whose data are names, `parts`, and then bytes."""
        self._name(name)
        self._out += kind.to_bytes(2, "big") + _IN.to_bytes(2, "big") + ttl.to_bytes(4, "big")
        size_at = len(self._out)
        self._out += b"\0\0"
        for part in parts:
            self._name(part)
        self._out += text
        self._out[size_at : size_at + 2] = (len(self._out) - size_at - 2).to_bytes(2, "big")

    def section(self, answers: int, authorities: int) -> Section:
        return Section(bytes(self._out), answers, authorities, tuple(self._places))

    def _name(self, name: bytes) -> None:
        while name[0]:
            if (at := self._names.get(name)) is not None:
                self._places.append(len(self._out))
                self._out += (0xC000 | at).to_bytes(2, "big")
                return
            self._names[name] = len(self._out)
            label, name = name[: name[0] + 1], name[name[0] + 1 :]
            self._out += label
        self._out += b"\0"


def _name(key: str, text: str) -> bytes:
    try:
        return _dns.name_from_text(text)
    except DnsMessageError as err:
        raise ConfigError(f"{key}: {err}") from None


def _soa(text: str) -> tuple[bytes, bytes, bytes]:
    """Both names, and the numbers as they are on the wire."""
    fields = text.split()
    numbers = fields[2:]
    if len(fields) != 7 or not all(n.isdecimal() and int(n) < 1 << 32 for n in numbers):
        raise ConfigError(
            "dns.default_soa is 'mname rname serial refresh retry expire minimum' with five "
            f"numbers below 2**32, not {text!r}"
        )
    wire = b"".join(int(n).to_bytes(4, "big") for n in numbers)
    return _name("dns.default_soa", fields[0]), _name("dns.default_soa", fields[1]), wire


def _address(key: str, text: str, version: int) -> bytes:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or address.version != version or getattr(address, "scope_id", None):
        raise ConfigError(f"dns.{key} is an IPv{version} address, not {text!r}")
    return address.packed


def _origins(texts: Sequence[str]) -> list[bytes]:
    if isinstance(texts, str) or not texts:
        raise ConfigError(
            "dns.origins is a list of names with one at least, such as ['dns.example.org.']"
        )
    names = [_name("dns.origins", text).lower() for text in texts]
    if len(set(names)) != len(names):
        raise ConfigError(f"dns.origins names one origin twice: {list(texts)!r}")
    return names


def origin_records(config: StaticRecords) -> list[OriginRecords]:
    """Make the records of all origins, those with more labels first.

    Raises
    ------
    ConfigError
        A value cannot be used; it names the key of the configuration file.
    """
    names = _origins(config.origins)
    mname, rname, numbers = _soa(config.default_soa)
    ns = None if config.rr_ns is None else _name("dns.rr_ns", config.rr_ns)
    addresses = [
        (kind, _address(key, text, version))
        for kind, key, text, version in (
            (_A, "rr_a", config.rr_a, 4),
            (_AAAA, "rr_aaaa", config.rr_aaaa, 6),
        )
        if text is not None
    ]

    def soa(owner: bytes, *, answer: bool) -> Section:
        out = _SectionWriter()
        out.record(owner, _SOA, SOA_TTL, mname, rname, text=numbers)
        if answer and ns is not None:
            out.record(owner, _NS, NS_TTL, ns)
        return out.section(int(answer), int(ns is not None) if answer else 1)

    def one(owner: bytes, kind: int, ttl: int, *parts: bytes, text: bytes = b"") -> Section:
        out = _SectionWriter()
        out.record(owner, kind, ttl, *parts, text=text)
        return out.section(1, 0)

    made = []
    for name in names:
        sets = [(kind, one(name, kind, ADDRESS_TTL, text=packed)) for kind, packed in addresses]
        if ns is not None:
            sets.append((_NS, one(name, _NS, NS_TTL, ns)))
        # DIFFERS: the reference gives all origins the SOA of the first one, which resolvers do not
        # accept for a name outside of it. INTEROP: under the root we do so too; nobody delegates that.
        owner = name if name != b"\0" else names[0]
        labels = len(_dns.labels_of(name))
        made.append(
            OriginRecords(
                name, labels, soa(owner, answer=False), soa(owner, answer=True), tuple(sets)
            )
        )
    return sorted(made, key=lambda origin: -origin.labels)
