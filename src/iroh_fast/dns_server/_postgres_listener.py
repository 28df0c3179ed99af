"""Hearing of what other servers on the same database change."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

from ..aio.once import Once
from ._postgres_sql import CHANNEL, TROUBLE, explained
from .store import OnChange

__all__ = ["Listener"]

logger = logging.getLogger("iroh_fast.dns_server.store")

HEARTBEAT_S: Final = 5.0  # between questions whether the connection lives
FIRST_DELAY_S: Final = 0.05
LONGEST_DELAY_S: Final = 5.0


class Listener:
    """A connection that hears of changes, made again when it is lost.

    Parameters
    ----------
    connect : callable
        Makes a connection.
    own : str
        What the messages of this server begin with: they are not told.
    changed : callable
        Told of each key, and None whenever any may have changed unheard.
    where : str
        The database, for logs.

    Attributes
    ----------
    coherent : bool
        Whether it hears of everything now.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        own: str,
        changed: OnChange,
        where: str,
    ) -> None:
        self.coherent = False
        self._connect = connect
        self._own = own
        self._changed = changed
        self._where = where
        self._lost = Once()
        self._connection: asyncpg.Connection | None = None

    async def begin(self) -> None:
        """Connect for the first time; raises what goes wrong."""
        connection = await self._connect()
        try:
            self._lost = lost = Once()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, self._heard)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        self.coherent = True
        self._changed(None)

    async def run(self) -> None:
        """Hold the connection, and make another when it is lost; forever."""
        delay = FIRST_DELAY_S
        while True:
            if self._connection is not None:
                why = await self._hold(self._connection)
                logger.warning(
                    "%s: the connection that hears of changes is lost: %s", self._where, why
                )
                delay = FIRST_DELAY_S
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            try:
                await self.begin()
            except TROUBLE as error:
                logger.debug("%s: %s", self._where, explained(error))
                delay = min(2 * delay, LONGEST_DELAY_S)
            else:
                logger.info("%s: hears of changes again", self._where)

    async def _hold(self, connection: asyncpg.Connection) -> str:
        """Wait until the connection is lost; returns why."""
        try:
            while not self._lost.happened:
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await self._lost
                except TimeoutError:
                    await connection.execute("SELECT 1")
            return "it was closed"
        except TROUBLE as error:
            return explained(error)
        finally:
            self._lose()

    def _lose(self) -> None:
        connection, self._connection = self._connection, None
        self.coherent = False
        if connection is not None:
            connection.terminate()
            self._changed(None)

    def close(self) -> None:
        """Let the connection go."""
        self._lose()

    def _heard(self, _connection: object, _pid: int, _channel: str, message: object) -> None:
        text = str(message)
        if text.startswith(self._own):
            return
        try:
            keys = [
                base64.b64decode(one, validate=True) for one in text.partition(":")[2].split(",")
            ]
        except binascii.Error:  # of another program on this database
            keys = []
        if not keys:
            self._changed(None)
        for key in keys:
            self._changed(key)
