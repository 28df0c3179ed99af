"""What servers answer to those who watch over them."""

from __future__ import annotations

from .. import __version__
from .message import Headers, Response

__all__ = ["health"]


def health(extra: Headers = ()) -> Response:
    """The server is up, in the form of iroh's servers."""
    body = f'{{"status":"ok","version":"{__version__}","git_hash":"unknown"}}'
    return Response(200, body.encode(), (("content-type", "application/json"), *extra))
