"""Wrong input: keys, signatures, addresses, tickets, options."""

from __future__ import annotations

from typing import Literal

from .base import IrohError

__all__ = [
    "AddrError",
    "ConfigError",
    "CustomAddrError",
    "KeyParsingError",
    "KeyParsingReason",
    "RelayUrlError",
    "SignatureError",
    "SignatureParsingError",
    "TicketContentError",
    "TicketEncodingError",
    "TicketError",
    "TicketKindError",
    "UserDataTooLong",
]

KeyParsingReason = Literal["hex", "base32", "length", "point"]
"""What is wrong with the text or bytes of a key; see `KeyParsingError`."""


class KeyParsingError(IrohError, ValueError):
    """The text or the bytes of a key are not a key.

    Attributes
    ----------
    reason : {"hex", "base32", "length", "point"}
        Bad hexadecimal, bad base32 (or z-base-32), wrong length, or bytes that are no
        point of the curve.
    """

    _default = "not a key"
    reason: KeyParsingReason

    def __init__(self, message: str | None = None, *, reason: KeyParsingReason = "length") -> None:
        super().__init__(message)
        self.reason = reason


class SignatureError(IrohError):
    """The signature does not belong to this key and message."""

    _default = "Invalid signature"


class SignatureParsingError(IrohError, ValueError):
    """The bytes are not a signature: not 64 bytes."""

    _default = "a signature is 64 bytes"


class RelayUrlError(IrohError, ValueError):
    """The text is not an absolute URL, or not one fit for the purpose.

    Attributes
    ----------
    text : str
        What was given.
    """

    _default = "not a relay URL"
    text: str

    def __init__(self, message: str | None = None, *, text: str = "") -> None:
        super().__init__(message)
        self.text = text


class CustomAddrError(IrohError, ValueError):
    """The text or the bytes are not a custom transport address.

    Attributes
    ----------
    reason : {"separator", "id", "data", "length"}
        No ``_`` in the text, bad transport id, bad data, or too few bytes.
    """

    _default = "not a custom address"
    reason: Literal["separator", "id", "data", "length"]

    def __init__(
        self,
        message: str | None = None,
        *,
        reason: Literal["separator", "id", "data", "length"] = "data",
    ) -> None:
        super().__init__(message)
        self.reason = reason


class AddrError(IrohError, ValueError):
    """The value is not an address: socket, transport or endpoint address."""

    _default = "not an address"


class TicketError(IrohError, ValueError):
    """The text or the bytes are not a ticket of the wanted kind."""

    _default = "not a ticket"


class TicketKindError(TicketError):
    """The text does not start with the kind of ticket that was expected.

    Attributes
    ----------
    expected : str
        The prefix that was looked for.
    """

    expected: str

    def __init__(self, message: str | None = None, *, expected: str = "") -> None:
        super().__init__(f"wrong prefix, expected {expected}" if message is None else message)
        self.expected = expected


class TicketEncodingError(TicketError):
    """The body of the ticket is not base32.

    Attributes
    ----------
    position : int or None
        Index of the first offending character within the whole text.
    """

    _default = "the ticket body is not base32"
    position: int | None

    def __init__(self, message: str | None = None, *, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class TicketContentError(TicketError):
    """The decoded ticket is cut short or holds something invalid.

    Attributes
    ----------
    offset : int or None
        Byte of the payload at which decoding stopped.
    """

    _default = "the ticket holds invalid data"
    offset: int | None

    def __init__(self, message: str | None = None, *, offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset


class ConfigError(IrohError, ValueError):
    """An option has an impossible value."""

    _default = "invalid configuration"


class UserDataTooLong(IrohError, ValueError):
    """User data for address lookup is longer than 245 bytes of UTF-8.

    Attributes
    ----------
    size : int
        Bytes given.
    limit : int
        Bytes allowed.
    """

    size: int
    limit: int

    def __init__(self, size: int, limit: int = 245, message: str | None = None) -> None:
        if message is None:
            message = f"user data of {size} bytes is too long, at most {limit} are allowed"
        super().__init__(message)
        self.size = size
        self.limit = limit
