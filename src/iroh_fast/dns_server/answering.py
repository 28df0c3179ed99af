"""What all routes of the HTTP side answer with."""

from __future__ import annotations

import json
from typing import Final

from ..web.message import Headers, Response

__all__ = ["ANY_ORIGIN", "NO_CONTENT", "failure", "plain"]

ANY_ORIGIN: Final[Headers] = (("access-control-allow-origin", "*"),)
NO_CONTENT: Final = Response(204, b"", ANY_ORIGIN)

_JSON: Final[Headers] = (("content-type", "application/json"), *ANY_ORIGIN)
_TEXT: Final[Headers] = (("content-type", "text/plain; charset=utf-8"), *ANY_ORIGIN)


def failure(status: int, detail: str | None = None, headers: Headers = ()) -> Response:
    """An error as iroh's server tells it: JSON, with the status as text."""
    body = json.dumps({"status": str(status), "detail": detail}, separators=(",", ":"))
    return Response(status, body.encode(), (*_JSON, *headers))


def plain(text: str) -> Response:
    return Response(200, text.encode(), _TEXT)
