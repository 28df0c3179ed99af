"""Which relays an endpoint uses, and how its home relay is doing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Self, TypeAlias

from .._check import check_items, shown
from ..addr import RelayUrl
from ..errors import ConfigError, RelayUrlError

__all__ = [
    "DEFAULT_QUIC_PORT",
    "RelayConfig",
    "RelayMap",
    "RelayMode",
    "RelayState",
    "RelayStatus",
    "relay_map",
]

DEFAULT_QUIC_PORT: Final = 7842
"""UDP port of QUIC address discovery on a relay."""

# Run by number 0, the makers of iroh.  The dot at the end keeps search domains out.
_PRODUCTION: Final = (
    "https://use1-1.relay.n0.iroh.link./",
    "https://usw1-1.relay.n0.iroh.link./",
    "https://euc1-1.relay.n0.iroh.link./",
    "https://aps1-1.relay.n0.iroh.link./",
)
_STAGING: Final = (
    "https://use1-1.staging-relay.n0.iroh.link./",
    "https://euc1-1.staging-relay.n0.iroh.link./",
)
_FORCE_STAGING: Final = "IROH_FORCE_STAGING_RELAYS"


def check_token(token: str) -> str:
    """Return `token` when it can stand in an HTTP header, else raise ConfigError."""
    if not isinstance(token, str):
        raise ConfigError(f"auth_token is text, not {type(token).__name__}")
    if not all(" " <= symbol <= "~" or symbol == "\t" for symbol in token):
        # The token itself stays out of messages and logs.
        raise ConfigError("auth_token holds characters that cannot stand in an HTTP header")
    return token


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """One relay server.

    Parameters
    ----------
    url : RelayUrl or str
        Its address, ``https`` or (without TLS) ``http``. A ``token=...`` in its query is taken out
        and becomes `auth_token`; a user and a password, which relays do not know, are dropped.
    quic_port : int or None
        UDP port of its QUIC address discovery; None when it has none.
    auth_token : str or None
        Sent as ``Authorization: Bearer``; never shown by ``repr``.

    Raises
    ------
    RelayUrlError
        Not an absolute URL, or another scheme.
    ConfigError
        Port out of range, or a token that cannot stand in an HTTP header.
    """

    url: RelayUrl
    quic_port: int | None = DEFAULT_QUIC_PORT
    auth_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        url, token = RelayUrl(self.url).split_credentials()
        if url.scheme not in ("http", "https") or not url.host:
            raise RelayUrlError(f"a relay has an http or https URL, not {url[:80]!r}", text=url)
        object.__setattr__(self, "url", url)
        if token and self.auth_token is None:
            object.__setattr__(self, "auth_token", token)
        port = self.quic_port
        if port is not None and not (type(port) is int and 0 <= port <= 0xFFFF):
            raise ConfigError(f"quic_port is 0 to 65535 or None, not {shown(port)}")
        if self.auth_token is not None:
            check_token(self.auth_token)

    def to_json(self) -> dict[str, Any]:
        """Return a value for `json.dumps`, of the shape serde uses.  Holds the token."""
        quic = None if self.quic_port is None else {"port": self.quic_port}
        value: dict[str, Any] = {"url": str(self.url), "quic": quic}
        if self.auth_token is not None:
            value["auth_token"] = self.auth_token
        return value

    @classmethod
    def from_json(cls, value: Any, /) -> Self:
        """Make a config from what `to_json` returned, or from a table of a TOML file.

        A missing ``quic`` means the default port, null means no address discovery.

        Raises
        ------
        ConfigError
            The value has another shape.
        RelayUrlError
            The URL is not one of a relay.
        """
        if not isinstance(value, Mapping) or not isinstance(value.get("url"), str):
            raise ConfigError('a relay is an object with a text "url"')
        quic = value.get("quic", {})
        if quic is not None:
            if not isinstance(quic, Mapping):
                raise ConfigError('"quic" of a relay is an object or null')
            quic = quic.get("port", DEFAULT_QUIC_PORT)
        return cls(value["url"], quic, value.get("auth_token"))


class RelayMap(MutableMapping[RelayUrl, RelayConfig]):
    """Relays by URL, in the order in which they were given; shared and changed while in use.

    An endpoint given this map sees later changes: new relays are measured, removed ones are
    no longer chosen.  A running connection to a relay is not touched.

    Parameters
    ----------
    relays : iterable of RelayConfig, RelayUrl or str
        The first content.  From a bare URL: default QUIC port, no token.

    Notes
    -----
    Use it from the thread of the event loop.
    """

    __slots__ = ("_relays", "_watchers")

    def __init__(self, relays: Iterable[RelayConfig | str] = ()) -> None:
        self._relays: dict[RelayUrl, RelayConfig] = {}
        self._watchers: list[Callable[[], None]] = []
        for config in _configs(relays):
            self._put(config)

    def _put(self, config: RelayConfig) -> RelayConfig | None:
        old = self._relays.get(config.url)
        self._relays[config.url] = config
        return old

    def _changed(self) -> None:
        for watcher in tuple(self._watchers):
            watcher()

    def insert(self, relay: RelayConfig | str, /) -> RelayConfig | None:
        """Add a relay or replace the one of the same URL; returns the one before."""
        config = _config(relay)
        old = self._put(config)
        if old != config:
            self._changed()
        return old

    def remove(self, url: str, /) -> RelayConfig | None:
        """Take a relay out; returns it, or None when it was not there."""
        old = self._relays.pop(RelayUrl(url).without_credentials(), None)
        if old is not None:
            self._changed()
        return old

    def extend(self, relays: Iterable[RelayConfig | str], /) -> None:
        """Insert several relays."""
        configs = _configs(relays)
        if [self._put(config) for config in configs] != configs:
            self._changed()

    def with_auth_token(self, token: str | None, /) -> Self:
        """Set the token of all relays that are in the map now; returns the map itself."""
        configs = [replace(relay, auth_token=token) for relay in self._relays.values()]
        if [self._put(config) for config in configs] != configs:
            self._changed()
        return self

    def urls(self) -> tuple[RelayUrl, ...]:
        """All URLs, in order."""
        return tuple(self._relays)

    def relays(self) -> tuple[RelayConfig, ...]:
        """All relays, in order."""
        return tuple(self._relays.values())

    def subscribe(self, callback: Callable[[], None], /) -> Callable[[], None]:
        """Have `callback` called after each change; returns a function that ends that."""
        self._watchers.append(callback)

        def cancel() -> None:
            if callback in self._watchers:
                self._watchers.remove(callback)

        return cancel

    def __getitem__(self, url: str, /) -> RelayConfig:
        try:
            return self._relays[RelayUrl(url).without_credentials()]
        except RelayUrlError:
            raise KeyError(url) from None

    def __setitem__(self, url: str, relay: RelayConfig | str, /) -> None:
        config = _config(relay)
        if config.url != (key := RelayUrl(url).without_credentials()):
            raise ConfigError(f"the relay {config.url} cannot stand under the key {key}")
        self.insert(config)

    def __delitem__(self, url: str, /) -> None:
        if self.remove(url) is None:
            raise KeyError(url)

    def __contains__(self, url: object, /) -> bool:
        try:
            return isinstance(url, str) and RelayUrl(url).without_credentials() in self._relays
        except RelayUrlError:
            return False

    def __iter__(self) -> Iterator[RelayUrl]:
        return iter(tuple(self._relays))

    def __len__(self) -> int:
        return len(self._relays)

    def __repr__(self) -> str:
        return f"RelayMap({list(self._relays.values())!r})"


def _config(relay: RelayConfig | str) -> RelayConfig:
    return relay if isinstance(relay, RelayConfig) else RelayConfig(RelayUrl(relay))


def _configs(relays: object) -> list[RelayConfig]:
    return [_config(relay) for relay in check_items("relays", relays, "URLs or RelayConfig")]


class RelayMode:
    """The ready-made relay maps; each call makes an independent one."""

    @staticmethod
    def disabled() -> RelayMap:
        """No relays."""
        return RelayMap()

    @staticmethod
    def default() -> RelayMap:
        """iroh's public relays.

        The staging ones instead while the environment variable
        ``IROH_FORCE_STAGING_RELAYS`` is not empty.
        """
        return RelayMap(_STAGING if os.environ.get(_FORCE_STAGING) else _PRODUCTION)

    @staticmethod
    def staging() -> RelayMap:
        """iroh's relays for trying out new versions."""
        return RelayMap(_STAGING)


RelaysLike: TypeAlias = (
    "RelayMap | Iterable[RelayConfig | str] | Literal['default', 'staging'] | None"
)
"""What the ``relays`` option of an endpoint takes."""


def relay_map(relays: RelaysLike, /) -> RelayMap:
    """Turn the ``relays`` option of an endpoint into a map.

    Parameters
    ----------
    relays : None, "default", "staging", RelayMap, or iterable of RelayConfig, RelayUrl, str
        A `RelayMap` is returned as it is, so later changes reach the endpoint.

    Raises
    ------
    ConfigError
        Another word.
    RelayUrlError
        An entry is not the URL of a relay.
    """
    if relays is None:
        return RelayMode.disabled()
    if isinstance(relays, RelayMap):
        return relays
    if isinstance(relays, str):
        if relays == "default":
            return RelayMode.default()
        if relays == "staging":
            return RelayMode.staging()
        raise ConfigError(
            f'relays is None, "default", "staging" or a list of URLs, not {relays[:80]!r}'
        )
    return RelayMap(relays)


RelayState: TypeAlias = Literal["connecting", "connected", "disconnected"]


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """How the connection to the home relay is doing.

    Parameters
    ----------
    url : RelayUrl
        The home relay.
    state : {"connecting", "connected", "disconnected"}
        Disconnected means that the next attempt waits.
    last_error : Exception or None
        Why the latest attempt or connection ended; None once connected.
    auth_denied_reason : str or None
        What the relay said when it refused this endpoint, if that was the latest failure.
    superseded : bool
        True while another endpoint with the same secret key is connected to this relay and gets
        the datagrams.
    """

    url: RelayUrl
    state: RelayState
    last_error: Exception | None = None
    auth_denied_reason: str | None = None
    superseded: bool = False

    @property
    def connected(self) -> bool:
        """True while datagrams flow both ways."""
        return self.state == "connected"
