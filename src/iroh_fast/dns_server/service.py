"""The DNS side of the server: UDP and TCP on one port."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from typing import Final, Self

from ..errors import BindError, ConfigError
from ..web.limits import Admission, AdmissionLimits
from ..web.listen import open_socket
from ._limits import PrefixLimiter
from .answers import Answers
from .tcp import IDLE_S, TcpServer
from .udp import UdpServer, bind_udp

__all__ = ["DnsLimits", "DnsService"]

_TRIES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsLimits:
    """What clients of the DNS service may use.

    Parameters
    ----------
    udp_rate, udp_burst : float and int, optional
        Answers per second and at once to the addresses of one /24 (IPv4) or /56 (IPv6). Of the queries
        beyond, one half gets the hint to ask over TCP and one half nothing. None: no limit. This
        machine itself has none.
    tcp_connections, tcp_per_ip : int
        Connections at the same time, in all and of one address.
    tcp_idle : float
        Seconds after which a connection ends that completes no query.

    Raises
    ------
    ConfigError
        A value is out of range.
    """

    udp_rate: float | None = 1000.0
    udp_burst: int = 2000
    tcp_connections: int = 1024
    tcp_per_ip: int = 128
    tcp_idle: float = IDLE_S

    def __post_init__(self) -> None:
        if self.udp_rate is not None and not 0 < self.udp_rate <= 1_000_000:
            raise ConfigError(
                f"udp_rate is above 0 and at most 1000000 answers per second, not {self.udp_rate}"
            )
        for name in ("udp_burst", "tcp_connections", "tcp_per_ip", "tcp_idle"):
            value = getattr(self, name)
            if not 0 < value <= 1_000_000_000:
                raise ConfigError(f"{name} is above 0, not {value}")


class DnsService:
    """Answers DNS over UDP and TCP: an asynchronous context manager, or `start` and `close`.

    Parameters
    ----------
    answers : Answers
        Not closed with the service.
    address : tuple of (str, int)
        ``"::"`` takes IPv4 too, port 0 a free port.
    limits : DnsLimits, optional

    Attributes
    ----------
    address : tuple of (str, int)
        What is bound, once started.

    Raises
    ------
    BindError
        From `start`: the address is taken.
    """

    def __init__(
        self, answers: Answers, address: tuple[str, int], limits: DnsLimits | None = None
    ) -> None:
        self.address = address
        self._answers = answers
        self._limits = DnsLimits() if limits is None else limits
        self._udp: UdpServer | None = None
        self._tcp: TcpServer | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Bind and begin to answer; nothing stays open when it fails."""
        if self._udp is not None:
            raise RuntimeError("a DNS service starts once")
        limits = self._limits
        loop = asyncio.get_running_loop()
        tries = _TRIES
        while True:
            udp = bind_udp(self.address)
            host, port = udp.local_address[:2]
            try:
                tcp = open_socket("dns (TCP)", (self.address[0], port))
                break
            except BindError as err:
                udp.close()
                tries -= 1
                # The port that was free for UDP is not for TCP: another one.
                if self.address[1] or err.errno != errno.EADDRINUSE or not tries:
                    raise
        self.address = host, port
        connections = limits.tcp_connections
        admission = Admission(
            AdmissionLimits(
                unproven=connections,
                unproven_per_ip=limits.tcp_per_ip,
                total=connections,
                per_ip=limits.tcp_per_ip,
            ),
            loop.time,
        )
        self._udp = UdpServer(udp, self._answers, PrefixLimiter(limits.udp_rate, limits.udp_burst))
        self._tcp = TcpServer(tcp, self._answers, admission, idle=limits.tcp_idle)
        try:
            await self._tcp.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop to answer. May be called again."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            await self._tcp.close()

    def counters(self) -> dict[str, int]:
        """Values of the metrics that begin with ``dns_udp_`` and ``dns_tcp_``."""
        return {
            **({} if self._udp is None else self._udp.counters()),
            **({} if self._tcp is None else self._tcp.counters()),
        }
