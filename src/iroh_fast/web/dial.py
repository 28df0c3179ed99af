"""From a host and port to an open stream: race of addresses, proxy, TLS.

Time comes from the event loop, names and sockets from two functions that can be replaced.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from ..aio._waiters import WaitQueue
from ..aio.once import Once
from ..errors import DialError, DialErrorKind
from .ca import CaConfig, trusted
from .proxy import Proxy
from .race import Connect, Resolve, connect, race, resolve
from .tls_faults import tls_fault

__all__ = ["Link", "StreamDialer", "parse_head"]

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 64

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?")
_HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*)")


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Parse the head of an HTTP/1 response.

    Parameters
    ----------
    head : bytes
        Everything before the empty line.

    Returns
    -------
    tuple of int and dict
        Status, and the first value of each header by lower-case name.

    Raises
    ------
    ValueError
        Not a response, or more than 64 headers.
    """
    first, *lines = head.split(b"\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise ValueError("not an HTTP/1 response")
    if len(lines) > MAX_HEADERS:
        raise ValueError(f"more than {MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER_LINE.fullmatch(line)
        if header is None:
            raise ValueError("malformed header")
        name = header[1].decode("ascii").lower()
        headers.setdefault(name, header[2].decode("latin-1").rstrip(" \t"))
    return int(match[1]), headers


class Link(asyncio.BufferedProtocol):
    """A stream that begins with HTTP heads, later whatever follows.

    A subclass overrides `get_buffer` and `buffer_updated` for the time after `start`.

    Attributes
    ----------
    transport : asyncio.Transport or None
        The innermost one: below TLS while a tunnel is set up.
    lost : Once
        The socket is gone.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost = Once()
        self._scratch = bytearray(4096)
        self._head = bytearray()
        self._waiting = WaitQueue()  # for more bytes, or the end
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        # A view, since asyncio's TLS slices what it gets here and reads into the slice.
        return memoryview(self._scratch)

    def buffer_updated(self, nbytes: int) -> None:
        self._head += self._scratch[:nbytes]
        if len(self._head) > MAX_HEAD_BYTES and self.transport is not None:
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._wake()
        self.lost.set()

    def _wake(self) -> None:
        self._waiting.wake_all()

    async def read_head(self) -> bytes:
        """Wait for the head of a response; returns it without the empty line.

        Raises
        ------
        ConnectionError
            The stream ended before.
        ValueError
            It is longer than 16 KiB.
        """
        searched = 0
        while (end := self._head.find(b"\r\n\r\n", max(0, searched - 3), MAX_HEAD_BYTES)) < 0:
            searched = len(self._head)
            if searched >= MAX_HEAD_BYTES:
                raise ValueError(f"a response head of more than {MAX_HEAD_BYTES} bytes")
            if self._ended:
                raise ConnectionResetError("the connection ended before the answer")
            await self._waiting.wait()
        head = bytes(self._head[:end])
        del self._head[: end + 4]
        return head

    def take_rest(self) -> bytes:
        """Return (and forget) the bytes that came after the last head."""
        rest = bytes(self._head)
        self._head.clear()
        return rest

    def abort(self) -> None:
        """Drop the TCP connection."""
        if self.transport is not None:
            self.transport.abort()


class StreamDialer:
    """Opens TCP or TLS streams to servers, through an HTTP proxy where there is one.

    Parameters
    ----------
    ca : CaConfig, ssl.SSLContext or None
        What to trust; None: the embedded roots.
    proxy : Proxy, str or None
        Tunnel through this HTTP proxy.
    prefer_ipv6 : callable returning bool
        Asked at each dial.
    resolve, connect : see `iroh_fast.web.race.race`.
    """

    def __init__(
        self,
        *,
        ca: CaConfig | ssl.SSLContext | None = None,
        proxy: Proxy | str | None = None,
        prefer_ipv6: Callable[[], bool] = lambda: False,
        resolve: Resolve = resolve,
        connect: Connect = connect,
    ) -> None:
        self._ca = ca
        self._proxy = Proxy.parse(proxy) if isinstance(proxy, str) else proxy
        self._prefer_ipv6 = prefer_ipv6
        self._resolve = resolve
        self._connect = connect

    def tls_context(self) -> ssl.SSLContext:
        """The context of all TLS connections, made when first needed."""
        return trusted(self._ca)

    async def open(self, link: Link, host: str, port: int, *, server_name: str | None) -> None:
        """Connect `link` to a server; ``link.transport`` is the stream then.

        Parameters
        ----------
        host : str
            Name with its trailing dot if it has one, or an IP address without brackets.
        server_name : str or None
            For TLS: SNI, and what the certificate has to be for; None: no TLS.

        Raises
        ------
        DialError
            Its `kind` names the step.

        Notes
        -----
        Has no time limit of its own beyond those of `race`. The caller aborts `link` when this
        fails or is cancelled.
        """
        proxy = self._proxy
        # Before dialling: uvloop leaks the transport when a handshake cannot even start.
        if proxy is not None and proxy.tls:
            _check_name(proxy.host.removesuffix("."), "proxy_invalid_tls_servername")
        if server_name is not None:
            _check_name(server_name, "invalid_tls_servername")
        if proxy is None:
            await self._stream(link, host, port, server_name, proxied=False)
            return
        name = proxy.host.removesuffix(".") if proxy.tls else None
        await self._stream(link, proxy.host, proxy.port, name, proxied=True)
        await self._tunnel(link, host, port, proxy, speaks_tls=server_name is not None)
        if server_name is not None:
            await self._tls_inside(link, server_name)

    async def _stream(
        self, link: Link, host: str, port: int, server_name: str | None, *, proxied: bool
    ) -> None:
        sock = await race(
            host,
            port,
            prefer_ipv6=self._prefer_ipv6(),
            resolve=self._resolve,
            connect=self._connect,
        )
        options: dict[str, Any] = {}
        if server_name is not None:
            options = {"ssl": self.tls_context(), "server_hostname": server_name}
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: link, sock=sock, **options)
        except OSError as err:
            sock.close()
            raise _tls_error(err, server_name or host, proxy=proxied) from err
        except BaseException:
            sock.close()
            raise

    async def _tls_inside(self, link: Link, server_name: str) -> None:
        """Begin TLS with the server at the other end of the tunnel."""
        assert link.transport is not None
        try:
            transport = await asyncio.get_running_loop().start_tls(
                link.transport, link, self.tls_context(), server_hostname=server_name
            )
        except OSError as err:
            raise _tls_error(err, server_name, proxy=False) from err
        if transport is None:
            raise DialError("closed", "the proxy ended the connection")
        link.transport = transport

    async def _tunnel(
        self, link: Link, host: str, port: int, proxy: Proxy, *, speaks_tls: bool
    ) -> None:
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [
            f"CONNECT {authority} HTTP/1.1",
            f"Host: {host}",
            "Proxy-Connection: Keep-Alive",
        ]
        if proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        assert link.transport is not None
        link.transport.write(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
        try:
            status, _ = parse_head(await link.read_head())
        except (OSError, ValueError) as err:
            raise DialError("proxy_connect", f"the proxy failed: {err}") from err
        if not 200 <= status <= 299:
            raise DialError(
                "proxy_connect_invalid_status",
                f"the proxy answered with HTTP status {status}",
                status=status,
            )
        # What follows the head belongs to the tunnel.  A TLS server never speaks first.
        if speaks_tls and link.take_rest():
            raise DialError("proxy_connect", "the tunnel began with unexpected bytes")


def _check_name(name: str, kind: DialErrorKind) -> None:
    try:
        name.encode("idna")
    except UnicodeError as err:
        raise DialError(kind, f"{name[:80]} is not a name for TLS: {err}") from None


def _tls_error(err: OSError, name: str, *, proxy: bool) -> DialError:
    """Name what a TLS handshake raised."""
    if isinstance(err, ssl.SSLError):
        return DialError("tls", tls_fault(err, name))
    text = f"the connection ended during set-up: {str(err) or type(err).__name__}"
    return DialError("proxy_connect" if proxy else "io", text)
