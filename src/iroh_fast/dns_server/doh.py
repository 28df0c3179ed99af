"""DNS over HTTPS: messages (RFC 8484) and their JSON form, at ``/dns-query``."""

from __future__ import annotations

import binascii
from collections.abc import Awaitable
from typing import Final

from ..errors import BadQuery
from ..web.message import Headers, Request, Response, query_pairs
from .answering import ANY_ORIGIN, failure
from .answers import Answers
from .doh_json import json_answer, json_query, min_ttl

__all__ = ["DohRoutes"]

_MESSAGE: Final[Headers] = (("content-type", "application/dns-message"), *ANY_ORIGIN)
_JSON: Final[Headers] = (("content-type", "application/dns-json"), *ANY_ORIGIN)
_MESSAGE_TYPE: Final = "application/dns-message"
_JSON_TYPES: Final = ("application/dns-json", "application/x-javascript")

_SYMBOLS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TO_BASE64: Final = bytes.maketrans(b"-_", b"+/")

Given = Response | Awaitable[Response]


class DohRoutes:
    """Answers DNS queries that come over HTTP.

    Parameters
    ----------
    answers : Answers
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def get(self, request: Request, peer: str) -> Given:
        """A query in the URL: ``dns=`` for a message, ``name=`` for JSON."""
        accept = request.get("accept")
        try:
            pairs = None if accept is None else _pairs(request)
            wants_json = False
            if accept is not None and pairs is not None:
                chosen = _choose(accept.decode("latin-1"), "dns" in pairs)
                if chosen is None:
                    return failure(406)
                wants_json = chosen
            if wants_json and pairs is not None:
                query = json_query(pairs)
            else:
                query = _message(_dns_parameter(request, pairs))
            answer = self._answers.answer(query, transport="https", source=peer)
        except BadQuery as err:
            return failure(400, str(err))
        if isinstance(answer, bytes):
            return _shown(answer, wants_json)
        return self._later(answer, wants_json)

    def post(self, request: Request, peer: str) -> Given:
        """A query as the body; headers do not matter."""
        try:
            answer = self._answers.answer(request.body, transport="https", source=peer)
        except BadQuery as err:
            return failure(400, str(err))
        if isinstance(answer, bytes):
            return Response(200, answer, _MESSAGE)
        return self._later_posted(answer)

    async def _later(self, answer: Awaitable[bytes], as_json: bool) -> Response:
        return _shown(await answer, as_json)

    async def _later_posted(self, answer: Awaitable[bytes]) -> Response:
        return Response(200, await answer, _MESSAGE)


def _shown(answer: bytes, as_json: bool) -> Response:
    ttl = min_ttl(answer)
    headers = _JSON if as_json else _MESSAGE
    if ttl is not None:
        headers = (*headers, ("cache-control", f"s-maxage={ttl}"))
    return Response(200, json_answer(answer) if as_json else answer, headers)


# --- reading ------------------------------------------------------------------------------


def _pairs(request: Request) -> dict[str, str]:
    """The parameters; BadQuery for one that is there twice."""
    found: dict[str, str] = {}
    for name, value in query_pairs(request):
        if name in found:
            raise BadQuery(f"Failed to deserialize query string: duplicate field `{name[:40]}`")
        found[name] = value
    return found


def _dns_parameter(request: Request, pairs: dict[str, str] | None) -> bytes:
    target = request.target
    at = target.find("?dns=")
    if pairs is None and at >= 0 and "&" not in target and "%" not in target:
        return target[at + 5 :].encode("latin-1")  # all that most clients send
    text = (_pairs(request) if pairs is None else pairs).get("dns")
    if text is None:
        raise BadQuery("Failed to deserialize query string: missing field `dns`")
    return text.encode("utf-8")


def _message(text: bytes) -> bytes:
    """Decode base64url; padding is tolerated, unlike in iroh's server."""
    text = text.rstrip(b"=")
    if text.translate(None, _SYMBOLS):
        offset = next(at for at, symbol in enumerate(text) if symbol not in _SYMBOLS)
        raise BadQuery(f"Invalid symbol {text[offset]}, offset {offset}.")
    try:
        return binascii.a2b_base64(text.translate(_TO_BASE64) + b"=" * (-len(text) % 4))
    except binascii.Error:
        raise BadQuery("Invalid input length") from None


def _choose(accept: str, has_message: bool) -> bool | None:
    """Whether JSON is wanted; None: neither form.

    DIFFERS: iroh's server compares the header as a whole, so that ``*/*``, the default of most
    clients, is refused.
    """
    best: tuple[float, bool] | None = None
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if name == _MESSAGE_TYPE:
            as_json = False
        elif name in _JSON_TYPES:
            as_json = True
        elif name in ("*/*", "application/*"):
            as_json = not has_message
        else:
            continue
        weight = _weight(parameters)
        if weight > 0 and (best is None or weight > best[0]):
            best = weight, as_json
    return None if best is None else best[1]


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                weight = float(parameter[2:])
            except ValueError:
                return 0.0
            return weight if 0.0 <= weight <= 1.0 else 0.0
    return 1.0
