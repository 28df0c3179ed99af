"""From the URL of a relay to an open WebSocket: names, race of addresses, proxy, TLS, upgrade.

Nothing here knows relay frames.  Time comes from the event loop, names and sockets from two
functions that can be replaced.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import os
import re
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast
from urllib.parse import unquote_to_bytes

from ..addr import RelayUrl
from ..errors import ConfigError, RelayError, RelayUrlError
from .relay_map import check_token

__all__ = [
    "CaConfig",
    "Dialer",
    "Link",
    "Proxy",
    "RelayClientError",
    "RelayErrorKind",
    "Target",
    "proxy_from_env",
    "race",
]

DNS_TIMEOUT_S: Final = 3.0
ATTEMPT_TIMEOUT_S: Final = 1.5
STAGGER_S: Final = 0.25  # RFC 8305 §5, connection attempt delay
RESOLUTION_DELAY_S: Final = 0.05  # RFC 8305 §3
MAX_ADDRESSES: Final = 32  # per family; the rest of a longer answer is ignored
MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 64

PROTOCOLS: Final = ("iroh-relay-v2", "iroh-relay-v1")  # the preferred one first
_WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3

RelayErrorKind: TypeAlias = Literal[
    "invalid_relay_url",
    "invalid_auth_token",
    "invalid_tls_servername",
    "dns",
    "timeout",
    "io",
    "tls",
    "no_local_addr",
    "proxy_invalid_url",
    "proxy_invalid_target_port",
    "proxy_invalid_tls_servername",
    "proxy_connect",
    "proxy_connect_invalid_status",
    "unexpected_upgrade_status",
    "bad_version_header",
    "websocket",
    "handshake",
    "protocol",
    "closed",
    "ping_timeout",
    "send_timeout",
    "network_changed",
]
"""What went wrong with a relay; see `RelayClientError`."""


class RelayClientError(RelayError):
    """A relay could not be reached, refused us, or its connection ended.

    Attributes
    ----------
    kind : RelayErrorKind
        The step that failed.  From dialling: everything up to ``"handshake"``.  From a
        connection that was up: ``"protocol"`` the relay broke the protocol, ``"closed"`` it
        ended the connection, ``"ping_timeout"`` it did not answer, ``"send_timeout"`` it did
        not read, ``"network_changed"`` our address is gone, or ``"io"``.
    denied_reason : str or None
        What the relay said when it refused this endpoint.
    url, status :
        As in `RelayError`.
    """

    kind: RelayErrorKind
    denied_reason: str | None

    def __init__(
        self,
        kind: RelayErrorKind,
        message: str,
        *,
        url: str = "",
        status: int | None = None,
        denied_reason: str | None = None,
    ) -> None:
        super().__init__(message, url=url, status=status)
        self.kind = kind
        self.denied_reason = denied_reason

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (dict(self.__dict__),)


def _restore(state: dict[str, Any]) -> RelayClientError:
    error = RelayClientError(state["kind"], state["message"])
    error.__dict__.update(state)
    return error


# --- URLs -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect to and what to ask for.

    Parameters
    ----------
    host : str
        Name with its trailing dot if it has one, or an IP address without brackets.
    port : int
    tls : bool
    path : str
        Request target.
    host_header : str
        With brackets, and with the port unless it is the default one.
    """

    host: str
    port: int
    tls: bool
    path: str
    host_header: str

    @classmethod
    def of(cls, url: RelayUrl) -> Target:
        """Read a relay URL: ``http`` and ``ws`` mean plain, all other schemes TLS.

        The path becomes ``/relay``; the query stays, user and fragment do not.

        Raises
        ------
        RelayClientError
            ``"invalid_relay_url"``: there is no host, or the scheme has no ports.
        """
        scheme, host, port = url.scheme, url.host, url.port
        if scheme not in ("http", "https", "ws", "wss", "ftp") or not host or port is None:
            raise RelayClientError(
                "invalid_relay_url", f"no host to dial in a URL of scheme {scheme}", url=url
            )
        tls = scheme not in ("http", "ws")
        default = 443 if tls else 80
        if scheme == "ftp" and port == 21:
            port = default
        query = url.partition("#")[0].partition("?")
        name = f"[{host}]" if ":" in host else host
        return cls(
            host=host,
            port=port,
            tls=tls,
            path="/relay" + query[1] + query[2],
            host_header=name if port == default else f"{name}:{port}",
        )

    @property
    def server_name(self) -> str:
        """Name for SNI and for the check of the certificate: without trailing dot."""
        # OpenSSL compares names to the letter, certificates never hold the dot.
        return self.host.removesuffix(".")

    @property
    def authority(self) -> str:
        """``host:port`` for CONNECT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


# --- proxies ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that is asked for a tunnel with CONNECT.

    Parameters
    ----------
    host, port : where it listens.
    tls : bool
        Whether to speak TLS with the proxy itself.
    authorization : str or None
        Value of ``Proxy-Authorization``; never shown by ``repr``.
    """

    host: str
    port: int
    tls: bool
    authorization: str | None = None

    def __repr__(self) -> str:
        return f"Proxy({'https' if self.tls else 'http'}://{self.host}:{self.port})"

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """Read ``http://[user[:password]@]host[:port]``; any other scheme means TLS.

        Raises
        ------
        RelayClientError
            ``"proxy_invalid_url"`` or ``"proxy_invalid_target_port"``.
        """
        # User and password stay out of all messages.
        try:
            url = RelayUrl(text)
        except RelayUrlError:
            raise RelayClientError(
                "proxy_invalid_url", "the proxy is not an absolute URL"
            ) from None
        if not url.host:
            raise RelayClientError("proxy_invalid_url", "the URL of the proxy has no host")
        if url.port is None:
            raise RelayClientError(
                "proxy_invalid_target_port", f"the URL of the proxy {url.host} needs a port"
            )
        match = re.match(r"[^:]+://([^/?#@]*)@", url)
        authorization = None
        if match and match[1].partition(":")[0]:
            user, _, password = match[1].partition(":")
            pair = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
            authorization = "Basic " + base64.b64encode(pair).decode("ascii")
        return cls(url.host, url.port, url.scheme != "http", authorization)


def proxy_from_env(environ: Mapping[str, str] = os.environ) -> Proxy | None:
    """Find the proxy that the environment names, as iroh does.

    ``HTTP_PROXY`` (not under CGI, where a request header could set it), ``http_proxy``,
    ``HTTPS_PROXY``, ``https_proxy``; values that are no URL with a host are skipped.
    """
    names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"]
    if "REQUEST_METHOD" in environ:
        del names[0]
    for name in names:
        if value := environ.get(name):
            try:
                return Proxy.parse(value)
            except RelayClientError:
                continue
    return None


# --- TLS --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CaConfig:
    """Which certificates of servers to trust.

    Parameters
    ----------
    roots : {"embedded", "system", "none"}
        Mozilla's list as packaged by `certifi`, what the operating system trusts, or nothing
        but `extra`.
    extra : sequence of bytes or str
        More roots: DER as `bytes`, PEM as `str`.
    insecure : bool
        Accept any certificate.  For tests only.
    """

    roots: Literal["embedded", "system", "none"] = "embedded"
    extra: Sequence[bytes | str] = ()
    insecure: bool = False

    def context(self) -> ssl.SSLContext:
        """Make a client context: TLS 1.2 or later, no ALPN, no client certificate.

        Raises
        ------
        ConfigError
            An extra root is not a certificate, or `roots` is another word.

        Notes
        -----
        Cost: tens of milliseconds for the embedded roots; keep the result.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.roots == "embedded":
            import certifi

            context.load_verify_locations(certifi.where())
        elif self.roots == "system":
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        elif self.roots != "none":
            raise ConfigError(f'roots is "embedded", "system" or "none", not {self.roots!r}')
        for root in self.extra:
            try:
                context.load_verify_locations(cadata=root)
            except (ssl.SSLError, ValueError) as err:
                raise ConfigError(f"an extra root is not a certificate: {err}") from err
        return context


# --- race of addresses ------------------------------------------------------------

Resolve: TypeAlias = Callable[[str, int, socket.AddressFamily], Awaitable[Sequence[str]]]
"""``(host, port, family)`` to the text of its IP addresses; `OSError` when there are none."""
Connect: TypeAlias = Callable[[str, int, socket.AddressFamily], Awaitable[socket.socket]]
"""``(ip, port, family)`` to a connected non-blocking socket; closes it when cancelled."""


async def resolve(host: str, port: int, family: socket.AddressFamily) -> list[str]:
    """Ask the operating system for the addresses of one family."""
    if host.removesuffix(".") == "localhost":  # RFC 6761 §6.3; not every resolver takes the dot
        return ["::1" if family == socket.AF_INET6 else "127.0.0.1"]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


async def connect(ip: str, port: int, family: socket.AddressFamily) -> socket.socket:
    """Connect a TCP socket."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (ip, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _discard(task: asyncio.Task[socket.socket]) -> None:
    """Close what an attempt that lost brings in late."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def race(
    host: str,
    port: int,
    *,
    prefer_ipv6: bool = False,
    resolve: Resolve = resolve,
    connect: Connect = connect,
) -> socket.socket:
    """Connect to the address of `host` that answers first (RFC 8305).

    Both families are looked up at once and dialled in turn, the preferred one first: it has
    50 ms to be resolved after the other, then an attempt starts every 250 ms, or at once
    when none is under way.  Each look-up may take 3 s, each attempt 1.5 s.

    Raises
    ------
    RelayClientError
        ``"dns"`` no address was found; ``"timeout"`` or ``"io"`` the last attempt's failure.

    Notes
    -----
    Cancel-safe: nothing stays open.
    """
    loop = asyncio.get_running_loop()
    v4, v6 = socket.AF_INET, socket.AF_INET6
    order = (v6, v4) if prefer_ipv6 else (v4, v6)
    waiting: dict[socket.AddressFamily, deque[str]] = {family: deque() for family in order}
    lookups: dict[asyncio.Task[Sequence[str]], socket.AddressFamily] = {}
    attempts: set[asyncio.Task[socket.socket]] = set()

    async def look_up(family: socket.AddressFamily) -> Sequence[str]:
        async with asyncio.timeout(DNS_TIMEOUT_S):
            return await resolve(host, port, family)

    async def attempt(ip: str, family: socket.AddressFamily) -> socket.socket:
        async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
            return await connect(ip, port, family)

    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        lookups = {loop.create_task(look_up(family)): family for family in order}
    else:
        waiting[v4 if literal.version == 4 else v6].append(host)

    turn = order[0]
    started = False
    start_at: float | None = None
    failure: BaseException | None = None
    no_name: BaseException | None = None
    try:
        while True:
            now = loop.time()
            ready = any(waiting.values())
            if ready:
                if started:
                    at_once = not attempts
                else:
                    at_once = bool(waiting[order[0]]) or not lookups
                if at_once:
                    start_at = now
                elif start_at is None:
                    start_at = now + RESOLUTION_DELAY_S
                if start_at is not None and start_at <= now:
                    family = turn if waiting[turn] else order[1 - order.index(turn)]
                    attempts.add(loop.create_task(attempt(waiting[family].popleft(), family)))
                    turn = order[1 - order.index(family)]
                    started, start_at = True, now + STAGGER_S
                    continue
            elif not attempts and not lookups:
                raise _race_error(host, port, failure, no_name)
            delay = start_at - now if ready and start_at is not None else None
            done, _ = await asyncio.wait(
                {*lookups, *attempts}, timeout=delay, return_when=asyncio.FIRST_COMPLETED
            )
            for task in [task for task in lookups if task in done]:
                family = lookups.pop(task)
                if error := task.exception():
                    no_name = error
                else:
                    waiting[family].extend(dict.fromkeys(task.result()[:MAX_ADDRESSES]))
            for finished in [task for task in attempts if task in done]:
                if error := finished.exception():
                    attempts.discard(finished)
                    failure = error
                elif not finished.cancelled():
                    attempts.discard(finished)
                    return finished.result()
    finally:
        for task in lookups:
            task.cancel()
        for finished in attempts:
            finished.add_done_callback(_discard)
            finished.cancel()


def _race_error(
    host: str, port: int, failure: BaseException | None, no_name: BaseException | None
) -> RelayClientError:
    where = f"{host}:{port}"
    if failure is not None:
        if isinstance(failure, TimeoutError):
            error = RelayClientError("timeout", f"{where} did not answer in {ATTEMPT_TIMEOUT_S} s")
        else:
            error = RelayClientError("io", f"cannot connect to {where}: {failure}")
        error.__cause__ = failure
        return error
    what = "took too long" if isinstance(no_name, TimeoutError) else no_name or "no address"
    error = RelayClientError("dns", f"cannot resolve {host}: {what}")
    error.__cause__ = no_name
    return error


# --- HTTP -------------------------------------------------------------------------

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


def upgrade_request(target: Target, key: bytes, auth_token: str | None) -> bytes:
    """Build the request for the WebSocket.

    Parameters
    ----------
    key : bytes
        16 random bytes.
    auth_token : str or None

    Notes
    -----
    Wire: order and case of the headers are those of iroh's own client.
    """
    lines = [
        f"GET {target.path} HTTP/1.1",
        f"Host: {target.host_header}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(key).decode('ascii')}",
        "Sec-WebSocket-Version: 13",
        f"sec-websocket-protocol: {', '.join(PROTOCOLS)}",
    ]
    if auth_token is not None:
        lines.append(f"authorization: Bearer {auth_token}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def check_upgrade(head: bytes, key: bytes) -> int:
    """Check the answer to `upgrade_request`.

    Returns
    -------
    int
        Version of the relay protocol: 1 or 2.

    Raises
    ------
    RelayClientError
        ``"unexpected_upgrade_status"``, ``"bad_version_header"``, or ``"websocket"`` for
        anything else that is wrong.
    """
    try:
        status, headers = parse_head(head)
    except ValueError as err:
        raise RelayClientError("websocket", f"the relay does not speak HTTP: {err}") from None
    if status != 101:
        raise RelayClientError(
            "unexpected_upgrade_status",
            f"the relay answered with HTTP status {status}",
            status=status,
        )
    # INTEROP: iroh's client does not look at Upgrade and Connection either.
    wanted = accept_value(key)
    if headers.get("sec-websocket-accept") != wanted:
        raise RelayClientError("websocket", "the relay answered with a wrong Sec-WebSocket-Accept")
    protocol = headers.get("sec-websocket-protocol")
    if protocol not in PROTOCOLS:
        raise RelayClientError(
            "bad_version_header", f"the relay speaks none of our protocols: {str(protocol)[:80]!r}"
        )
    return int(protocol[-1])


def accept_value(key: bytes) -> str:
    """What a server answers to a WebSocket key of 16 bytes (RFC 6455 §4.2.2)."""
    digest = hashlib.sha1(base64.b64encode(key) + _WEBSOCKET_GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


class Link(asyncio.BufferedProtocol):
    """The protocol under a relay connection: first HTTP heads, later whatever follows.

    A subclass overrides `get_buffer` and `buffer_updated` for the time after `start`.

    Attributes
    ----------
    transport : asyncio.Transport or None
        The innermost one: below TLS while a tunnel is set up.
    version : int
        Version of the relay protocol, once the dialler is done.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.version = 0
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._scratch = bytearray(4096)
        self._head = bytearray()
        self._waiter: asyncio.Future[None] | None = None
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
        if not self.lost.done():
            self.lost.set_result(None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

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
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
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


# --- everything together ----------------------------------------------------------


class Dialer:
    """Opens WebSockets to relays.

    Parameters
    ----------
    ca : CaConfig, ssl.SSLContext or None
        What to trust; None is iroh's default, the embedded roots.
    proxy : Proxy, str or None
        Tunnel through this HTTP proxy.
    prefer_ipv6 : callable returning bool
        Asked at each dial.
    resolve, connect : see `race`.
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
        self._context = ca if isinstance(ca, ssl.SSLContext) else None
        self._proxy = Proxy.parse(proxy) if isinstance(proxy, str) else proxy
        self._prefer_ipv6 = prefer_ipv6
        self._resolve = resolve
        self._connect = connect

    def tls_context(self) -> ssl.SSLContext:
        """The context of all TLS connections, made when first needed."""
        if self._context is None:
            ca = self._ca if isinstance(self._ca, CaConfig) else CaConfig()
            self._context = ca.context()
        return self._context

    async def open(self, url: RelayUrl, link: Link, *, auth_token: str | None = None) -> None:
        """Connect `link` to a relay, up to the answer 101.

        Afterwards ``link.transport`` carries WebSocket frames, ``link.version`` is set and
        ``link.take_rest()`` returns what came in already.

        Raises
        ------
        RelayClientError
            Its `kind` names the step.

        Notes
        -----
        Has no time limit of its own beyond those of `race`.  Cancel-safe: nothing stays open.
        """
        target = Target.of(url)
        if auth_token is not None:
            try:
                check_token(auth_token)
            except ConfigError as err:
                raise RelayClientError("invalid_auth_token", str(err), url=url) from None
        try:
            await self._open(target, link, auth_token)
        except RelayClientError as err:
            link.abort()
            err.url = url
            raise
        except BaseException:
            link.abort()
            raise

    async def _open(self, target: Target, link: Link, auth_token: str | None) -> None:
        loop = asyncio.get_running_loop()
        proxy = self._proxy
        # Before dialling: uvloop leaks the transport when a handshake cannot even start.
        if proxy is not None and proxy.tls:
            _check_name(proxy.host.removesuffix("."), "proxy_invalid_tls_servername")
        if target.tls:
            _check_name(target.server_name, "invalid_tls_servername")
        sock = await race(
            proxy.host if proxy else target.host,
            proxy.port if proxy else target.port,
            prefer_ipv6=self._prefer_ipv6(),
            resolve=self._resolve,
            connect=self._connect,
        )
        options: dict[str, Any] = {}
        if proxy is not None and proxy.tls:
            options = {"ssl": self.tls_context(), "server_hostname": proxy.host.removesuffix(".")}
        elif proxy is None and target.tls:
            options = {"ssl": self.tls_context(), "server_hostname": target.server_name}
        try:
            await loop.create_connection(lambda: link, sock=sock, **options)
        except OSError as err:
            sock.close()
            raise _tls_error(err, proxy=proxy is not None) from err
        except BaseException:
            sock.close()
            raise
        if proxy is not None:
            await self._tunnel(target, proxy, link)
            if target.tls:
                assert link.transport is not None
                try:
                    transport = await loop.start_tls(
                        link.transport,
                        link,
                        self.tls_context(),
                        server_hostname=target.server_name,
                    )
                except OSError as err:
                    raise _tls_error(err, proxy=False) from err
                if transport is None:
                    raise RelayClientError("closed", "the proxy ended the connection")
                link.transport = transport
        await self._upgrade(target, link, auth_token)

    async def _tunnel(self, target: Target, proxy: Proxy, link: Link) -> None:
        lines = [
            f"CONNECT {target.authority} HTTP/1.1",
            f"Host: {target.host}",
            "Proxy-Connection: Keep-Alive",
        ]
        if proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        assert link.transport is not None
        link.transport.write(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
        try:
            status, _ = parse_head(await link.read_head())
        except (OSError, ValueError) as err:
            raise RelayClientError("proxy_connect", f"the proxy failed: {err}") from err
        if not 200 <= status <= 299:
            raise RelayClientError(
                "proxy_connect_invalid_status",
                f"the proxy answered with HTTP status {status}",
                status=status,
            )
        # What follows the head belongs to the tunnel.  A TLS server never speaks first.
        if target.tls and link.take_rest():
            raise RelayClientError("proxy_connect", "the tunnel began with unexpected bytes")

    async def _upgrade(self, target: Target, link: Link, auth_token: str | None) -> None:
        key = os.urandom(16)
        assert link.transport is not None
        link.transport.write(upgrade_request(target, key, auth_token))
        try:
            head = await link.read_head()
        except (OSError, ValueError) as err:
            raise RelayClientError("websocket", f"no answer to the upgrade: {err}") from err
        link.version = check_upgrade(head, key)


def _check_name(name: str, kind: RelayErrorKind) -> None:
    try:
        name.encode("idna")
    except UnicodeError as err:
        raise RelayClientError(kind, f"{name[:80]} is not a name for TLS: {err}") from None


def _tls_error(err: OSError, *, proxy: bool) -> RelayClientError:
    """Name what a TLS handshake raised."""
    if isinstance(err, ssl.SSLError):
        return RelayClientError("tls", f"TLS failed: {err.reason or err}")
    text = f"the connection ended during set-up: {str(err) or type(err).__name__}"
    return RelayClientError("proxy_connect" if proxy else "io", text)
