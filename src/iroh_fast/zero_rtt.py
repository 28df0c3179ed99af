"""Connections in use before their handshake is complete (0-RTT and 0.5-RTT)."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import dataclass

from ._context import Context
from ._handshaking import Handshaking
from .aio.once import seen
from .connection import Connection
from .quic._connection import QuicConnection

__all__ = ["IncomingZeroRttConnection", "OutgoingZeroRttConnection", "ZeroRttStatus"]


@dataclass(frozen=True, slots=True)
class ZeroRttStatus:
    """What became of early data.

    Attributes
    ----------
    accepted : False when the peer refused it: streams opened before the handshake raise
        ZeroRttRejected and their data must be sent again on new ones.
    connection : the connection, complete now.
    """

    accepted: bool
    connection: Connection


async def _admission(
    ref: weakref.ref[_ZeroRttConnection], q: QuicConnection, handshake: Handshaking
) -> None:
    """Wait for the handshake of a connection in early use, then ask the hooks.

    A task of its own: what the application waits for, or stops waiting for, does not matter.
    It holds the connection only while the hooks look at it.
    """
    await handshake._complete(q)
    if (conn := ref()) is None:
        return  # the application let go of it
    conn._remote_id = None
    conn.remote_id  # noqa: B018 - read once now, so that it is there for ever
    await handshake._admit(conn)


class _ZeroRttConnection(Connection):
    __slots__ = ("_admission",)

    def __init__(self, q: QuicConnection, context: Context, handshake: Handshaking) -> None:
        super().__init__(
            q, context.owner, context, handshake._remote_id, context.linger
        )
        self._admission: asyncio.Task[None] = context.owner.loop.create_task(
            _admission(weakref.ref(self), q, handshake)
        )
        self._admission.add_done_callback(seen)

    async def _admitted(self) -> None:
        """Wait for the one decision about this connection; everybody gets the same."""
        self._owner.check_loop()
        task = self._admission
        if not task.done():
            await asyncio.wait({task})
        task.result()


class OutgoingZeroRttConnection(_ZeroRttConnection):
    """A dialled connection in use before its handshake is complete."""

    __slots__ = ()

    async def handshake_completed(self) -> ZeroRttStatus:
        """Wait for the handshake, and learn whether the early data was accepted.

        Raises
        ------
        ConnectError : the handshake failed.
        LocallyRejected : a hook refuses the connection, which is closed then.
        ConnectionLost : it ended while a hook was thinking.

        Notes
        -----
        Cancel-safe: hooks run once, whether or not somebody waits here.
        """
        await self._admitted()
        return ZeroRttStatus(bool(self._q.early_data_accepted), self)


class IncomingZeroRttConnection(_ZeroRttConnection):
    """An accepted connection in use before its handshake is complete."""

    __slots__ = ()

    async def handshake_completed(self) -> Connection:
        """Wait for the handshake; from then on the peer is known and data is not a replay.

        Raises and cancels as :meth:`OutgoingZeroRttConnection.handshake_completed`.
        """
        await self._admitted()
        return self
