"""Values that are ordered by a key."""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = ["Ordered"]


class Ordered:
    """Base of a family of values that compare with each other, and with nothing else."""

    __slots__ = ()
    _family: ClassVar[type[Ordered]]

    def __init_subclass__(cls) -> None:
        if Ordered in cls.__bases__:
            cls._family = cls

    def _key(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def __lt__(self, other: object) -> bool:
        return self._key() < other._key() if isinstance(other, self._family) else NotImplemented

    def __le__(self, other: object) -> bool:
        return self._key() <= other._key() if isinstance(other, self._family) else NotImplemented

    def __gt__(self, other: object) -> bool:
        return self._key() > other._key() if isinstance(other, self._family) else NotImplemented

    def __ge__(self, other: object) -> bool:
        return self._key() >= other._key() if isinstance(other, self._family) else NotImplemented
