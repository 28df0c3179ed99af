"""What a relay server answers to plain HTTP requests, and what it reads from the head of an upgrade."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from ... import __version__
from ...errors import ConfigError
from ...web.message import Request, Response, query_pairs
from ..wire import PROTOCOLS, choose_protocol

__all__ = [
    "SECURITY_HEADERS",
    "Route",
    "Routes",
    "Upgrade",
    "auth_token",
    "check_routes",
    "challenge_response",
    "read_upgrade",
]

Route: TypeAlias = Callable[[Request], Response]
"""Answers a plain GET request of the main listener."""

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


def check_routes(routes: object) -> dict[str, Route]:
    """The further routes of an embedder; TypeError or ConfigError if they cannot work."""
    if not isinstance(routes, Mapping):
        raise TypeError(f"routes maps paths to functions, not {type(routes).__name__}")
    for path, route in routes.items():
        if not isinstance(path, str):
            raise TypeError(f"a path of routes is text, not {type(path).__name__}")
        if not path.startswith("/"):
            raise ConfigError(f"a path of routes begins with a slash, not {path[:80]!r}")
        if not callable(route) or isinstance(route, type) or inspect.iscoroutinefunction(route):
            raise TypeError(f"the route {path[:80]!r} is a plain function, not {route!r:.80}")
    return dict(routes)


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


_PAGE: Final = b"""<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>iroh relay</title></head>
<body><h1>iroh relay</h1>
<p>This is a relay server for <a href="https://iroh.computer/">iroh.computer</a> endpoints,
run by iroh_fast.</p></body></html>
"""


class Routes:
    """The plain routes of a relay server.

    Parameters
    ----------
    more : mapping
        Path to a function of the request, for GET on the main listener.
    plain : bool
        There is no TLS: the main listener answers the captive portal check, too.
    acme_answer : callable, optional
        What to answer to an ACME server for a path, or None.
    """

    def __init__(
        self,
        more: Mapping[str, Route],
        *,
        plain: bool,
        acme_answer: Callable[[str], bytes | None] | None = None,
    ) -> None:
        self._more = dict(more)
        self._plain = plain
        self._acme_answer = acme_answer

    def main(self, request: Request) -> Response:
        """Answer a request to the main listener."""
        path = request.path if request.method == "GET" else ""
        extra = SECURITY_HEADERS
        if path == "/ping":
            return Response(200, b"", (("access-control-allow-origin", "*"), *extra))
        if path == "/healthz":
            body = f'{{"status":"ok","version":"{__version__}","git_hash":"unknown"}}'
            return Response(200, body.encode(), (("content-type", "application/json"), *extra))
        if path in ("/", "/index.html"):
            return Response(200, _PAGE, (("content-type", "text/html; charset=utf-8"), *extra))
        if path == "/robots.txt":
            return Response(200, b"User-agent: *\nDisallow: /\n", extra)
        if path == "/generate_204" and self._plain:
            return _generate_204(request, extra)
        if path in self._more:
            response = self._more[path](request)
            return Response(response.status, response.body, (*response.headers, *extra))
        return Response(404, b"Not Found", extra)

    def captive_portal(self, request: Request) -> Response:
        """Answer a request to the plain listener beside a TLS one."""
        if request.method == "GET" and request.path == "/generate_204":
            return _generate_204(request, ())
        if request.method == "GET" and self._acme_answer is not None:
            if (content := self._acme_answer(request.path)) is not None:
                return Response(200, content, (("content-type", "application/octet-stream"),))
        return Response(404, b"Not Found")


def _generate_204(request: Request, extra: tuple[tuple[str, str], ...]) -> Response:
    answer = challenge_response(request.get("x-iroh-challenge"))
    headers = () if answer is None else (("x-iroh-response", answer),)
    return Response(204, b"", (*headers, *extra))


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A request for a WebSocket that can be granted.

    Parameters
    ----------
    key : bytes
        ``Sec-WebSocket-Key``.
    protocol : str
        The sub-protocol that was chosen.
    version : int
        Its number, 1 or 2.
    """

    key: bytes
    protocol: str
    version: int


def read_upgrade(request: Request) -> Upgrade | Response:
    """Check the head of a WebSocket request (RFC 6455 §4.2.1); gives the refusal if it is wrong."""

    def refuse(text: str, *headers: tuple[str, str]) -> Response:
        return Response(400, text.encode(), (*headers, *SECURITY_HEADERS))

    upgrade = request.get("upgrade")
    if upgrade is None:
        return refuse("missing header: upgrade")
    if upgrade.lower() != b"websocket":
        return refuse("invalid header value for upgrade: value must be websocket")
    key = request.get("sec-websocket-key")
    if key is None:
        return refuse("missing header: sec-websocket-key")
    version = request.get("sec-websocket-version")
    if version is None:
        return refuse("missing header: sec-websocket-version", ("sec-websocket-version", "13"))
    if version != b"13":
        return refuse(
            "invalid header value for sec-websocket-version: unsupported websocket version, "
            "only supporting 13",
            ("sec-websocket-version", "13"),
        )
    offered = request.get("sec-websocket-protocol")
    if offered is None:
        return refuse("missing header: sec-websocket-protocol")
    if not all(0x20 <= byte < 0x7F or byte == 0x09 for byte in offered):
        return refuse("invalid header value for sec-websocket-protocol: not ASCII")
    chosen = choose_protocol(offered.decode("ascii"))
    if chosen is None:
        known = ", ".join(PROTOCOLS)
        return refuse(
            "invalid header value for sec-websocket-protocol: unsupported relay version: "
            f"we support {known} but you only provide {offered.decode('ascii')}"
        )
    return Upgrade(key, *chosen)
