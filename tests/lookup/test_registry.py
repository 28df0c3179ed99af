"""All address lookup services of an endpoint as one: merging, isolation, publishing, the end."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Sequence

import pytest

from iroh_fast import EndpointId
from iroh_fast.addr import TransportAddr
from iroh_fast.errors import AddressLookupError, AddressLookupFailed, ConfigError, EndpointClosed
from iroh_fast.lookup import merge as merge_room
from iroh_fast.lookup.info import EndpointData
from iroh_fast.lookup.merge import Lookup
from iroh_fast.lookup.registry import AddressLookupServices
from iroh_fast.lookup.services import AddressLookup, LookupAnswer, LookupFailure, LookupItem

from .services import ID, OTHER, Host, Publishes, Raises, Says, item, registry, until

RELAY = "https://relay.example./"


async def everything(lookup: Lookup) -> tuple[list[LookupAnswer], AddressLookupFailed | None]:
    """All answers, and the error at the end."""
    found: list[LookupAnswer] = []
    try:
        async with lookup:
            async for answer in lookup:
                found.append(answer)
    except AddressLookupFailed as error:
        return found, error
    return found, None


def tasks() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


# --- resolving


async def test_resolve_merges_by_readiness_with_provenance() -> None:
    go = asyncio.Event()
    slow, fast = item("slow", "192.0.2.1:1"), item("fast", "192.0.2.2:2", RELAY)
    services = registry()
    services.add(Says([slow], after=go))
    services.add(Says([fast]))
    lookup = services.resolve(ID)
    assert await anext(lookup) == fast
    go.set()
    assert await anext(lookup) == slow
    with pytest.raises(StopAsyncIteration):
        await anext(lookup)
    assert services.metrics == {
        "address_lookup:lookups": 1,
        "address_lookup:lookups_failed": 0,
        'address_lookup:service_results{service="fast"}': 1,
        'address_lookup:service_results{service="slow"}': 1,
    }


@pytest.mark.covers("iroh: address_lookup_succeeds_after_other_resolver_errors")
@pytest.mark.parametrize("how", ["when asked", "while it runs", "by an answer"])
async def test_resolve_failure_of_one_is_told_and_hides_no_other(how: str) -> None:
    go = asyncio.Event()
    services = registry()
    wrong = OSError("no route")
    services.add(Raises(wrong, how))
    good = item("good", "192.0.2.1:1")
    services.add(Says([good], after=go))
    lookup = services.resolve(ID)
    assert await anext(lookup) == LookupFailure("raises", wrong)
    go.set()
    assert await everything(lookup) == ([good], None)
    assert services.metrics['address_lookup:service_errors{service="raises"}'] == 1
    assert services.metrics["address_lookup:lookups_failed"] == 0


async def test_resolve_all_failed_names_each() -> None:
    services = registry()
    first, second = OSError("refused\x1b[2J"), ValueError("nonsense")
    services.add(Raises(first, provenance="dns"))
    services.add(Raises(second, provenance="pkarr"))
    services.add(Publishes())
    found, error = await everything(services.resolve(ID))
    assert {answer.provenance for answer in found} == {"dns", "pkarr"}
    assert error is not None and error.kind == "no_results"
    assert {e.provenance: e.__cause__ for e in error.errors} == {"dns": first, "pkarr": second}
    assert f"{ID:short}" in str(error) and "'dns' failed: refused\\x1b[2J" in str(error)
    assert "'pkarr' failed: ValueError: nonsense" in str(error)
    assert services.metrics["address_lookup:lookups_failed"] == 1


async def test_resolve_without_services_says_so() -> None:
    services = registry()
    found, error = await everything(services.resolve(ID))
    assert found == [] and error is not None and error.kind == "no_service"
    assert services.metrics["address_lookup:lookups"] == 1
    assert services.metrics["address_lookup:lookups_failed"] == 1


async def test_resolve_of_services_that_do_not_resolve_finds_nothing() -> None:
    services = registry()
    services.add(Publishes())
    found, error = await everything(services.resolve(str(ID)))
    assert found == [] and error is not None
    assert (error.kind, error.errors) == ("no_results", ())
    # It is over once, and then just over.
    lookup = services.resolve(ID)
    with pytest.raises(AddressLookupFailed):
        await anext(lookup)
    with pytest.raises(StopAsyncIteration):
        await anext(lookup)
    assert services.metrics["address_lookup:lookups_failed"] == 2


async def test_resolve_hanging_service_delays_nobody() -> None:
    services = registry()
    hanging = Says(after=asyncio.Event())
    good = item("good", "192.0.2.1:1")
    services.add(hanging)
    services.add(Says([good, good]))
    async with services.resolve(ID) as lookup:
        assert [await anext(lookup), await anext(lookup)] == [good, good]
        waiting = asyncio.ensure_future(anext(lookup))
        await asyncio.sleep(0.01)
        assert not waiting.done(), "the stream is open as long as one service is at work"
        waiting.cancel()
    await until(lambda: hanging.ended)
    assert not tasks()
    # What was broken off has neither failed nor succeeded.
    assert services.metrics["address_lookup:lookups_failed"] == 0


async def test_resolve_item_for_another_is_dropped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    services = registry()
    good = item("good", "192.0.2.1:1")
    services.add(Says([item("liar", "192.0.2.66:66", id=OTHER), good]))
    with caplog.at_level(logging.WARNING, "iroh_fast.lookup"):
        assert await everything(services.resolve(ID)) == ([good], None)
    (record,) = caplog.records
    assert f"{OTHER:short}" in record.getMessage() and f"{ID:short}" in record.getMessage()


async def test_resolve_answer_of_another_kind_is_a_failure_of_its_service() -> None:
    services = registry()
    services.add(Says(["192.0.2.1:1"], provenance="mine"))  # type: ignore[list-item]
    (failure,), error = await everything(services.resolve(ID))
    assert isinstance(failure, LookupFailure) and failure.provenance == "mine"
    assert error is not None and "yielded str" in str(error)


async def test_resolve_asks_the_next_answer_when_there_is_room() -> None:
    """A service that never stops does not fill the memory."""

    class Endless(AddressLookup):
        made = 0

        async def resolve(self, id: EndpointId, /) -> AsyncIterator[LookupAnswer]:  # type: ignore[override]
            while True:
                self.made += 1
                yield item("endless", "192.0.2.1:1")

    services = registry()
    endless = Endless()
    services.add(endless)
    async with services.resolve(ID) as lookup:
        for number in range(100):
            assert isinstance(await anext(lookup), LookupItem)
            await asyncio.sleep(0)
            assert endless.made <= number + merge_room.MAX_WAITING + 2
    assert not tasks()


async def test_resolve_iterator_without_aclose_works() -> None:
    class Plain:
        left = 2

        def __aiter__(self) -> Plain:
            return self

        async def __anext__(self) -> LookupAnswer:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return item("plain", "192.0.2.1:1")

    class Service(AddressLookup):
        def resolve(self, id: EndpointId, /) -> AsyncIterator[LookupAnswer]:
            return Plain()

    services = registry()
    services.add(Service())
    found, error = await everything(services.resolve(ID))
    assert len(found) == 2 and error is None


async def test_lookup_that_is_dropped_ends_its_services() -> None:
    services = registry()
    hanging = Says(after=asyncio.Event())
    services.add(hanging)
    lookup = services.resolve(ID)
    waiting = asyncio.ensure_future(anext(lookup))
    await until(lambda: hanging.asked)
    waiting.cancel()
    await asyncio.wait({waiting})
    del lookup, waiting
    gc.collect()
    await until(lambda: hanging.ended)
    await until(lambda: not tasks())


# --- publishing

HERE = EndpointData(["192.0.2.1:1", "[2001:db8::1]:2", RELAY], "hello")


async def test_publish_reaches_all_and_only_what_is_new() -> None:
    services = registry()
    first, second = Publishes(), Says()
    services.add(first)
    services.add(Raises(OSError("full")))
    services.add(second)
    services.publish(EndpointData())
    assert first.published == [], "nothing at all is not published"
    services.publish(HERE)
    services.publish(EndpointData(HERE.addrs, HERE.user_data))
    assert first.published == second.published == [HERE]
    services.publish(EndpointData([], "only a word"))
    assert first.published[-1].user_data == "only a word"


async def test_publish_late_service_learns_what_was_last() -> None:
    services = registry()
    early = Says()
    services.add(early)
    assert early.published == []
    services.publish(HERE)
    late = Says()
    assert services.add(late) is late
    assert late.published == [HERE] and list(services) == [early, late]


@pytest.mark.covers("iroh: concurrent_address_lookup_addr_filter")
async def test_publish_goes_through_the_filter() -> None:
    services = registry(addr_filter="relay_only")
    service = Says()
    services.add(service)
    services.publish(HERE)
    assert service.published == [EndpointData([RELAY], "hello")]

    def backwards(addrs: Sequence[TransportAddr]) -> list[TransportAddr]:
        return list(reversed(addrs))

    services.set_addr_filter(backwards)
    assert service.published[1:] == [EndpointData(reversed(HERE.addrs), "hello")]
    services.set_addr_filter(None)
    assert service.published[2:] == [HERE]
    with pytest.raises(ConfigError, match="addr_filter is a function or one of"):
        services.set_addr_filter("relays")


async def test_publish_filter_that_fails_lets_nothing_out(caplog: pytest.LogCaptureFixture) -> None:
    def broken(addrs: Sequence[TransportAddr]) -> list[TransportAddr]:
        raise RuntimeError("broken")

    services = registry(addr_filter=broken)
    service = Says()
    services.add(service)
    services.publish(HERE)
    late = Says()
    services.add(late)
    assert service.published == late.published == []
    assert "addr_filter failed" in caplog.text


# --- services come and go


async def test_add_refuses_what_is_no_service() -> None:
    services = registry()

    class Async:
        async def publish(self, data: EndpointData) -> None: ...

        def resolve(self, id: EndpointId) -> None: ...

    class Late(AddressLookup):
        async def resolve(self, id: EndpointId, /) -> AsyncIterator[LookupAnswer] | None:  # type: ignore[override]
            return None

    for wrong, says in (
        (Says, "give an instance"),
        (object(), "with methods publish and resolve"),
        (Async(), "publish of .* is a plain method"),
        (Late(), "make it an async generator"),
    ):
        with pytest.raises(ConfigError, match=says):
            services.add(wrong)  # type: ignore[arg-type]
    assert services.is_empty and len(services) == 0


async def test_add_asks_a_builder() -> None:
    class Builder:
        def __init__(self, made: object) -> None:
            self.made = made

        def into_address_lookup(self, endpoint: Host) -> object:
            assert endpoint.id == ID
            if isinstance(self.made, Exception):
                raise self.made
            return self.made

    services = registry()
    made = Says()
    assert services.add(Builder(made)) is made  # type: ignore[arg-type]
    error = OSError("no socket")
    with pytest.raises(AddressLookupError, match="'Builder' cannot be set up: no socket") as raised:
        services.add(Builder(error))  # type: ignore[arg-type]
    assert raised.value.__cause__ is error
    with pytest.raises(ConfigError, match="returned no service: 3"):
        services.add(Builder(3))  # type: ignore[arg-type]
    assert len(services) == 1


async def test_add_has_a_bound() -> None:
    services = registry()
    for _ in range(64):
        services.add(Says())
    with pytest.raises(ConfigError, match="at most 64"):
        services.add(Says())


async def test_clear_takes_all_out_and_closes_them() -> None:
    services = registry()
    service = Publishes()
    services.add(service)
    services.add(Says())
    services.clear()
    assert services.is_empty
    services.publish(HERE)
    assert service.published == []
    await until(lambda: service.closed)
    services.add(service)
    assert service.published == [HERE], "what comes later learns what was published meanwhile"


async def test_network_change_is_told_to_those_who_want_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Curious(Says):
        told = 0

        def network_changed(self) -> None:
            self.told += 1
            raise RuntimeError("no matter")

    services = registry()
    first, second = Curious(), Curious()
    services.add(first)
    services.add(Says())
    services.add(second)
    services.network_changed()
    assert (first.told, second.told) == (1, 1)
    assert "says failed at a change of the network" in caplog.text


async def test_close_ends_lookups_and_services(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Says):
        async def close(self) -> None:
            raise RuntimeError("broken")

    services = registry()
    hanging, publishes = Says(after=asyncio.Event()), Publishes()
    for service in (hanging, Broken(after=asyncio.Event()), publishes):
        services.add(service)
    lookup = services.resolve(ID)
    waiting = asyncio.ensure_future(anext(lookup))
    await until(lambda: hanging.asked)
    await services.close()
    with pytest.raises(EndpointClosed):
        await waiting
    assert hanging.ended == 1 and publishes.closed == 1
    assert "the end of address lookup says failed" in caplog.text
    assert not tasks()
    with pytest.raises(EndpointClosed):
        services.resolve(ID)
    with pytest.raises(EndpointClosed):
        services.add(Says())
    services.publish(HERE)
    assert publishes.published == []


async def test_close_does_not_wait_for_a_service_without_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(Says):
        async def close(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr("iroh_fast.lookup.registry.CLOSE_TIMEOUT_S", 0.01)
    services: AddressLookupServices = registry()
    services.add(Stuck(provenance="stuck"))
    await services.close()
    assert "address lookup stuck did not end" in caplog.text


async def test_counters_have_a_bound() -> None:
    services = registry()
    services.add(Says([item(f"service {n}", "192.0.2.1:1") for n in range(100)]))
    await everything(services.resolve(ID))
    counts = {k: v for k, v in services.metrics.items() if "results" in k}
    assert len(counts) == 65 and sum(counts.values()) == 100
    assert counts['address_lookup:service_results{service="other"}'] == 36
