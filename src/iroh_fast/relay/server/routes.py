"""What a relay server answers to plain HTTP requests, and what it reads from the head of an upgrade."""

from __future__ import annotations

from typing import Final

from ...web.http import Request, query_pairs

__all__ = ["SECURITY_HEADERS", "auth_token", "challenge_response"]

SECURITY_HEADERS: Final = (
    ("strict-transport-security", "max-age=63072000; includeSubDomains"),
    (
        "content-security-policy",
        "default-src 'none'; frame-ancestors 'none'; form-action 'none'; base-uri 'self'; "
        "block-all-mixed-content; plugin-types 'none'",
    ),
)


_CHALLENGE_SYMBOLS: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
)


def challenge_response(challenge: bytes | None) -> str | None:
    """The value of ``X-Iroh-Response`` by which a client knows that no captive portal answers."""
    if challenge and len(challenge) < 64 and _CHALLENGE_SYMBOLS.issuperset(challenge):
        return "response " + challenge.decode("ascii")
    return None


def auth_token(request: Request) -> str | None:
    """The token of a request: of the header ``Authorization``, else of the query."""
    for name, value in request.headers:
        if name != "authorization":
            continue
        if not all(0x20 <= byte < 0x7F or byte == 0x09 for byte in value):
            return None
        scheme, space, token = value.decode("ascii").partition(" ")
        if space and scheme.lower() == "bearer":
            return token
    return next((value for name, value in query_pairs(request) if name == "token"), None)
