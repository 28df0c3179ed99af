"""From the URL of a relay to an open WebSocket.

Nothing here knows relay frames; names, addresses, proxies and TLS are the business of `web`.
"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from ...addr import RelayUrl
from ...errors import ConfigError, DialError, RelayClientError
from ...web.ca import CaConfig
from ...web.dial import Link, StreamDialer, parse_head
from ...web.proxy import Proxy
from ...web.race import Connect, Resolve, resolve
from ..congestion import connect
from ..map import check_token
from ..wire import PROTOCOLS, accept_value

__all__ = ["Dialer", "RelayLink", "Target"]


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
    wanted = accept_value(base64.b64encode(key))
    if headers.get("sec-websocket-accept") != wanted:
        raise RelayClientError("websocket", "the relay answered with a wrong Sec-WebSocket-Accept")
    protocol = headers.get("sec-websocket-protocol")
    if protocol not in PROTOCOLS:
        raise RelayClientError(
            "bad_version_header", f"the relay speaks none of our protocols: {str(protocol)[:80]!r}"
        )
    return int(protocol[-1])


class RelayLink(Link):
    """The protocol under a relay connection: the answer to the upgrade, later WebSocket frames.

    Attributes
    ----------
    version : int
        Version of the relay protocol, once the dialler is done.
    """

    def __init__(self) -> None:
        super().__init__()
        self.version = 0


class Dialer:
    """Opens WebSockets to relays.

    Parameters
    ----------
    ca, proxy, prefer_ipv6, resolve, connect : see `iroh_fast.web.dial.StreamDialer`.
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
        try:
            self._streams = StreamDialer(
                ca=ca, proxy=proxy, prefer_ipv6=prefer_ipv6, resolve=resolve, connect=connect
            )
        except DialError as err:  # the proxy's URL
            raise _relay_error(err) from err

    async def open(self, url: RelayUrl, link: RelayLink, *, auth_token: str | None = None) -> None:
        """Connect `link` to a relay, up to the answer 101.

        Afterwards ``link.transport`` carries WebSocket frames, ``link.version`` is set and
        ``link.take_rest()`` returns what came in already.

        Raises
        ------
        RelayClientError
            Its `kind` names the step.

        Notes
        -----
        Has no time limit of its own beyond those of the race.  Cancel-safe: nothing stays open.
        """
        target = Target.of(url)
        if auth_token is not None:
            try:
                check_token(auth_token)
            except ConfigError as err:
                raise RelayClientError("invalid_auth_token", str(err), url=url) from None
        name = target.server_name if target.tls else None
        try:
            await self._streams.open(link, target.host, target.port, server_name=name)
            await self._upgrade(target, link, auth_token)
        except RelayClientError as err:
            link.abort()
            err.url = url
            raise
        except DialError as err:
            link.abort()
            raise _relay_error(err, url) from err
        except BaseException:
            link.abort()
            raise

    async def _upgrade(self, target: Target, link: RelayLink, auth_token: str | None) -> None:
        key = os.urandom(16)
        assert link.transport is not None
        link.transport.write(upgrade_request(target, key, auth_token))
        try:
            head = await link.read_head()
        except (OSError, ValueError) as err:
            raise RelayClientError("websocket", f"no answer to the upgrade: {err}") from err
        link.version = check_upgrade(head, key)


def _relay_error(err: DialError, url: str = "") -> RelayClientError:
    """What went wrong on the way to a relay, as an error of that relay."""
    return RelayClientError(err.kind, str(err), url=url, status=err.status)
