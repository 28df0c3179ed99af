"""What all errors have in common, and those that belong to no part alone."""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "IrohError",
    "NotAllowed",
    "WatcherEnded",
    "WrongThread",
    "printable",
]


def printable(text: str, limit: int | None = None) -> str:
    """Escape what a terminal or log would obey: text of a peer is shown in one harmless line.

    Control characters, line separators and what changes the direction of writing become
    ``\\x1b`` and the like.

    Parameters
    ----------
    limit : characters of `text` to show at most; the rest is replaced by three dots.
    """
    cut = limit is not None and len(text) > limit
    shown = text[:limit] if cut else text
    if not shown.isprintable():
        shown = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
            for char in shown
        )
    return shown + "..." if cut else shown


def _restore(cls: type[IrohError], args: tuple[Any, ...], state: dict[str, Any]) -> IrohError:
    """Rebuild a pickled error without running its constructor."""
    error = cls.__new__(cls, *args)
    if isinstance(error, OSError):
        OSError.__init__(error, *args)  # fills errno and strerror, which live outside __dict__
    error.__dict__.update(state)
    return error


class IrohError(Exception):
    """Base of everything this package raises on purpose.

    Attributes
    ----------
    message : str
        One sentence; what ``str()`` gives.
    """

    _default: ClassVar[str] = "iroh error"
    message: str

    def __init__(self, message: str | None = None) -> None:
        self.message = self._default if message is None else message
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, dict(self.__dict__))


class NotAllowed(IrohError):
    """A protocol handler or a hook refuses the peer."""

    _default = "not allowed"


class WatcherEnded(IrohError):
    """The watched object is closed; the value does not change any more."""

    _default = "the watched object is closed"


class WrongThread(IrohError, RuntimeError):
    """An object was used outside the thread of its event loop."""

    _default = "this object belongs to another thread; use loop.call_soon_threadsafe"
