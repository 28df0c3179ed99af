"""URLs of relays."""

from __future__ import annotations

import re
from typing import Final, Self

from ..errors import RelayUrlError

__all__ = ["RelayUrl"]

_SPECIAL_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443, "ftp": 21}

# URLs that normalising leaves as they are, but for a missing last slash.  A last label
# that starts with a letter cannot be an IPv4 number.  Saves loading the URL parser.
_PLAIN_URL: Final = (
    r"(https?)://((?:[a-z0-9][a-z0-9-]*\.)*[a-z][a-z0-9-]*\.?)(?::([1-9][0-9]{0,3}))?/?"
)
_USER: Final = r"^([a-z][a-z0-9+.-]*://)[^/?#]*@"
_NORMAL_URL: Final = (
    r"(?s)([a-z][a-z0-9+.-]*):(?://(?:[^/?#]*@)?(\[[^\]]*\]|[^/?#:]*)(?::([0-9]+))?)?.*"
)


def _normalise_url(text: str) -> str:
    match = re.fullmatch(_PLAIN_URL, text)
    if match and "xn--" not in match[2] and match[3] != str(_SPECIAL_PORTS[match[1]]):
        return text if text.endswith("/") else text + "/"
    import ada_url  # late: loading it takes longer than everything else here

    try:
        href: str = ada_url.URL(text).href
    except ValueError as err:  # also a lone surrogate
        raise RelayUrlError(f"not an absolute URL: {_harmless(text)[:80]!r}", text=text) from err
    return href


def _split_token(url: str) -> tuple[str, str | None]:
    """Take the parameters of the query that a relay reads as a token out of a URL."""
    front, mark, rest = url.partition("?")
    if not mark or "#" in front:
        return url, None
    from urllib.parse import unquote_plus  # late: rarely needed

    query, hash, fragment = rest.partition("#")
    kept, tokens = [], []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if unquote_plus(name) == "token":
            tokens.append(unquote_plus(value))
        else:
            kept.append(pair)
    if not tokens:
        return url, None
    query = "&".join(kept)
    return front + ("?" + query if query else "") + hash + fragment, tokens[0]


def _harmless(text: str) -> str:
    """What may stand in a message of a URL that cannot be read: no user, password or query."""
    return re.sub(r"//[^/?#]*@", "//", text.partition("?")[0])


class RelayUrl(str):
    """The URL of a relay server: a `str` holding the normalised text.

    Two relays are the same exactly when these texts are equal, so normalising follows
    the WHATWG URL standard to the letter.  The scheme is not limited here.

    Parameters
    ----------
    url : str
        An absolute URL.

    Raises
    ------
    RelayUrlError
        Not an absolute URL by the WHATWG rules.

    Notes
    -----
    ``https://host.`` and ``https://host`` are different relays.  The trailing dot is
    recommended: it keeps resolvers from trying search domains.
    """

    __slots__ = ()

    def __new__(cls, url: str, /) -> Self:
        if isinstance(url, cls):
            return url
        if not isinstance(url, str):
            raise TypeError(f"a relay URL is made from str, not {type(url).__name__}")
        return super().__new__(cls, _normalise_url(str(url)))

    def _part(self, index: int) -> str | None:
        match = re.fullmatch(_NORMAL_URL, self)
        assert match is not None  # every normalised URL has a scheme
        part: str | None = match[index]
        return part

    @property
    def scheme(self) -> str:
        """The scheme without colon, lower case."""
        return self._part(1) or ""

    @property
    def host(self) -> str:
        """Host name as in the URL (a trailing dot stays), or an IP without brackets."""
        return (self._part(2) or "").strip("[]")

    @property
    def port(self) -> int | None:
        """Port, also when it is the default one of the scheme; None when unknown."""
        port = self._part(3)
        return int(port) if port is not None else _SPECIAL_PORTS.get(self.scheme)

    def split_credentials(self) -> tuple[RelayUrl, str | None]:
        """The same as it may be shown to others, and the token that it held.

        Taken out are user, password, and every ``token=...`` of the query, of which the first
        one counts for a relay.
        """
        if "@" not in self and "?" not in self:
            return self, None
        bare = re.sub(_USER, r"\1", self, count=1)
        bare, token = _split_token(bare)
        return (self if bare == self else RelayUrl(bare)), token

    def without_credentials(self) -> RelayUrl:
        """The same without user, password and token, as it may be shown to others."""
        return self.split_credentials()[0]

    def __str__(self) -> str:
        return str.__str__(self)

    def __repr__(self) -> str:
        quoted = self.replace("\\", "\\\\").replace('"', '\\"')
        return f'RelayUrl("{quoted}")'
