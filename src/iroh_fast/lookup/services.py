"""What an address lookup service is, what it yields, and what an endpoint shows it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from .._check import shown
from ..aio.owner import Owner
from ..errors import AddressLookupError, ConfigError, IrohError, printable
from ..keys import EndpointId, SecretKey
from .info import EndpointData, EndpointInfo

if TYPE_CHECKING:
    from ..web.client import HttpClient
    from ..web.resolver import DnsResolver

__all__ = [
    "AddressLookup",
    "AddressLookupBuilder",
    "AddressLookupLike",
    "LookupAnswer",
    "LookupFailure",
    "LookupHost",
    "LookupItem",
    "build",
    "check_service",
    "failure_error",
    "name_of",
    "summary",
]

MAX_TEXT = 300  # characters of what a service says about its failure
MAX_SHOWN = 8  # failures in one text


@dataclass(frozen=True, slots=True)
class LookupItem:
    """What a service found.

    Attributes
    ----------
    info : the endpoint that was asked for, and where it can be reached.
    provenance : name of the service, as in ``remote_info`` and in counters.
    last_updated : when that was true, in microseconds since 1970; None where it is not known.
    """

    info: EndpointInfo
    provenance: str
    last_updated: int | None = None


@dataclass(frozen=True, slots=True)
class LookupFailure:
    """A service could not answer; others may."""

    provenance: str
    error: Exception


LookupAnswer: TypeAlias = LookupItem | LookupFailure


class AddressLookup(Protocol):
    """A way to find endpoints by their id, and to let one's own endpoint be found.

    Derive from it and write the half that is wanted.  Two more methods are called where they
    exist: ``network_changed()``, a plain one, after a change of this machine's addresses, and
    ``async close()`` when the endpoint closes or the service is taken out of it.
    """

    def publish(self, data: EndpointData, /) -> None:
        """Let others know where this endpoint can be reached; replaces what was published before.

        Called at each change, from the endpoint's loop.  Returns at once: what takes time is the
        business of a task that the service owns.
        """

    def resolve(self, id: EndpointId, /) -> AsyncIterator[LookupAnswer] | None:
        """Look for an endpoint; None from a service that only publishes.

        Items may come as they are found, and ends when no more will come: a connection attempt
        without any address waits for that long.  An exception is one failure, and the end.
        Closing the iterator, or cancelling the task it runs in, ends its work at once.
        """
        return None


@runtime_checkable
class AddressLookupBuilder(Protocol):
    """Makes a service for one endpoint."""

    def into_address_lookup(self, endpoint: LookupHost, /) -> AddressLookup:
        """Make the service; an exception ends ``bind``."""
        ...


AddressLookupLike: TypeAlias = AddressLookup | AddressLookupBuilder
"""What the options of an endpoint take: a service, or what makes one."""


class LookupHost(Protocol):
    """What an endpoint shows to its services."""

    @property
    def id(self) -> EndpointId:
        """The endpoint."""
        ...

    @property
    def secret_key(self) -> SecretKey:
        """Its key, to sign records."""
        ...

    @property
    def owner(self) -> Owner:
        """Its event loop; ``owner.spawn`` runs a coroutine there."""
        ...

    @property
    def dns_resolver(self) -> DnsResolver:
        """Its resolver of names."""
        ...

    @property
    def http(self) -> HttpClient:
        """Its HTTP client: with its resolver, CAs and proxy; made when it is first asked for."""
        ...


# --- what users give, checked --------------------------------------------------------------


def check_service(name: str, value: Any) -> AddressLookupLike:
    """Check what was given for a service or its builder.

    Raises
    ------
    ConfigError : it is neither; the message begins with `name`.
    """
    if isinstance(value, type):
        raise ConfigError(f"{name} holds the class {value.__name__}; give an instance of it")
    builder = getattr(value, "into_address_lookup", None)
    if callable(builder):
        if inspect.iscoroutinefunction(builder):
            raise ConfigError(
                f"{name}: into_address_lookup of {shown(value)} is not a plain method"
            )
        return value  # type: ignore[no-any-return]
    publish, resolve = getattr(value, "publish", None), getattr(value, "resolve", None)
    if not callable(publish) or not callable(resolve):
        raise ConfigError(
            f"{name} is a list of address lookup services (with methods publish and resolve); "
            f"{shown(value)} is none"
        )
    if inspect.iscoroutinefunction(publish):
        raise ConfigError(f"{name}: publish of {shown(value)} is a plain method, not an async one")
    if inspect.iscoroutinefunction(resolve):
        raise ConfigError(
            f"{name}: resolve of {shown(value)} returns an iterator: make it an async generator, "
            "with yield, or a plain method"
        )
    return value  # type: ignore[no-any-return]


def build(service: AddressLookupLike, host: LookupHost) -> AddressLookup:
    """Make the service of an endpoint; what is one already is itself.

    Raises
    ------
    AddressLookupError : the builder raised, which is the cause.
    """
    if not isinstance(service, AddressLookupBuilder):
        return service
    try:
        made = service.into_address_lookup(host)
    except ConfigError:  # it says by itself what to do
        raise
    except Exception as error:
        name = name_of(service)
        raise AddressLookupError(
            f"address lookup {name!r} cannot be set up: {_text(error)}", provenance=name
        ) from error
    if not callable(getattr(made, "publish", None)) or not callable(getattr(made, "resolve", None)):
        raise ConfigError(
            f"into_address_lookup of {shown(service)} returned no service: {shown(made)}"
        )
    return made


def name_of(service: object) -> str:
    """Under which name a service fails: its attribute `provenance`, else its class."""
    name = getattr(service, "provenance", None)
    return name if isinstance(name, str) and name else type(service).__name__


def _text(error: Exception) -> str:
    """An exception in one harmless line."""
    said = str(error)
    if not isinstance(error, IrohError) and not (isinstance(error, OSError) and said):
        said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return printable(said, MAX_TEXT)


def failure_error(failure: LookupFailure) -> AddressLookupError:
    """The failure of a service as an error of its own."""
    name = failure.provenance
    error = AddressLookupError(
        f"address lookup {printable(name, 40)!r} failed: {_text(failure.error)}", provenance=name
    )
    error.__cause__ = failure.error
    return error


def summary(errors: Sequence[AddressLookupError]) -> str:
    """What services say, in one line."""
    if not errors:
        return "no address lookup service knows any"
    more = f" and {len(errors) - MAX_SHOWN} more" if len(errors) > MAX_SHOWN else ""
    return "; ".join(map(str, errors[:MAX_SHOWN])) + more
