"""The HTTP side of the server: which request is answered by what."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Final, TypeAlias

from ..aio.tasks import Tasks
from ..web.exposition import Histogram, Value
from ..web.health import health
from ..web.http import HttpProtocol
from ..web.message import Later, Request, Response
from .answering import ANY_ORIGIN, failure, plain
from .doh import DohRoutes
from .pkarr import PacketRoutes

__all__ = ["App", "HttpCounters"]

logger = logging.getLogger("iroh_fast.dns_server.http")

LATENCY_BOUNDS_S: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)

Given: TypeAlias = "Response | Later | Awaitable[Response]"
Handler: TypeAlias = "Callable[[Request, str], Given]"
"""Answers a request of a client with an IP address."""

_NOT_FOUND: Final = Response(404, b"", ANY_ORIGIN)
_PKARR: Final = "/pkarr/"


@dataclass(slots=True)
class HttpCounters:
    """What is counted of requests to routes that exist."""

    http_requests: int = 0
    http_requests_success: int = 0
    http_requests_error: int = 0
    seconds: float = 0.0
    latency: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS_S))

    def note(self, status: int, seconds: float) -> None:
        self.http_requests += 1
        if 200 <= status < 300:
            self.http_requests_success += 1
        else:
            self.http_requests_error += 1
        self.seconds += seconds
        self.latency.observe(seconds)


class App:
    """Answers the requests of all listeners.

    Parameters
    ----------
    packets, doh : PacketRoutes and DohRoutes
    on_request : callable
        Called with the connection of each request to a route that exists.
    acme_answer : callable, optional
        What to answer to an ACME server for a path, or None.
    """

    def __init__(
        self,
        packets: PacketRoutes,
        doh: DohRoutes,
        *,
        on_request: Callable[[HttpProtocol], object],
        acme_answer: Callable[[str], bytes | None] | None = None,
    ) -> None:
        self.counters = HttpCounters()
        self._packets = packets
        self._on_request = on_request
        self._acme_answer = acme_answer
        self._tasks = Tasks()
        health_answer = health(ANY_ORIGIN)
        hi, ok = plain("Hi!"), plain("OK")
        self._routes: dict[str, dict[str, Handler]] = {
            "/": {"GET": lambda _request, _peer: hi},
            "/healthz": {"GET": lambda _request, _peer: health_answer},
            "/healthcheck": {"GET": lambda _request, _peer: ok},
            "/dns-query": {"GET": doh.get, "POST": doh.post},
        }
        self._of_packets: dict[str, Handler] = {
            "GET": lambda request, _peer: packets.get(request.path[len(_PKARR) :]),
            "PUT": lambda request, peer: packets.put(request, peer, request.path[len(_PKARR) :]),
        }

    def handle(self, request: Request, protocol: HttpProtocol) -> Response | Later:
        """Answer a request, perhaps later."""
        path = request.path
        methods = self._methods(path)
        if methods is None:
            return self._elsewhere(request, path)
        self._on_request(protocol)
        begun = time.perf_counter()
        method = request.method
        handler = methods.get("GET" if method == "HEAD" else method)
        given: Given
        if handler is not None:
            given = handler(request, protocol.peer)
        elif method == "OPTIONS":
            given = _preflight(methods)
        else:
            given = Response(405, b"", (*ANY_ORIGIN, ("allow", _allowed(methods))))
        return self._counted(given, begun)

    def _methods(self, path: str) -> dict[str, Handler] | None:
        if path.startswith(_PKARR):
            name = path[len(_PKARR) :]
            return self._of_packets if name and "/" not in name else None
        return self._routes.get(path)

    def _elsewhere(self, request: Request, path: str) -> Response:
        if request.method == "OPTIONS":
            return _preflight({})
        if self._acme_answer is not None and request.method == "GET":
            if (content := self._acme_answer(path)) is not None:
                return Response(200, content, (("content-type", "application/octet-stream"),))
        return _NOT_FOUND

    def _counted(self, given: Given, begun: float) -> Response | Later:
        if isinstance(given, Response):
            self.counters.note(given.status, time.perf_counter() - begun)
            return given
        later = given if isinstance(given, Later) else self._in_task(given)
        later.observe(
            lambda response: self.counters.note(response.status, time.perf_counter() - begun)
        )
        return later

    def values(self) -> dict[str, Value]:
        """Values of the metrics of this side."""
        counters = self.counters
        return {
            **asdict(self._packets.counters),
            "http_requests": counters.http_requests,
            "http_requests_success": counters.http_requests_success,
            "http_requests_error": counters.http_requests_error,
            "http_requests_duration_ms": int(counters.seconds * 1000),
            "http_request_seconds": counters.latency,
        }

    # --- answers that need a task

    def _in_task(self, answer: Awaitable[Response]) -> Later:
        later = Later()
        later.on_gone = self._tasks.start(self._finish(answer, later)).cancel
        return later

    async def _finish(self, answer: Awaitable[Response], later: Later) -> None:
        try:
            response = await answer
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("an answer failed")
            response = failure(500)
        later.set(response)

    async def close(self) -> None:
        """End what is still being answered."""
        await self._tasks.end()


def _allowed(methods: dict[str, Handler]) -> str:
    return ",".join(name for method in methods for name in _with_head(method))


def _with_head(method: str) -> tuple[str, ...]:
    return ("GET", "HEAD") if method == "GET" else (method,)


def _preflight(methods: dict[str, Handler]) -> Response:
    """Scripts of every origin may ask (CORS)."""
    headers = (("access-control-allow-methods", "GET,POST,PUT"), *ANY_ORIGIN)
    if methods:
        headers = (*headers, ("allow", _allowed(methods)))
    return Response(200, b"", headers)
