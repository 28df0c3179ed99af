"""Plain UDP and TCP between machines of a world, from the process of the test: what a lab does before endpoints use it."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from tests.lab.lan import entered
from tests.lab.namespaces import Namespace

__all__ = ["Probe", "punched", "tcp_reaches"]

Address = tuple[str, int]
#: For what comes: it is there at once, unless the machine is busy. For what does not come: a packet between namespaces is
#: where it goes when `send` returns, or else it was dropped.
COMES_S = 5.0
MISSING_S = 0.05


class Probe:
    """A UDP socket on a machine. It goes with the context."""

    def __init__(
        self, machine: Namespace, *, six: bool = False, port: int = 0, ip: str = ""
    ) -> None:
        self.six = six
        family = socket.AF_INET6 if six else socket.AF_INET
        with entered(machine):
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind((ip or ("::" if six else "0.0.0.0"), port))
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, to: Address, data: str | bytes = "hello") -> None:
        """Send a packet; it may get lost here already."""
        with contextlib.suppress(OSError):
            self._socket.sendto(data.encode() if isinstance(data, str) else data, to)

    def get(self, wait: float = COMES_S) -> tuple[str, Address] | None:
        """The next packet, with whom it came from; None when none comes in that time."""
        while select.select([self._socket], [], [], wait)[0]:
            try:
                data, source = self._socket.recvfrom(2000)
            except OSError:  # what ICMP told of a packet sent before
                continue
            return data.decode(errors="replace"), (source[0], source[1])
        return None

    def gets_something(self, *, expected: bool) -> bool:
        """Whether a packet has come; what is expected is waited for longer."""
        return self.get(COMES_S if expected else MISSING_S) is not None

    def drain(self) -> None:
        """Forget what has come."""
        while self.get(0) is not None:
            pass

    def seen_by(self, other: Probe, at: Address, *, expected: bool = True) -> Address | None:
        """The address from which the other gets what this one sends to where it is; None when nothing comes."""
        other.drain()
        self.send(at, "who am I?")
        got = other.get(COMES_S if expected else MISSING_S)
        return None if got is None else got[1]


def punched(a: Probe, b: Probe, reflector: Probe, at: Address, stagger: float = 0.0) -> bool:
    """Whether two reach each other after both have sent to where the reflector saw the other.

    Parameters
    ----------
    stagger : float
        Seconds by which the second sends later.
    """
    seen_a, seen_b = a.seen_by(reflector, at), b.seen_by(reflector, at)
    assert seen_a is not None and seen_b is not None
    goals = {a: seen_b, b: seen_a}
    got: set[Probe] = set()
    for turn in range(4):
        for one in (a, b):
            one.send(goals[one], "punch")
            if turn == 0 and one is a:
                select.select([], [], [], stagger)
        for one in (a, b):
            while (packet := one.get(MISSING_S / 4)) is not None:
                got.add(one)
                goals[one] = packet[1]  # as QUIC does: an answer goes to where it came from
        if got == {a, b}:
            return True
    return False


def tcp_reaches(source: Namespace, machine: Namespace, at: Address, *, expected: bool) -> bool:
    """Whether a connection to a port of a machine is possible, where nobody listens yet."""
    family = socket.AF_INET6 if ":" in at[0] else socket.AF_INET
    with listening(machine, family, at[1]):
        with entered(source):
            client = socket.socket(family)
        with client:
            client.settimeout(COMES_S if expected else MISSING_S)
            try:
                client.connect(at)
            except OSError:
                return False
    return True


@contextlib.contextmanager
def listening(machine: Namespace, family: int, port: int) -> Iterator[None]:
    with entered(machine):
        server = socket.create_server(("", port), family=family)
    with server:
        yield
