"""Tickets: addresses and more as one piece of text to copy and paste.

The text is the kind in lower case followed at once by base32 of the payload, as in
the Rust crate iroh-tickets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from ._check import Buffer
from .addr import EndpointAddr, PostcardReader
from .errors import (
    AddrError,
    KeyParsingError,
    TicketContentError,
    TicketEncodingError,
    TicketKindError,
)
from .keys import EndpointId, PublicKey, base32_decode, base32_encode

__all__ = ["EndpointTicket", "Ticket", "to_endpoint_addr"]


# Of no width: soft hyphen, joiners, marks of direction and of byte order.
INVISIBLE = dict.fromkeys((0xAD, *range(0x200B, 0x2010), 0x2060, 0xFEFF))


class Ticket(ABC):
    """Base of all kinds of tickets.

    Subclasses set `kind` and say how the payload is encoded; the text form follows.

    Attributes
    ----------
    kind : str
        Prefix of the text, compared case-sensitively.
    """

    __slots__ = ()
    kind: ClassVar[str]

    @abstractmethod
    def to_bytes(self) -> bytes:
        """Return the payload."""

    @classmethod
    @abstractmethod
    def from_bytes(cls, data: Buffer, /) -> Self:
        """Make a ticket from its payload.  Raises `TicketContentError`."""

    @classmethod
    def parse(cls, text: str, /) -> Self:
        """Make a ticket from its text.

        Raises
        ------
        TicketKindError
            The text starts with something else than the kind.
        TicketEncodingError
            The rest is not base32 (of any case, without padding or blanks).
        TicketContentError
            The payload is cut short or holds something invalid.
        """
        if not isinstance(text, str):
            raise TypeError(f"a ticket is parsed from str, not {type(text).__name__}")
        if not text.startswith(cls.kind):
            raise TicketKindError(expected=cls.kind)
        try:
            payload = base32_decode(text[len(cls.kind) :])
        except ValueError as err:
            position = len(cls.kind) + err.args[1]
            raise TicketEncodingError(
                f"the ticket body is not base32: see character {position}", position=position
            ) from None
        return cls.from_bytes(payload)

    def __str__(self) -> str:
        return self.kind + base32_encode(self.to_bytes())


class EndpointTicket(Ticket):
    """A ticket that tells how to reach an endpoint.  Immutable.

    Parameters
    ----------
    addr : EndpointAddr or EndpointId
        Where it leads.
    """

    __slots__ = ("_addr",)
    kind: ClassVar[str] = "endpoint"
    _addr: EndpointAddr

    def __init__(self, addr: EndpointAddr | EndpointId, /) -> None:
        if isinstance(addr, PublicKey):
            addr = EndpointAddr(addr)
        if not isinstance(addr, EndpointAddr):
            raise TypeError(f"addr must be an EndpointAddr or EndpointId, not {type(addr).__name__}")
        self._addr = addr

    @property
    def addr(self) -> EndpointAddr:
        """Where the ticket leads."""
        return self._addr

    def to_bytes(self) -> bytes:
        """Return the payload: variant 0, then the address in postcard form."""
        return b"\x00" + self._addr.to_postcard()

    @classmethod
    def from_bytes(cls, data: Buffer, /) -> Self:
        """Make a ticket from its payload; bytes after it are ignored.

        Raises
        ------
        TicketContentError
            Cut short, of an unknown variant, or holding something invalid.
        """
        reader = PostcardReader(data)
        try:
            variant = reader.varint(32)
            if variant != 0:
                raise AddrError(f"unknown variant {variant}")
            addr = EndpointAddr._read(reader)
        except AddrError as err:
            raise TicketContentError(
                f"the ticket holds invalid data: {err}", offset=reader.offset
            ) from err
        return cls(addr)

    def __repr__(self) -> str:
        return f"EndpointTicket({self._addr!r})"

    def __eq__(self, other: object) -> bool:
        return self._addr == other._addr if isinstance(other, EndpointTicket) else NotImplemented

    def __hash__(self) -> int:
        return hash((EndpointTicket, self._addr))

    def __reduce__(self) -> tuple[type[Self], tuple[EndpointAddr]]:
        return type(self), (self._addr,)


def to_endpoint_addr(value: EndpointAddr | EndpointId | EndpointTicket | str, /) -> EndpointAddr:
    """Turn anything that stands for an endpoint into an `EndpointAddr`.

    Parameters
    ----------
    value : EndpointAddr, EndpointId, EndpointTicket or str
        Text is read as a ticket when it starts with ``endpoint``, else as an id; white space
        and characters of no width anywhere in it are dropped, and a ticket may be upper-case.

    Raises
    ------
    TicketError, KeyParsingError
        The text does not parse.
    TypeError
        Something else was given.
    """
    if isinstance(value, EndpointAddr):
        return value
    if isinstance(value, PublicKey):
        return EndpointAddr(value)
    if isinstance(value, EndpointTicket):
        return value.addr
    if isinstance(value, str):
        text = "".join(value.split())  # what was pasted may have been wrapped
        if not text.isascii():
            text = text.translate(INVISIBLE)
        kind = EndpointTicket.kind
        if text[: len(kind)].lower() == kind:  # as QR codes are written, too
            return EndpointTicket.parse(kind + text[len(kind) :]).addr
        try:
            return EndpointAddr(PublicKey(text))
        except KeyParsingError as err:
            given = repr(text) if len(text) <= 20 else f"{text[:16]!r}..."
            raise KeyParsingError(
                f"{given} is neither a ticket (which begins with {EndpointTicket.kind!r}) "
                f"nor an endpoint id: {err}",
                reason=err.reason,
            ) from None
    raise TypeError(
        "an endpoint is given by EndpointAddr, EndpointId, EndpointTicket or str, "
        f"not {type(value).__name__}"
    )
