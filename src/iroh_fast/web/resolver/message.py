"""Questions to name servers, and what may count as their answer."""

from __future__ import annotations

import os
import struct
from typing import Final

from ..._dns import ANSWER, AUTHORITY, Message, Record, name_from_text, name_to_text, read_message
from ...errors import (
    DnsInvalidResponse,
    DnsMessageError,
    DnsNxDomain,
    DnsResolveFailed,
    printable,
)
from .cache import MAX_TTL_S, Records

__all__ = [
    "AAAA",
    "MAX_MESSAGE_BYTES",
    "TXT",
    "A",
    "Alias",
    "Query",
    "Question",
    "is_format_error",
    "is_refusal",
    "is_truncated",
    "rcode_text",
    "read_answer",
]

A: Final = 1
CNAME: Final = 5
SOA: Final = 6
TXT: Final = 16
AAAA: Final = 28
_OPT: Final = 41
_IN: Final = 1
_SIZES: Final = {A: 4, AAAA: 16}

EDNS_PAYLOAD: Final = 1232  # DNS flag day 2020: what passes without fragments
MAX_ALIASES: Final = 8
# Of a stream, whose messages could have 64 KiB. The addresses of one name are a few hundred bytes.
MAX_MESSAGE_BYTES: Final = 16384

_HEADER: Final = struct.Struct("!HHHHHH")
_RD: Final = 0x0100
_FORMERR: Final = 1
_NXDOMAIN: Final = 3
_ANSWERS: Final = (0, _NXDOMAIN)
_RCODES: Final = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")


class Question:
    """A name and a type of record.

    Attributes
    ----------
    name : in the form of a message, in lower case.
    host : the name as text with its last dot.
    key : what a cache keeps the answer under.
    """

    __slots__ = ("host", "key", "name", "section", "type")

    def __init__(self, name: bytes, kind: int) -> None:
        self.name = name.lower()
        self.type = kind
        self.host = name_to_text(name)
        self.key = (self.name, kind)
        self.section = self.name + struct.pack("!HH", kind, _IN)

    @classmethod
    def of(cls, host: str, kind: int) -> Question:
        """Ask for a name, which counts as complete.

        Raises
        ------
        DnsResolveFailed : it cannot be asked for.
        """
        try:
            if not host.isascii():
                host = host.encode("idna").decode("ascii")
            return cls(name_from_text(host), kind)
        except (DnsMessageError, UnicodeError) as error:
            raise DnsResolveFailed(
                f"{printable(host, 80)} cannot be looked up: {printable(str(error), 120)}",
                host=host,
            ) from None

    def query(self, *, edns: bool = True) -> Query:
        """A query with an id of its own, which nobody can guess."""
        return Query(self.section, edns)


class Query:
    """A query on its way to one server."""

    __slots__ = ("_section", "edns", "id", "wire")

    def __init__(self, section: bytes, edns: bool) -> None:
        self.id = int.from_bytes(os.urandom(2), "big")
        self.edns = edns
        self._section = section
        opt = struct.pack("!BHHIH", 0, _OPT, EDNS_PAYLOAD, 0, 0) if edns else b""
        self.wire = _HEADER.pack(self.id, _RD, 1, 0, 0, 1 if edns else 0) + section + opt

    def is_answered_by(self, data: bytes) -> bool:
        """Whether these bytes answer this query: id, question, nothing else is looked at.

        A server that refuses may leave out the question.
        """
        if len(data) < _HEADER.size:
            return False
        id, flags, questions, *_ = _HEADER.unpack_from(data)
        if id != self.id or not flags & 0x8000 or flags & 0x7800:
            return False
        if questions == 0:
            return flags & 0xF not in _ANSWERS
        # Lengths of labels are below "A", so lowering touches letters alone.
        section = data[_HEADER.size : _HEADER.size + len(self._section)]
        return bool(questions == 1 and section.lower() == self._section)


def is_truncated(data: bytes) -> bool:
    """Whether the rest of the answer has to be fetched over a stream."""
    return bool(data[2] & 0x02)


def is_format_error(data: bytes) -> bool:
    """Whether the server does not understand the query, which may be EDNS."""
    return data[3] & 0xF == _FORMERR


def is_refusal(data: bytes) -> bool:
    """Whether another server should be asked."""
    return data[3] & 0xF not in _ANSWERS


def rcode_text(data: bytes) -> str:
    """The result in an answer: ``SERVFAIL``."""
    code = data[3] & 0xF
    return _RCODES[code] if code < len(_RCODES) else f"RCODE{code}"


class Alias(Exception):
    """The answer ends with another name, of which it does not have the records."""

    def __init__(self, name: bytes, ttl: int, steps: int) -> None:
        super().__init__(name)
        self.name = name
        self.ttl = ttl
        self.steps = steps


def read_answer(question: Question, data: bytes, steps: int = 0) -> Records:
    """Read the records that answer a question, following the aliases of its name.

    Records of any other name are not looked at.

    Parameters
    ----------
    data : answers the question, see `Query.is_answered_by`.
    steps : aliases that were followed before.

    Returns
    -------
    Records
        Without values when there is no record of this type.

    Raises
    ------
    Alias : the question is to be asked again for another name.
    DnsNxDomain : there is no such name.
    DnsInvalidResponse : this is no DNS message, or aliases without end.
    DnsResolveFailed : any other result.
    """
    host = question.host
    message = read_message(data)
    if not message.complete:
        raise DnsInvalidResponse(
            f"{host}: a name server answered what is no DNS message", host=host
        )
    if message.flags & 0xF == _NXDOMAIN:
        raise DnsNxDomain(f"there is no name {host}", host=host)
    if is_refusal(data):
        raise DnsResolveFailed(f"{host}: the name server answered {rcode_text(data)}", host=host)
    return _follow(question, message, steps)


def _follow(question: Question, message: Message, steps: int) -> Records:
    wanted: dict[bytes, list[Record]] = {}
    aliases: dict[bytes, Record] = {}
    for record in message.records:
        if record.section != ANSWER or record.klass != _IN:
            continue
        if record.type == question.type:
            wanted.setdefault(record.name.lower(), []).append(record)
        elif record.type == CNAME:
            aliases.setdefault(record.name.lower(), record)
    name, ttl = question.name, MAX_TTL_S
    while name not in wanted and (alias := aliases.get(name)) is not None:
        target = message.name_in(alias)
        steps += 1
        if target is None or steps > MAX_ALIASES:
            raise _invalid(question, "an alias of nothing" if target is None else "many aliases")
        name, ttl = target.lower(), min(ttl, _ttl(alias))
    if name in wanted:
        found = wanted[name]
        values = dict.fromkeys(_value(question, message, record) for record in found)
        return Records(tuple(values), min(ttl, *map(_ttl, found)))
    # With the SOA record of its zone the server says that the last name has no such record.
    ended = any(r.section == AUTHORITY and r.type == SOA for r in message.records)
    if name == question.name or ended:
        return Records((), 0)
    raise Alias(name, ttl, steps)


def _ttl(record: Record) -> int:
    return record.ttl if record.ttl < 1 << 31 else 0  # RFC 2181 §8


def _value(question: Question, message: Message, record: Record) -> tuple[bytes, ...]:
    if question.type == TXT:
        strings = message.strings(record)
        if strings is None:
            raise _invalid(question, "a TXT record that ends early")
        return tuple(strings)
    if record.size != _SIZES[question.type]:
        raise _invalid(question, f"an address of {record.size} bytes")
    return (message.rdata(record),)


def _invalid(question: Question, what: str) -> DnsInvalidResponse:
    return DnsInvalidResponse(
        f"{question.host}: a name server answered with {what}", host=question.host
    )
