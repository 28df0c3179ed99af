"""Two network namespaces with an emulated link between them."""

from __future__ import annotations

import atexit
import contextlib
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from tests.lab.carrier import Carrier
from tests.lab.link import DEVICE, LabStats, LinkConfig
from tests.lab.namespaces import LabError, Namespace, missing, remove_leftovers

TX_QUEUE = 100_000  # packets; the queue that drops is the link's

#: Of every namespace of a lab. What TCP learned of one run must not be told to the next; IPv6 has its
#: addresses at once and says nothing by itself.
SYSCTLS = {
    "ipv4.tcp_no_metrics_save": "1",
    "ipv6.conf.all.disable_ipv6": "0",
    "ipv6.conf.default.disable_ipv6": "0",
    "ipv6.conf.default.accept_dad": "0",
    "ipv6.conf.default.accept_ra": "0",
    "ipv6.conf.default.router_solicitations": "0",
    "ipv6.conf.default.addr_gen_mode": "1",
}


class Node(Namespace):
    """One end of the link: a namespace with an address of each family.

    Attributes
    ----------
    ip4, ip6 : str
        Its own addresses.
    """

    def __init__(self, role: str, number: int, sysctls: dict[str, str]) -> None:
        self.ip4 = f"10.77.0.{number}"
        self.ip6 = f"fd77::{number}"
        super().__init__(role, {**SYSCTLS, **sysctls})

    def plug_in(self, mtu: int) -> None:
        """Set up the device that the wire has made."""
        self.ip(
            "-batch",
            "-",
            text=f"""
            addr add {self.ip4}/24 dev {DEVICE}
            addr add {self.ip6}/64 dev {DEVICE} nodad
            link set {DEVICE} mtu {mtu} txqueuelen {TX_QUEUE} up
            route add default dev {DEVICE}
            route add ::/0 dev {DEVICE}
            """,
        )


class LinkLab:
    """A link between two network namespaces, `left` and `right`, while the context is open.

    Parameters
    ----------
    there : LinkConfig
        From left to right.
    back : LinkConfig or None
        From right to left; the same unless given.
    seed : int
        Decides which packets are lost and how late each is.
    mtu : int
        Of both devices, in bytes, 1,280 to 65,535.
    sysctls : dict
        More settings of both namespaces, below ``net``: ``{"ipv4.tcp_wmem": "4096 65536 67108864"}``.

    Raises
    ------
    LabError
        When opened on a machine that allows none; the message says why. `missing` tells before.

    Examples
    --------
    >>> with LinkLab(LinkConfig(rate=100, delay=20, loss=0.005)) as lab:  # doctest: +SKIP
    ...     server = lab.right.popen(["python", "server.py", lab.right.ip4])
    ...     lab.begin()
    ...     lab.left.run(["python", "client.py", lab.right.ip4], check=True)
    ...     print(lab.stats().there.dropped)
    """

    left: Node
    right: Node

    def __init__(
        self,
        there: LinkConfig,
        back: LinkConfig | None = None,
        *,
        seed: int = 0,
        mtu: int = 1500,
        sysctls: dict[str, str] | None = None,
    ) -> None:
        if not 1280 <= mtu <= 65535:
            raise ValueError(f"mtu={mtu} is not between 1280 and 65535")
        self.there = there
        self.back = back or there
        self.seed = seed
        self.mtu = mtu
        self._sysctls = sysctls or {}
        self._stack = contextlib.ExitStack()
        self._carrier: Carrier | None = None

    def __enter__(self) -> Self:
        reason = missing()
        if reason is not None:
            raise LabError(reason)
        remove_leftovers()
        with self._stack as stack:
            stack.enter_context(terminable())
            atexit.register(self.close)
            stack.callback(atexit.unregister, self.close)
            self.left = Node("left", 1, self._sysctls)
            stack.callback(self.left.close)
            self.right = Node("right", 2, self._sysctls)
            stack.callback(self.right.close)
            ends = (self.left.name, DEVICE), (self.right.name, DEVICE)
            self._carrier = Carrier(*ends, self.there, self.back, seed=self.seed)
            stack.callback(self._carrier.close)
            self.left.plug_in(self.mtu)
            self.right.plug_in(self.mtu)
            self.begin()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes in the lab and remove it; the same as leaving the context."""
        self._carrier = None
        self._stack.close()

    def begin(self) -> None:
        """Make now the time that outages and steps count from, and count anew."""
        self._opened().begin()

    def stats(self) -> LabStats:
        """What happened since it began."""
        return self._opened().stats()

    def _opened(self) -> Carrier:
        if self._carrier is None:
            raise LabError("the lab is not open")
        return self._carrier


@contextlib.contextmanager
def terminable() -> Any:
    """SIGTERM raises SystemExit, so that what is open is closed, unless somebody handles it already."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
