"""Hooks: look at connections of an endpoint before the application gets them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeAlias

from ._check import check_bytes, check_code
from ._later import Later
from .addr import EndpointAddr

if TYPE_CHECKING:
    from . import connection as _connection
else:
    _connection = Later("iroh_fast.connection")

__all__ = ["EndpointHooks", "HookOutcome", "Reject"]


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse the connection; after the handshake it is closed with `code` and `reason`."""

    code: int = 0
    reason: bytes = b""

    def __post_init__(self) -> None:
        check_code(self.code)
        check_bytes("reason", self.reason)


HookOutcome: TypeAlias = bool | Reject | None
"""None or True accepts, False or a :class:`Reject` refuses."""


class EndpointHooks:
    """Base class of hooks; override what you need.

    Hooks run in the order in which they were given to ``Endpoint.bind``; the first refusal
    counts, and ``connect`` or ``accept`` raise LocallyRejected.  Plain methods are fine too.
    What a hook raises refuses, and comes out of there.  Do not keep the connection
    (keep :meth:`Connection.weak`), and do not keep the endpoint in a hook.
    """

    async def before_connect(self, addr: EndpointAddr, alpn: bytes) -> HookOutcome:
        """Decide before any packet is sent to `addr`."""
        return None

    async def after_handshake(self, conn: _connection.Connection) -> HookOutcome:
        """Decide when a handshake has completed, for both directions."""
        return None


def refusal(outcome: HookOutcome) -> Reject | None:
    """Read what a hook returned: None when it accepts."""
    if outcome is None or outcome is True:
        return None
    if outcome is False:
        return Reject()
    if isinstance(outcome, Reject):
        return outcome
    raise TypeError(f"a hook returns None, a bool or a Reject, not {outcome!r:.80}")


async def run_before_connect(
    hooks: Iterable[EndpointHooks], addr: EndpointAddr, alpn: bytes
) -> Reject | None:
    """First refusal of the hooks, or None."""
    for hook in hooks:
        outcome: Any = hook.before_connect(addr, alpn)
        if (reject := refusal(await outcome if isawaitable(outcome) else outcome)) is not None:
            return reject
    return None


async def run_after_handshake(
    hooks: Iterable[EndpointHooks], conn: _connection.Connection
) -> Reject | None:
    """First refusal of the hooks, or None."""
    for hook in hooks:
        outcome: Any = hook.after_handshake(conn)
        if (reject := refusal(await outcome if isawaitable(outcome) else outcome)) is not None:
            return reject
    return None
