"""Values that change over time, and ways to follow them."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Generic, TypeVar

from ..errors import WatcherEnded
from ._waiters import WaitQueue
from .owner import Owner

__all__ = ["Source", "Watchable", "Watcher"]

T = TypeVar("T")


class Watcher(Generic[T]):
    """Follow a value.  Intermediate values may be skipped, the latest one never is.

    Iterating gives the current value first, then every later one, and ends when the
    watched object is closed (an endpoint by :meth:`Endpoint.close`).
    """

    __slots__ = ("_seen", "_source", "_started")

    def __init__(self, source: Source[T]) -> None:
        self._source = source
        self._seen = source.version()
        self._started = False

    @property
    def value(self) -> T:
        """The latest value.  Still answers after the end."""
        return self._source.get()

    async def changed(self) -> T:
        """Wait for a value newer than the last one this watcher waited for.

        Raises
        ------
        WatcherEnded : there will be none.

        Notes
        -----
        Cancel-safe.
        """
        source = self._source
        while (version := source.version()) == self._seen:
            if source.ended():
                raise WatcherEnded()
            await source.wait()
        self._seen = version
        return source.get()

    async def wait_for(self, predicate: Callable[[T], bool], /) -> T:
        """Wait until `predicate` holds for the value; returns at once if it does now.

        Raises
        ------
        WatcherEnded : the watched object closed first.
        TypeError : `predicate` is no plain function of the value.
        """
        if not callable(predicate) or iscoroutinefunction(predicate):
            raise TypeError(f"predicate is a plain function of the value, not {predicate!r:.80}")
        source = self._source
        while True:
            self._seen = source.version()
            value = source.get()
            if predicate(value):
                return value
            await self.changed()

    def __aiter__(self) -> Watcher[T]:
        return self

    async def __anext__(self) -> T:
        if not self._started:
            self._started = True
            self._seen = self._source.version()
            return self._source.get()
        try:
            return await self.changed()
        except WatcherEnded:
            raise StopAsyncIteration from None

    def __repr__(self) -> str:
        return f"<Watcher {self.value!r}>"


class Source(Generic[T]):
    """Where a :class:`Watcher` gets its values."""

    __slots__ = ()

    def get(self) -> T:
        """The current value."""
        raise NotImplementedError

    def version(self) -> object:
        """Something that compares unequal once the value is another one."""
        raise NotImplementedError

    def ended(self) -> bool:
        """True when the value cannot change any more."""
        raise NotImplementedError

    async def wait(self) -> None:
        """Return when the value or `ended` may have changed."""
        raise NotImplementedError


class Watchable(Source[T]):
    """A value that its owner sets.

    Whoever waits for it must be on the loop of `owner`, where one is given.
    """

    __slots__ = ("_ended", "_owner", "_value", "_version", "_waiters")

    def __init__(self, value: T, owner: Owner | None = None) -> None:
        self._owner = owner
        self._value = value
        self._version = 0
        self._ended = False
        self._waiters = WaitQueue()

    def set(self, value: T) -> bool:
        """Change the value; returns whether it differs from the one before."""
        if value == self._value or self._ended:
            return False
        self._value = value
        self._version += 1
        self._wake()
        return True

    def close(self) -> None:
        """End all watchers."""
        self._ended = True
        self._wake()

    def watch(self) -> Watcher[T]:
        """Make an independent watcher."""
        return Watcher(self)

    def _wake(self) -> None:
        self._waiters.wake_all()

    def get(self) -> T:
        return self._value

    def version(self) -> object:
        return self._version

    def ended(self) -> bool:
        return self._ended

    async def wait(self) -> None:
        if self._owner is not None:
            self._owner.check_loop()
        await self._waiters.wait()
