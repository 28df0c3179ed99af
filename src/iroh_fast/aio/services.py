"""Background work of an endpoint: started, told of changes and ended in order, by one host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from .once import see_through

__all__ = ["Service", "ServiceHost"]

log = logging.getLogger("iroh_fast.services")

CLOSE_TIMEOUT_S = 5.0  # for each service
CANCEL_TIMEOUT_S = 1.0  # then, for one that does not take that long for an answer

C = TypeVar("C")
S = TypeVar("S")
C_contra = TypeVar("C_contra", contravariant=True)
S_contra = TypeVar("S_contra", contravariant=True)


class Service(Protocol[C_contra, S_contra]):
    """Something that works in the background for as long as its host lives."""

    @property
    def name(self) -> str:
        """For logs."""
        ...

    async def start(self, context: C_contra, /) -> None:
        """Begin.  What it raises ends the start of everything."""
        ...

    def network_changed(self, state: S_contra, /) -> None:
        """Look again at whatever depends on the network.  Must not block."""
        ...

    async def close(self) -> None:
        """End, within a few seconds.  Called once, also after a start that failed or was cancelled."""
        ...

    @property
    def metrics(self) -> Mapping[str, int]:
        """Counters by full name, ``group:name``; still there after the end."""
        ...


class ServiceHost(Generic[C, S]):
    """Keeps the order of services: ended in the reverse order of their start.

    Parameters
    ----------
    context : what each service is started with.
    close_timeout_s : seconds that each service may take for its end.
    """

    __slots__ = ("_close_timeout", "_closing", "_context", "_known", "_loop", "_started")

    def __init__(self, context: C, *, close_timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._close_timeout = close_timeout_s
        self._known: list[Service[C, S]] = []  # started, or being started
        self._started: list[Service[C, S]] = []
        self._closing: asyncio.Task[None] | None = None

    async def start(self, services: Iterable[Service[C, S]]) -> None:
        """Start services, one after the other.

        Raises
        ------
        Exception : what the start of one of them raised; then all are ended again.

        Notes
        -----
        Cancelled, it raises once all are ended.
        """
        if self._closing is not None:
            raise RuntimeError("this host of services is closed")
        try:
            for service in services:
                self._known.append(service)
                await service.start(self._context)
                self._started.append(service)
        except GeneratorExit:  # the loop is gone: nothing can be waited for
            raise
        except BaseException:
            await self.close()
            raise

    def network_changed(self, state: S) -> None:
        """Tell every service, in order; one that fails is logged."""
        if self._closing is not None:
            return
        for service in self._started:
            try:
                service.network_changed(state)
            except Exception:
                log.exception("%s failed at a change of the network", service.name)

    def metrics(self) -> dict[str, int]:
        """The counters of all services; those of one name are added."""
        total: dict[str, int] = {}
        for service in self._started:
            for name, value in service.metrics.items():
                total[name] = total.get(name, 0) + value
        return total

    async def close(self) -> None:
        """End every service; a second call waits for the first.

        One that fails is logged, one that takes too long is cancelled; the others are ended
        nevertheless.  Cancelling the caller does not stop this: it raises when all is done.
        """
        self.stop()
        assert self._closing is not None
        await see_through(self._closing)

    def stop(self) -> None:
        """Do the same in the background, when there is nobody to wait for it."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._close_all())

    async def _close_all(self) -> None:
        for service in reversed(self._known):
            await self._close_one(service)

    async def _close_one(self, service: Service[C, S]) -> None:
        # A task of its own, since one that ignores its cancellation must not hold up the rest.
        task = self._loop.create_task(service.close())
        _, late = await asyncio.wait({task}, timeout=self._close_timeout)
        if late:
            log.warning("%s did not end within %g s", service.name, self._close_timeout)
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_TIMEOUT_S)
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            log.error("the end of %s failed", service.name, exc_info=error)
