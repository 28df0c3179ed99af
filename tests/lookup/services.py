"""Address lookup services for tests: each does one thing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

from iroh_fast import EndpointId, SecretKey
from iroh_fast.aio.owner import Owner
from iroh_fast.lookup.info import EndpointData, EndpointInfo
from iroh_fast.lookup.registry import AddressLookupServices
from iroh_fast.lookup.services import (
    AddressLookup,
    LookupAnswer,
    LookupFailure,
    LookupHost,
    LookupItem,
)

KEY = SecretKey.from_bytes(b"\x2a" * 32)
ID = KEY.public
OTHER = SecretKey.from_bytes(b"\x2b" * 32).public


def info(*addrs: str, id: EndpointId = ID, user_data: str | None = None) -> EndpointInfo:
    return EndpointInfo(id, EndpointData(addrs, user_data))


def item(provenance: str, *addrs: str, id: EndpointId = ID) -> LookupItem:
    return LookupItem(info(*addrs, id=id), provenance)


@dataclass
class Host:
    """An endpoint, as far as services see it."""

    owner: Owner
    id: EndpointId = ID
    secret_key: SecretKey = KEY

    @property
    def dns_resolver(self) -> object:
        raise AssertionError("nobody here asks for names")

    http = dns_resolver


def registry(**options: object) -> AddressLookupServices:
    host: LookupHost = Host(Owner(asyncio.get_running_loop()))  # type: ignore[assignment]
    return AddressLookupServices(host, **options)  # type: ignore[arg-type]


@dataclass
class Says(AddressLookup):
    """Yields what it was given, after an event if there is one."""

    answers: Iterable[LookupAnswer] = ()
    after: asyncio.Event | None = None
    provenance: str = "says"
    published: list[EndpointData] = field(default_factory=list)
    asked: list[EndpointId] = field(default_factory=list)
    ended: int = 0

    def publish(self, data: EndpointData, /) -> None:
        self.published.append(data)

    async def resolve(self, id: EndpointId, /) -> AsyncIterator[LookupAnswer]:  # type: ignore[override]
        self.asked.append(id)
        try:
            if self.after is not None:
                await self.after.wait()
            for answer in self.answers:
                yield answer
        finally:
            self.ended += 1


@dataclass
class Raises(AddressLookup):
    """Fails, in one of the ways in which a service can."""

    error: Exception
    how: str = "while it runs"
    provenance: str = "raises"

    def publish(self, data: EndpointData, /) -> None:
        raise self.error

    def resolve(self, id: EndpointId, /) -> AsyncIterator[LookupAnswer] | None:
        if self.how == "when asked":
            raise self.error
        return self.run()

    async def run(self) -> AsyncIterator[LookupAnswer]:
        if self.how == "by an answer":
            yield LookupFailure(self.provenance, self.error)
            return
        await asyncio.sleep(0)
        raise self.error


class Publishes(AddressLookup):
    """Only publishes."""

    def __init__(self) -> None:
        self.published: list[EndpointData] = []
        self.closed = 0

    def publish(self, data: EndpointData, /) -> None:
        self.published.append(data)

    async def close(self) -> None:
        self.closed += 1


async def until(true: Callable[[], object]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.001)
