"""Options of net reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._check import check_flag, check_items, kind_of, shown
from ..errors import ConfigError

__all__ = ["PUBLIC_STUN", "NetReportConfig", "stun_server"]

PUBLIC_STUN = ("stun.l.google.com:19302", "stun.cloudflare.com:3478")
"""STUN servers that anybody may use, for `NetReportConfig.stun_servers`."""

STUN_PORT = 3478
MAX_STUN_SERVERS = 16
MIN_INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetReportConfig:
    """How an endpoint looks at the network: the option `net_report` of :meth:`Endpoint.bind`.

    Parameters
    ----------
    https_probes : bool
        Measure relays by HTTPS where UDP does not tell enough. Without, networks that block UDP
        have no latencies.
    captive_portal_check : bool
        Look whether something in between answers in the place of relays, where UDP is silent.
    stun_servers : sequence of str
        ``"host"`` or ``"host:port"``, asked for our address where no relay tells one; they learn
        it by that, so there are none by default. `PUBLIC_STUN` names some.
    interval : tuple of two numbers
        Seconds between two reports, drawn at random between these; at least 5.

    Raises
    ------
    ConfigError
        A value is wrong.
    """

    https_probes: bool = True
    captive_portal_check: bool = True
    stun_servers: Sequence[str] = ()
    interval: tuple[float, float] = (20.0, 26.0)

    def __post_init__(self) -> None:
        check_flag("https_probes", self.https_probes)
        check_flag("captive_portal_check", self.captive_portal_check)
        servers = tuple(check_items("stun_servers", self.stun_servers, "names of servers"))
        if len(servers) > MAX_STUN_SERVERS:
            raise ConfigError(
                f"stun_servers has {len(servers)} servers, at most {MAX_STUN_SERVERS} are possible"
            )
        for server in servers:
            stun_server(server)
        object.__setattr__(self, "stun_servers", servers)
        object.__setattr__(self, "interval", _interval(self.interval))


def _interval(value: object) -> tuple[float, float]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or len(value) != 2:
        raise ConfigError(f"interval is two numbers of seconds, not {shown(value)}")
    low, high = value
    for number in (low, high):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ConfigError(f"interval is two numbers of seconds, not {kind_of(number)}")
    if not MIN_INTERVAL_S <= low <= high < float("inf"):
        raise ConfigError(
            f"interval is two numbers of seconds, the smaller one first, of at least "
            f"{MIN_INTERVAL_S:g}; not {shown(value)}"
        )
    return float(low), float(high)


def stun_server(text: object) -> tuple[str, int]:
    """Read ``host``, ``host:port`` or ``[IPv6]:port``.

    Raises
    ------
    ConfigError
        It is something else.
    """
    if isinstance(text, str) and text.isascii() and text.isprintable() and " " not in text:
        host, mark, digits = text.rpartition(":")
        if not mark or text.endswith("]") or text.count(":") > 1 and not text.startswith("["):
            host, digits = text, str(STUN_PORT)
        host = host.removeprefix("[").removesuffix("]")
        if host and len(host) <= 253 and digits.isdecimal() and len(digits) <= 5:
            if 0 < int(digits) <= 0xFFFF:
                return host, int(digits)
    raise ConfigError(f'a server of stun_servers is "host" or "host:port", not {shown(text)}')
