"""DNS over HTTPS in JSON, as Google, Cloudflare and iroh's server have it."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any, Final

from .. import _dns
from ..errors import BadQuery, DnsMessageError, printable

__all__ = ["json_answer", "json_query", "min_ttl"]

_TYPES: Final = {
    "A": 1,
    "NS": 2,
    "CNAME": 5,
    "SOA": 6,
    "PTR": 12,
    "MX": 15,
    "TXT": 16,
    "AAAA": 28,
    "SRV": 33,
}
_TXT: Final = 16
_ADDRESSES: Final = {1: 4, 28: 16}
_FLAGS: Final = {"TC": 0x0200, "RD": 0x0100, "RA": 0x0080, "AD": 0x0020, "CD": 0x0010}
_YES_NO: Final = {"true": True, "false": False, "1": True, "0": False}
_MAX_TEXT: Final = 1024  # of a name with each byte escaped: 4 characters for 255 bytes


def json_query(params: Mapping[str, str]) -> bytes:
    """Make a query of the parameters of a request.

    Parameters
    ----------
    params : mapping of str to str
        ``name``, and perhaps ``type`` (a number or a name, A unless given), ``cd``, ``do`` and ``rd`` (``true``,
        ``false``, 1 or 0); others do not matter.

    Returns
    -------
    bytes
        A query with the id 0. `json_answer` takes the answer to it.

    Raises
    ------
    BadQuery
        A parameter is missing or means nothing.
    """
    if "name" not in params:
        raise BadQuery("Failed to deserialize query string: missing field `name`")
    flags = 0
    if _switch(params, "rd", True):
        flags |= _FLAGS["RD"]
    if _switch(params, "cd", False):
        flags |= _FLAGS["CD"]
    if _switch(params, "do", False):
        flags |= _FLAGS["AD"]
    writer = _dns.Writer(0, flags)
    writer.question(_name(params["name"]), _type(params.get("type", "A")))
    return writer.finish()


def _switch(params: Mapping[str, str], name: str, default: bool) -> bool:
    text = params.get(name)
    if text is None:
        return default
    if text not in _YES_NO:
        raise BadQuery(
            f"Failed to deserialize query string: {name}: provided string was not `true` or `false`"
        )
    return _YES_NO[text]


def _name(text: str) -> bytes:
    """A name on the wire; letters that are not ASCII as IDNA has them."""
    if len(text) > _MAX_TEXT:
        raise BadQuery("name: too long")
    try:
        if text.isascii():
            return _dns.name_from_text(text)
        import dns.exception
        import dns.name

        try:
            return dns.name.from_text(text).to_wire() or b"\0"
        except (dns.exception.DNSException, UnicodeError):
            raise BadQuery(f"name: not a domain name: {printable(text, 80)!r}") from None
    except DnsMessageError as err:
        raise BadQuery(f"name: {err}") from None


def _type(text: str) -> int:
    known = _TYPES.get(text.upper())
    if known is not None:
        return known
    if text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 0xFFFF:
        return int(text)
    import dns.exception
    import dns.rdatatype

    try:
        return int(dns.rdatatype.from_text(text[:32]))
    except (dns.exception.DNSException, ValueError):
        raise BadQuery(f"record type string unknown: {printable(text, 80)}") from None


def json_answer(wire: bytes) -> bytes:
    """The JSON of an answer of our own, as UTF-8; TXT data without quotes."""
    message = _dns.read_message(wire)
    answer: dict[str, Any] = {"Status": message.flags & 15}
    answer.update((name, bool(message.flags & bit)) for name, bit in _FLAGS.items())
    answer["Question"] = [
        {"name": _dns.name_to_text(question.name), "type": question.type}
        for question in message.questions
    ]
    records = [
        {
            "name": _dns.name_to_text(record.name),
            "type": record.type,
            "TTL": record.ttl,
            "data": _data(message, record),
        }
        for record in message.records
        if record.section == _dns.ANSWER
    ]
    if records:
        answer["Answer"] = records
    answer["Comment"] = None
    answer["edns_client_subnet"] = None
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _data(message: _dns.Message, record: _dns.Record) -> str:
    if record.type == _TXT and (strings := message.strings(record)) is not None:
        return b"".join(strings).decode("utf-8", "replace")
    raw = message.rdata(record)
    if _ADDRESSES.get(record.type) == len(raw):
        return str(ipaddress.ip_address(raw))
    return _presented(message.data, record)


def _presented(wire: bytes, record: _dns.Record) -> str:
    """Data of other types as zone files have them; of unknown ones as RFC 3597 §5 does."""
    import dns.exception
    import dns.rdata
    import dns.rdataclass
    import dns.rdatatype

    klass = dns.rdataclass.RdataClass.make(record.klass)
    kind = dns.rdatatype.RdataType.make(record.type)
    try:
        rdata = dns.rdata.from_wire(klass, kind, wire, record.offset, record.size)
    except (dns.exception.DNSException, ValueError):
        raw = wire[record.offset : record.offset + record.size]
        rdata = dns.rdata.GenericRdata(klass, kind, raw)
    return rdata.to_text()


def min_ttl(wire: bytes) -> int | None:
    """How long an answer may be cached, in seconds: the least TTL of its answer records; None without."""
    records = _dns.read_message(wire).records
    return min((record.ttl for record in records if record.section == _dns.ANSWER), default=None)
