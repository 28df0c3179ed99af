"""One session of `aiohttp` that takes nothing from the system but sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from ..aio.once import seen
from ..errors import DnsError, HttpError, printable
from .names import Names
from .proxy import Proxy
from .tls_faults import tls_fault

__all__ = ["Session"]

RESOLUTION_DELAY_S: Final = 0.05  # RFC 8305 §3: for the other family, once there is an address
CONNECT_TIMEOUT_S: Final = 5.0  # for one address after the other
MAX_CONNECTIONS: Final = 16
MAX_ADDRESSES: Final = 16  # of a family


class _Resolver(AbstractResolver):
    """The endpoint's resolver, in the form that aiohttp wants."""

    def __init__(self, names: Names) -> None:
        self._names = names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Look up both families; the slower one does not hold up the other."""
        found = await self._both(host)
        return [
            ResolveResult(
                hostname=host,
                host=ip,
                port=port,
                family=socket.AF_INET6 if ":" in ip else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for ip in found
        ]

    async def _both(self, host: str) -> list[str]:
        tasks = [
            asyncio.ensure_future(self._names.lookup(host, family))
            for family in (socket.AF_INET6, socket.AF_INET)
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if any(task.done() and task.exception() is None for task in tasks):
                await asyncio.wait(tasks, timeout=RESOLUTION_DELAY_S)
            else:
                await asyncio.wait(tasks)
            ended = [task for task in tasks if task.done()]
            found = [
                list(task.result())[:MAX_ADDRESSES] for task in ended if task.exception() is None
            ]
            if not any(found):
                raise next(
                    (error for task in reversed(ended) if (error := task.exception())),
                    OSError("the name has no address"),
                )
            return [ip for family in found for ip in family]
        finally:
            for task in tasks:
                task.cancel()
                task.add_done_callback(seen)

    async def close(self) -> None:
        """The resolver belongs to the endpoint."""


class Session:
    """Connections to HTTP servers.

    Parameters
    ----------
    names : resolves hosts, that of the proxy as well.
    tls : makes the context of all TLS connections, called when first needed.
    """

    def __init__(
        self, names: Names, proxy: Proxy | None, tls: Callable[[], ssl.SSLContext]
    ) -> None:
        self._proxy: dict[str, Any] = {}
        self._for_proxy: dict[str, str] = {}
        if proxy is not None:
            host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
            scheme = "https" if proxy.tls else "http"
            self._proxy = {"proxy": f"{scheme}://{host}:{proxy.port}"}
            if proxy.authorization is not None:
                self._for_proxy = {"Proxy-Authorization": proxy.authorization}
        self._tls = tls
        self._proxy_tls = proxy is not None and proxy.tls
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_Resolver(names), use_dns_cache=False, limit=MAX_CONNECTIONS
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            skip_auto_headers=("User-Agent", "Content-Type"),
            auto_decompress=False,
            trust_env=False,
        )
        self._ending: asyncio.Task[None] | None = None

    async def request(
        self,
        method: str,
        url: str,
        shown: str,
        body: bytes | None,
        headers: Mapping[str, str],
        max_bytes: int,
        *,
        error_body: bool = False,
    ) -> tuple[int, dict[str, str], bytes]:
        """Make one request; redirects are answers.

        Parameters
        ----------
        shown : the URL for messages.

        Raises
        ------
        HttpError
        """
        tunnel = url.startswith("https:")
        sent = {"Accept-Encoding": "identity", **headers}
        if not tunnel:  # the proxy reads the request itself
            sent |= self._for_proxy
        context = self._tls() if tunnel or self._proxy_tls else True
        try:
            async with self._session.request(
                method,
                url,
                data=body,
                headers=sent,
                allow_redirects=False,
                ssl=context,
                proxy_headers=self._for_proxy if tunnel else None,
                **self._proxy,
            ) as response:
                try:
                    content = await _content(response, max_bytes, shown, error_body)
                except BaseException:
                    response.close()
                    raise
                first: dict[str, str] = {}
                for name, value in response.headers.items():
                    first.setdefault(name.lower(), value)
                return response.status, first, content
        except (aiohttp.ClientError, OSError, ValueError) as err:
            if isinstance(err, TimeoutError) and not isinstance(
                err, (DnsError, aiohttp.ClientError)
            ):
                raise
            raise _error(err, shown) from err

    async def close(self) -> None:
        """End all connections."""
        await self._session.close()

    def drop(self) -> None:
        """The same in the background, when nothing is under way."""
        self._ending = asyncio.get_running_loop().create_task(self.close())


async def _content(
    response: aiohttp.ClientResponse, max_bytes: int, shown: str, error_body: bool
) -> bytes:
    if not (error_body or 200 <= response.status <= 299):
        response.close()  # nobody wants it, and it may have no end
        return b""
    announced = response.content_length or 0
    parts: list[bytes] = []
    size = 0
    if announced <= max_bytes:
        async for part in response.content.iter_any():
            size += len(part)
            if size > max_bytes:
                break
            parts.append(part)
        else:
            return b"".join(parts)
    raise HttpError(
        "too_large",
        f"{shown} answered more than {max_bytes} bytes",
        url=shown,
        status=response.status,
    )


def _error(err: Exception, shown: str) -> HttpError:
    """What aiohttp raised, as an error of ours."""
    # What the operating system, the resolver or OpenSSL said.
    cause: object = getattr(err, "certificate_error", None) or getattr(err, "os_error", None) or err
    if isinstance(cause, DnsError):
        return HttpError("dns", f"{shown}: {cause}", url=shown)
    if isinstance(cause, ssl.SSLError):
        host = getattr(err, "host", "the server")
        return HttpError("tls", f"{shown}: {tls_fault(cause, host)}", url=shown)
    if isinstance(err, aiohttp.ClientHttpProxyError):
        text = f"{shown}: the proxy answered with HTTP status {err.status}"
        return HttpError("proxy", text, url=shown, status=err.status)
    if isinstance(err, aiohttp.ClientProxyConnectionError):
        return HttpError("proxy", f"{shown}: cannot connect to the proxy: {cause}", url=shown)
    if isinstance(err, (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError)):
        return HttpError("connect", f"{shown}: cannot connect: {cause}", url=shown)
    if isinstance(err, (aiohttp.InvalidURL, ValueError)):
        return HttpError("invalid_url", f"{shown}: not an HTTP URL", url=shown)
    text = printable(str(err) or type(err).__name__, 200)
    return HttpError("protocol", f"{shown}: the connection failed: {text}", url=shown)
