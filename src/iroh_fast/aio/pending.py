"""Awaitables that also work as asynchronous context managers."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

__all__ = ["Entering", "Pending"]


class _Closable(Protocol):
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


T = TypeVar("T", bound=_Closable)


class Entering(Coroutine[Any, Any, T], Generic[T]):
    """Result of a call that works as ``x = await f()`` and as ``async with f() as x``.

    It is a coroutine too, for ``asyncio.create_task(f())``.  A subclass says what awaiting it
    does.
    """

    __slots__ = ("_run", "_value")
    _run: Generator[Any, Any, T]
    _value: T

    def __await__(self) -> Generator[Any, Any, T]:
        raise NotImplementedError

    def _running(self) -> Generator[Any, Any, T]:
        try:
            return self._run
        except AttributeError:
            run = self._run = self.__await__()
            return run

    if not TYPE_CHECKING:  # those know that there is nothing of the kind

        def __getattr__(self, name: str) -> Any:
            """Tell who forgot to await, instead of naming a class that nobody has heard of."""
            if name.startswith("_"):
                raise AttributeError(name)
            raise AttributeError(
                f"no {name!r} yet: this call has to be awaited, or used in an 'async with'"
            )

    def send(self, value: Any, /) -> Any:
        return self._running().send(value)

    def throw(self, *args: Any) -> Any:
        return self._running().throw(*args)

    def close(self) -> None:
        try:
            self._run.close()
        except AttributeError:  # never started
            pass

    async def __aenter__(self) -> T:
        self._value = value = await self
        return value

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        value = self._value
        del self._value
        await value.__aexit__(kind, error, trace)


class Pending(Entering[T]):
    """The same around the coroutine of an ``async def``."""

    __slots__ = ("_coro",)

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        self._coro = coro

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coro.__await__()

    def send(self, value: Any, /) -> Any:
        return self._coro.send(value)

    def throw(self, *args: Any) -> Any:
        return self._coro.throw(*args)

    def close(self) -> None:
        self._coro.close()
