"""Waiting calls: their own, strong, cancel-safe, first come, first served."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from iroh_fast.aio._waiters import Handoff, Turn, WaitQueue
from iroh_fast.aio.once import Once, Room, see_through
from iroh_fast.aio.unless import Unless

Main = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    def go(main: Main) -> None:
        if request.param == "uvloop":
            uvloop.run(main())
        else:
            asyncio.run(main())

    return go


async def turns(n: int = 3) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def start(waits: Callable[[], Awaitable[Any]], log: list[Any], name: Any) -> asyncio.Task[None]:
    async def task() -> None:
        log.append((name, await waits()))

    return asyncio.create_task(task())


def test_the_oldest_are_woken_first(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        queue = WaitQueue()
        log: list[Any] = []
        tasks = [start(queue.wait, log, k) for k in range(5)]
        await turns()
        assert queue.waiting
        assert queue.wake(2) == 2
        await turns()
        assert log == [(0, None), (1, None)]
        queue.wake_all()
        await turns()
        assert [name for name, _ in log] == list(range(5))
        assert queue.wake(1) == 0
        assert not queue.waiting
        await asyncio.gather(*tasks)

    run(main)


def test_cancelling_one_leaves_the_others(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        queue = WaitQueue()
        log: list[Any] = []
        tasks = [start(queue.wait, log, k) for k in range(4)]
        await turns()
        tasks[0].cancel()
        tasks[2].cancel()
        await turns()
        assert [task.cancelled() for task in tasks] == [True, False, True, False]
        queue.wake_all()
        await turns()
        assert [name for name, _ in log] == [1, 3]

    run(main)


def test_a_wake_up_of_a_cancelled_task_goes_on(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        for before in (True, False):
            queue = WaitQueue()
            log: list[Any] = []
            tasks = [start(queue.wait, log, k) for k in range(3)]
            await turns()
            if before:  # its future is cancelled, its task has not heard of it
                tasks[0].cancel()
            queue.wake()
            if not before:  # woken, but not yet running again
                tasks[0].cancel()
            await turns()
            assert tasks[0].cancelled()
            assert log == [(1, None)]
            assert not tasks[2].done()
            queue.wake()
            await turns()

    run(main)


def test_what_was_handed_to_a_cancelled_task_goes_to_the_next(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        things: Handoff[str] = Handoff()
        log: list[Any] = []
        tasks = [start(things.wait, log, k) for k in range(2)]
        await turns()
        things.put("a")
        things.put("b")
        tasks[0].cancel()
        tasks[1].cancel()
        await turns()
        assert log == []
        things.put("c")
        assert len(things) == 3
        assert sorted(filter(None, (things.take() for _ in range(4)))) == ["a", "b", "c"]

        tasks = [start(things.wait, log, k) for k in range(2)]
        await turns()
        things.put("d")
        tasks[0].cancel()
        await turns()
        assert log == [(1, "d")]
        assert things.take() is None

    run(main)


def test_a_turn_is_never_lost(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        turn, inside = Turn(), 0
        order: list[int] = []

        async def work(k: int) -> None:
            nonlocal inside
            if not turn.take():
                await turn.wait()
            try:
                inside += 1
                assert inside == 1
                order.append(k)
                await asyncio.sleep(0)
            finally:
                inside -= 1
                turn.release()

        tasks = [asyncio.create_task(work(k)) for k in range(20)]
        await turns(2)
        for k in (0, 1, 5, 6, 19):
            tasks[k].cancel()
        await asyncio.wait(tasks)
        assert order == sorted(order)
        assert len(order) >= 15
        assert not turn.taken
        # Handed over to a task that is cancelled at that moment, with nobody behind it.
        turn.take()
        last = asyncio.create_task(work(99))
        await turns()
        turn.release()
        last.cancel()
        await turns()
        assert last.cancelled()
        assert not turn.taken

    run(main)


def test_a_task_that_nobody_else_refers_to_goes_on_waiting(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        log: list[Any] = []

        def forget() -> weakref.ref[WaitQueue]:
            queue = WaitQueue()

            async def task() -> None:
                await queue.wait()
                log.append("woken")

            asyncio.ensure_future(task())  # noqa: RUF006
            return weakref.ref(queue)

        weak = forget()
        await turns()
        gc.collect()
        queue = weak()
        assert queue is not None
        queue.wake()
        await turns()
        assert log == ["woken"]
        del queue
        gc.collect()
        assert weak() is None

    run(main)


def test_waiting_leaves_nothing_behind(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        queue = WaitQueue()
        alive: weakref.WeakSet[Any] = weakref.WeakSet()
        for k in range(50):
            task = asyncio.create_task(_wait(queue, alive))
            await turns(1)
            if k % 2:
                task.cancel()
            else:
                queue.wake()
            await turns()
        del task
        await turns()
        assert not queue.waiting
        gc.collect()
        assert not alive

    run(main)


class _Mark:
    pass


async def _wait(queue: WaitQueue, alive: weakref.WeakSet[Any]) -> None:
    mark = _Mark()
    alive.add(mark)
    await queue.wait()


def test_a_wait_gives_a_future_for_callbacks(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        queue = WaitQueue()
        called: list[Any] = []
        queue.wait().future.add_done_callback(called.append)
        gc.collect()
        queue.wake()
        await turns()
        assert len(called) == 1

    run(main)


def test_what_waits_for_something_that_happens_once_is_kept(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        seen: list[int] = []

        def begin() -> weakref.ref[Once]:
            once = Once()

            async def wait() -> None:
                await once.wait()
                seen.append(1)

            for _ in range(2):
                asyncio.ensure_future(wait())  # noqa: RUF006 - that is the point
            return weakref.ref(once)

        weak = begin()
        await turns()
        gc.collect()
        once = weak()
        assert once is not None and not once.happened
        once.set()
        once.set()
        await turns()
        assert seen == [1, 1] and once.happened
        await once.wait()  # at once from now on

    run(main)


def test_seeing_through_outlasts_cancellation(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        once, calls = Once(), []
        task = asyncio.ensure_future(once.wait())
        waiter = asyncio.ensure_future(see_through(task, lambda: calls.append(1)))
        for _ in range(2):
            await turns()
            waiter.cancel()
        await turns()
        assert not waiter.done() and len(calls) == 2
        once.set()
        await turns()
        assert waiter.cancelled() and task.done() and not task.cancelled()
        await see_through(task)

        async def fail() -> None:
            raise ValueError("it failed")

        try:
            await see_through(asyncio.ensure_future(fail()))
        except ValueError as error:
            assert str(error) == "it failed"
        else:
            raise AssertionError("the error was lost")

    run(main)


def test_room_serves_in_order_and_passes_on_what_a_cancelled_task_got(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        room = Room(1)
        await room.take()
        order: list[int] = []

        async def enter(number: int) -> None:
            await room.take()
            order.append(number)

        tasks = [asyncio.ensure_future(enter(number)) for number in range(4)]
        await asyncio.sleep(0)
        room.leave()
        tasks[0].cancel()  # when the place is already on its way to it
        await asyncio.wait(tasks, timeout=0.01)
        assert order == [1] and room.free == 0
        room.leave()
        room.leave()
        await asyncio.wait(tasks)
        assert order == [1, 2, 3] and room.free == 0

    run(main)


def test_once_can_be_awaited_before_and_after_it_happened(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        once = Once()
        tasks = [asyncio.ensure_future(once.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        once.set()
        await asyncio.wait(tasks)
        await once
        assert once.happened and [task.cancelled() for task in tasks] == [False, True, False]

    run(main)


def test_a_block_ends_when_something_else_happens(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        once, log = Once(), []

        async def work(counts: bool = True) -> None:
            async with Unless(once.waiter(), lambda: counts) as unless:
                if counts:
                    await asyncio.sleep(100)
                await turns()
                log.append("end of block")
            log.append(unless.happened)
            await asyncio.sleep(0)  # nothing of it is left

        for ends in (lambda task: once.set(), lambda task: task.cancel()):
            task = asyncio.ensure_future(work())
            await turns()
            ends(task)
            await turns()
            log.append((task.done(), task.cancelled(), task.cancelling()))
        both = asyncio.ensure_future(work())
        await turns()
        once.set()
        both.cancel()
        await turns()
        log.append(both.cancelled())
        going_on = asyncio.ensure_future(work(False))
        await turns()
        once.set()
        await going_on
        assert log == [
            True, (True, False, 0), (True, True, 1), True, "end of block", False
        ]  # fmt: skip

    run(main)
