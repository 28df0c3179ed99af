"""The host of services: order, failures, bounds, counters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest
import uvloop

from iroh_fast.aio import services as services_module
from iroh_fast.aio.services import Service, ServiceHost

Main = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    def go(main: Main) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await main()
            assert asyncio.all_tasks() == {asyncio.current_task()}  # nothing is left behind

        (uvloop.run if request.param == "uvloop" else asyncio.run)(bounded())

    return go


class Noted:
    """A service that writes down what is asked of it."""

    def __init__(self, name: str, log: list[Any], **counters: int) -> None:
        self.name = name
        self.log = log
        self.counters = counters

    async def start(self, context: str) -> None:
        self.log.append(("start", self.name, context))

    def network_changed(self, state: int) -> None:
        self.log.append(("changed", self.name, state))

    async def close(self) -> None:
        self.log.append(("close", self.name))

    @property
    def metrics(self) -> Mapping[str, int]:
        return self.counters


class Waits(Noted):
    """Starts and closes when told."""

    def __init__(self, name: str, log: list[Any]) -> None:
        super().__init__(name, log)
        self.may_start, self.may_close = asyncio.Event(), asyncio.Event()

    async def start(self, context: str) -> None:
        await super().start(context)
        await self.may_start.wait()

    async def close(self) -> None:
        await super().close()
        await self.may_close.wait()
        self.log.append(("closed", self.name))


def closed(log: list[Any]) -> list[str]:
    return [entry[1] for entry in log if entry[0] == "close"]


def host_of(**options: Any) -> ServiceHost[str, int]:
    return ServiceHost("context", **options)


def test_services_start_in_order_and_end_in_the_reverse(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        log: list[Any] = []
        host = host_of()
        await host.start([Noted(name, log) for name in "abc"])
        host.network_changed(7)
        await host.close()
        await host.close()
        host.network_changed(8)  # nobody is there any more
        assert log == [
            *(("start", name, "context") for name in "abc"),
            *(("changed", name, 7) for name in "abc"),
            *(("close", name) for name in "cba"),
        ]
        with pytest.raises(RuntimeError):
            await host.start([])

    run(main)


def test_services_before_a_failing_start_are_ended(run: Callable[[Main], None]) -> None:
    class Fails(Noted):
        async def start(self, context: str) -> None:
            raise OSError("no such thing")

    async def main() -> None:
        log: list[Any] = []
        with pytest.raises(OSError, match="no such thing"):
            await host_of().start([Noted("a", log), Noted("b", log), Fails("c", log), Noted("d", log)])
        assert closed(log) == ["c", "b", "a"]

    run(main)


def test_services_before_a_cancelled_start_are_ended(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        log: list[Any] = []
        slow = Waits("b", log)
        task = asyncio.create_task(host_of().start([Noted("a", log), slow, Noted("c", log)]))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()  # once more, while it cleans up
        await asyncio.sleep(0.01)
        assert not task.done() and closed(log) == ["b"]
        slow.may_close.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert closed(log) == ["b", "a"] and ("start", "c", "context") not in log

    run(main)


def test_failing_end_is_logged_and_hinders_nobody(
    run: Callable[[Main], None], caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Noted):
        def network_changed(self, state: int) -> None:
            raise ZeroDivisionError

        async def close(self) -> None:
            await super().close()
            raise ValueError("broken")

    class Cancelled(Noted):
        async def close(self) -> None:
            await super().close()
            raise asyncio.CancelledError

    async def main() -> None:
        log: list[Any] = []
        host = host_of()
        await host.start([Noted("a", log), Fails("b", log), Cancelled("c", log), Noted("d", log)])
        host.network_changed(1)
        await host.close()
        assert [entry[1] for entry in log if entry[0] == "changed"] == ["a", "c", "d"]
        assert closed(log) == ["d", "c", "b", "a"]

    run(main)
    texts = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("ERROR", "b failed at a change of the network") in texts
    assert ("ERROR", "the end of b failed") in texts
    assert any(record.exc_info for record in caplog.records if "end of b" in record.getMessage())


def test_end_that_takes_too_long_is_cancelled_and_one_that_ignores_it_left(
    run: Callable[[Main], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(services_module, "CANCEL_TIMEOUT_S", 0.01)
    stubborn_may_end: list[asyncio.Event] = []

    class Stubborn(Noted):
        async def close(self) -> None:
            await super().close()
            while not stubborn_may_end[0].is_set():
                try:
                    await stubborn_may_end[0].wait()
                except asyncio.CancelledError:
                    pass

    async def main() -> None:
        log: list[Any] = []
        stubborn_may_end[:] = [asyncio.Event()]
        host = host_of(close_timeout_s=0.01)
        slow = Waits("b", log)
        slow.may_start.set()
        await host.start([Noted("a", log), slow, Stubborn("c", log)])
        await host.close()
        assert closed(log) == ["c", "b", "a"] and ("closed", "b") not in log
        stubborn_may_end[0].set()
        await asyncio.sleep(0.01)

    run(main)
    late = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [text.partition(" did")[0] for text in late] == ["c", "b"]


def test_cancelled_close_ends_everything_nevertheless(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        log: list[Any] = []
        host = host_of()
        slow = Waits("b", log)
        slow.may_start.set()
        await host.start([Noted("a", log), slow])
        tasks = [asyncio.create_task(host.close()) for _ in range(2)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        await asyncio.sleep(0.01)
        assert not tasks[0].done()
        slow.may_close.set()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        await tasks[1]
        assert closed(log) == ["b", "a"] and ("closed", "b") in log

    run(main)


def test_counters_of_all_services_are_merged(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        log: list[Any] = []
        host = host_of()
        one: Service[str, int] = Noted("a", log, hits=1, only=5)
        await host.start([one, Noted("b", log, hits=2)])
        assert host.metrics() == {"hits": 3, "only": 5}
        await host.close()
        assert host.metrics() == {"hits": 3, "only": 5}

    run(main)
