"""Showing an ACME server who has a name within a TLS handshake (TLS-ALPN-01, RFC 8737).

The server connects to the HTTPS listener and offers the protocol ``acme-tls/1`` alone; it is shown a
certificate that nobody else would trust. Python's `ssl` cannot choose a certificate by protocol, so the
beginning of a handshake is looked at before.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterator
from typing import Final

from .tls_files import context_of, self_signed

__all__ = ["PROTOCOL", "TlsChallenges", "offered"]

PROTOCOL: Final = "acme-tls/1"

_IDENTIFIER: Final = "1.3.6.1.5.5.7.1.31"  # id-pe-acmeIdentifier
_SERVER_NAME: Final = 0
_ALPN: Final = 16


class TlsChallenges:
    """What is shown to an ACME server, by name."""

    def __init__(self) -> None:
        self._contexts: dict[str, ssl.SSLContext] = {}

    def show(self, name: str, authorization: bytes) -> None:
        """Show a key authorization (RFC 8555 §8.1) for a name from now on."""
        digest = hashlib.sha256(authorization).digest()
        context = context_of(*self_signed((name,), critical={_IDENTIFIER: b"\x04\x20" + digest}))
        context.set_alpn_protocols([PROTOCOL])
        self._contexts[name.lower()] = context

    def clear(self) -> None:
        self._contexts.clear()

    def choose(self, peek: Callable[[], bytes]) -> ssl.SSLContext | None:
        """The context for a client whose first bytes `peek` gives; None: the usual one."""
        if not self._contexts:
            return None
        name, protocols = offered(peek())
        return self._contexts.get(name) if protocols == [PROTOCOL] else None


def offered(hello: bytes) -> tuple[str, list[str]]:
    """Name of the server and protocols of a ClientHello (RFC 8446 §4.1.2), as far as it is there."""
    name, protocols = "", []
    try:
        for kind, data in _extensions(hello):
            if kind == _SERVER_NAME:
                name = _take(data[2:], 1, 2)[0].decode("ascii").lower()
            elif kind == _ALPN:
                rest = data[2:]
                while rest:
                    one, rest = _take(rest, 0, 1)
                    protocols.append(one.decode("latin-1"))
    except (IndexError, UnicodeDecodeError):
        pass
    return name, protocols


def _take(data: bytes, at: int, width: int) -> tuple[bytes, bytes]:
    """What stands behind a length of `width` bytes, and the rest; IndexError if it is not there."""
    size = int.from_bytes(data[at : at + width], "big")
    begin = at + width
    if begin + size > len(data):
        raise IndexError
    return data[begin : begin + size], data[begin + size :]


def _extensions(hello: bytes) -> Iterator[tuple[int, bytes]]:
    # One record of a handshake, one ClientHello: its length, version and random.
    if hello[:1] != b"\x16" or hello[5:6] != b"\x01":
        return
    rest = _take(hello, 6, 3)[0][34:]
    for width in (1, 2, 1):  # session, ciphers, compression
        rest = _take(rest, 0, width)[1]
    rest = _take(rest, 0, 2)[0]
    while rest:
        data, following = _take(rest, 2, 2)
        yield int.from_bytes(rest[:2], "big"), data
        rest = following
