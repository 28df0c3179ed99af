"""HTTP proxies that are asked for a tunnel."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from .._check import check_flag, check_integer, check_text
from ..addr import RelayUrl
from ..errors import DialError, RelayUrlError

__all__ = ["Proxy", "proxy_from_env"]


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

    def __post_init__(self) -> None:
        check_text("host", self.host)
        check_integer("port", self.port, 1, 65535)
        check_flag("tls", self.tls)
        check_text("authorization", self.authorization, none=True)

    def __repr__(self) -> str:
        return f"Proxy({'https' if self.tls else 'http'}://{self.host}:{self.port})"

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """Read ``http://[user[:password]@]host[:port]``; any other scheme means TLS.

        Raises
        ------
        DialError
            ``"proxy_invalid_url"`` or ``"proxy_invalid_target_port"``.
        """
        # User and password stay out of all messages.
        try:
            url = RelayUrl(text)
        except RelayUrlError:
            raise DialError(
                "proxy_invalid_url", "the proxy is not an absolute URL"
            ) from None
        if not url.host:
            raise DialError("proxy_invalid_url", "the URL of the proxy has no host")
        if url.port is None:
            raise DialError(
                "proxy_invalid_target_port", f"the URL of the proxy {url.host} needs a port"
            )
        if not url.port:
            raise DialError(
                "proxy_invalid_target_port", f"the URL of the proxy {url.host} names port 0"
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
            except DialError:
                continue
    return None
