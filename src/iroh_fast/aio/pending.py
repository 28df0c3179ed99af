"""Awaitables that also work as asynchronous context managers."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Protocol, TypeVar

__all__ = ["Pending"]


class _Closable(Protocol):
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


T = TypeVar("T", bound=_Closable)


class Pending(Coroutine[Any, Any, T]):
    """Result of a call that works as ``x = await f()`` and as ``async with f() as x``.

    It is a coroutine too, for ``asyncio.create_task(f())``.
    """

    __slots__ = ("_coro", "_value")
    _value: T

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        self._coro = coro

    def send(self, value: Any, /) -> Any:
        return self._coro.send(value)

    def throw(self, *args: Any) -> Any:
        return self._coro.throw(*args)

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coro.__await__()

    async def __aenter__(self) -> T:
        self._value = value = await self._coro
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
