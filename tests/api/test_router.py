"""Router: dispatch by ALPN, failures of handlers, filters, shutdown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from iroh_fast import (
    Accepting,
    Connection,
    Endpoint,
    Incoming,
    IncomingOutcome,
    NotAllowed,
    ProtocolHandler,
    Router,
    SecretKey,
    presets,
)
from iroh_fast.errors import (
    AlpnMismatch,
    CloseReason,
    ConfigError,
    ConnectError,
    ConnectionRefused,
    EndpointClosed,
    NoAddress,
)

from .conftest import ALPN, Bind


class Echo:
    """Echoes streams and notes what happened to it."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def accept(self, conn: Connection) -> None:
        self.log.append("accept")
        try:
            async for send, recv in conn.bi_streams():
                await send.write_all(await recv.read_to_end(1000))
                send.finish()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise

    async def shutdown(self) -> None:
        self.log.append("shutdown")


async def ask(conn: Connection, data: bytes = b"hello") -> bytes:
    async with conn.open_bi() as (send, recv):
        await send.write_all(data)
        send.finish()
        return await recv.read_to_end(1000)


async def test_router_dispatches_by_alpn(bind: Bind) -> None:
    seen: list[bytes] = []

    async def note(conn: Connection) -> None:
        seen.append(conn.alpn)

    server, client = await bind(alpns=[b"replaced"]), await bind()
    echo = Echo()
    assert isinstance(echo, ProtocolHandler)
    async with Router(server, {ALPN: echo, b"note": note}) as router:
        assert router.endpoint is server
        assert server.alpns == (ALPN, b"note")
        async with client.connect(server.addr, ALPN) as conn:
            assert await ask(conn) == b"hello"
        async with client.connect(server.addr, b"note") as conn:
            reason = await conn.wait_closed()
            assert (reason.kind, reason.code, reason.reason) == ("application", 0, b"")
        with pytest.raises(AlpnMismatch):
            await client.connect(server.addr, b"replaced")
        assert not router.is_shutdown
    assert router.is_shutdown
    assert server.closed
    assert seen == [b"note"]
    assert echo.log == ["accept", "shutdown"]


async def test_router_protocol_added_while_running(bind: Bind) -> None:
    server, client = await bind(), await bind()
    router = Router(server).start()
    with pytest.raises(RuntimeError):
        router.start()
    assert router.accept(ALPN, Echo()) is router
    async with client.connect(server.addr, ALPN) as conn:
        assert await ask(conn) == b"hello"
    with pytest.raises(ConfigError):
        router.accept(b"", Echo())
    with pytest.raises(TypeError):
        router.accept(b"x", 5)  # type: ignore[arg-type]
    await asyncio.gather(router.shutdown(), router.shutdown())
    await router.shutdown()


async def test_router_goes_on_after_a_failing_handler(
    bind: Bind, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[BaseException] = []

    async def fail(conn: Connection) -> None:
        raise ZeroDivisionError("oops")

    async def forbid(conn: Connection) -> None:
        raise NotAllowed("no")

    async def refuse(conn: Connection) -> None:
        conn.close(42, b"no")
        raise NotAllowed("no")

    handlers = {b"fail": fail, b"forbid": forbid, b"refuse": refuse}
    server, client = await bind(), await bind()
    with caplog.at_level(logging.INFO, "iroh_fast"):
        async with Router(server, handlers, on_error=errors.append):
            async with client.connect(server.addr, b"fail") as conn:
                assert (await conn.wait_closed()).code == 1  # not to be taken for success
            async with client.connect(server.addr, b"forbid") as conn:
                assert (await conn.wait_closed()).code == 2
            async with client.connect(server.addr, b"refuse") as conn:
                assert (await conn.wait_closed()).code == 42
    assert [type(error) for error in errors] == [ZeroDivisionError, NotAllowed, NotAllowed]
    assert "oops" in caplog.text


async def test_router_reports_a_connect_error_of_the_handler_itself(
    bind: Bind, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of what the handler dials is not one of the handshake with its peer."""
    errors: list[BaseException] = []
    server, client = await bind(), await bind()

    async def forward(conn: Connection) -> None:
        await server.connect(SecretKey.generate().public, b"no address known")

    async with Router(server, {ALPN: forward}, on_error=errors.append):
        async with client.connect(server.addr, ALPN) as conn:
            assert (await conn.wait_closed()).code == 1
    assert [type(error) for error in errors] == [NoAddress]
    assert "Traceback" in caplog.text


async def test_router_handler_may_shut_the_router_down(bind: Bind) -> None:
    log: list[str] = []
    server, client = await bind(), await bind()

    async def quit(conn: Connection) -> None:
        await router.shutdown()
        log.append("after shutdown")

    async def quit_in_a_task(conn: Connection) -> None:
        try:
            await asyncio.create_task(router.shutdown())
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    async def wait(conn: Connection) -> None:
        try:
            await conn.wait_closed()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    router = Router(server, {b"quit": quit, b"wait": wait}).start()
    other = await client.connect(server.addr, b"wait")
    asker = await client.connect(server.addr, b"quit")
    await server.wait_closed()
    await router.shutdown()
    assert (await asker.wait_closed()).kind == "application"
    assert (await other.wait_closed()).kind == "application"
    await asyncio.sleep(0)
    assert log == ["cancelled", "after shutdown"]

    log.clear()
    server = await bind()
    router = Router(server, {b"task": quit_in_a_task}).start()
    asker = await client.connect(server.addr, b"task")
    await server.wait_closed()
    await router.shutdown()
    assert (await asker.wait_closed()).kind == "application"
    assert log == ["cancelled"]


async def test_router_shutdown_methods_of_every_kind_are_called(bind: Bind) -> None:
    log: list[str] = []

    class Plain(Echo):
        def shutdown(self) -> None:  # type: ignore[override]
            log.append("plain")

    class Failing(Echo):
        def shutdown(self) -> None:  # type: ignore[override]
            log.append("failing")
            raise ZeroDivisionError

    class Recursive(Echo):
        async def shutdown(self) -> None:
            await asyncio.create_task(router.shutdown())
            log.append("recursive")

    errors: list[BaseException] = []
    server, client = await bind(), await bind()
    plain = Plain()
    handlers = {ALPN: plain, b"f": Failing(), b"r": Recursive()}
    router = Router(server, handlers, on_error=errors.append).start()
    conn = await client.connect(server.addr, ALPN)
    assert await ask(conn) == b"hello"
    await router.shutdown()
    assert sorted(log) == ["failing", "plain", "recursive"]
    assert plain.log == ["accept", "cancelled"]
    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert server.closed


async def test_router_shutdown_order_calls_then_cancels_handlers(bind: Bind) -> None:
    server, client = await bind(), await bind()
    echo = Echo()
    async with Router(server, {ALPN: echo, b"other": echo}):
        conn = await client.connect(server.addr, ALPN)
        assert await ask(conn) == b"hello"
    # One handler under two names is shut down once.
    assert echo.log == ["accept", "shutdown", "cancelled"]
    assert (await conn.wait_closed()).kind == "application"


async def test_router_failing_shutdown_still_closes_the_endpoint(bind: Bind) -> None:
    class Bad(Echo):
        async def shutdown(self) -> None:
            raise ZeroDivisionError

    errors: list[BaseException] = []
    server = await bind()
    async with Router(server, {ALPN: Bad()}, on_error=errors.append):
        pass
    assert server.closed
    assert [type(error) for error in errors] == [ZeroDivisionError]


async def test_router_shutdown_survives_cancellation(bind: Bind) -> None:
    server = await bind()
    echo = Echo()
    router = Router(server, {ALPN: echo}).start()
    task = asyncio.create_task(router.shutdown())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.closed
    assert echo.log == ["shutdown"]


@pytest.mark.parametrize("outcome", list(IncomingOutcome))
async def test_router_filter_decides(bind: Bind, outcome: IncomingOutcome) -> None:
    seen: list[bool] = []

    def decide(incoming: Incoming) -> IncomingOutcome:
        seen.append(incoming.remote_addr_validated)
        if outcome is IncomingOutcome.IGNORE and len(seen) > 1:
            return IncomingOutcome.ACCEPT
        return outcome

    server, client = await bind(), await bind()
    async with Router(server, {ALPN: Echo()}, incoming_filter=decide):
        if outcome in (IncomingOutcome.REJECT, IncomingOutcome.RETRY):
            # Asking twice for a validated address refuses.
            with pytest.raises(ConnectionRefused):
                await client.connect(server.addr, ALPN)
        else:
            # An ignored client tries again.
            async with client.connect(server.addr, ALPN) as conn:
                assert await ask(conn) == b"hello"
    assert seen[0] is False
    assert seen[-1] is (outcome is IncomingOutcome.RETRY)
    assert len(seen) == {"accept": 1, "retry": 2, "reject": 1, "ignore": 2}[outcome.value]


async def test_router_failing_filter_refuses_and_goes_on(bind: Bind) -> None:
    calls: list[int] = []
    errors: list[BaseException] = []

    def decide(incoming: Incoming) -> IncomingOutcome:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        return IncomingOutcome.ACCEPT

    server, client = await bind(), await bind()
    async with Router(server, {ALPN: Echo()}, incoming_filter=decide, on_error=errors.append):
        with pytest.raises(ConnectionRefused):
            await client.connect(server.addr, ALPN)
        async with client.connect(server.addr, ALPN) as conn:
            assert await ask(conn) == b"hello"
    assert [type(error) for error in errors] == [ZeroDivisionError]


@pytest.mark.parametrize("wrong", [True, None, "accept"])
async def test_router_filter_with_a_wrong_answer_is_reported(
    bind: Bind, wrong: object, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[BaseException] = []
    server, client = await bind(), await bind()
    bad: Any = lambda incoming: wrong  # noqa: E731
    async with Router(server, {ALPN: Echo()}, incoming_filter=bad, on_error=errors.append):
        with pytest.raises(ConnectionRefused):
            await client.connect(server.addr, ALPN)
    (error,) = errors
    assert isinstance(error, TypeError)
    assert "incoming_filter" in str(error) and repr(wrong) in str(error)
    assert "incoming filter failed" in caplog.text


async def test_router_filter_may_be_async(bind: Bind) -> None:
    async def decide(incoming: Incoming) -> IncomingOutcome:
        await asyncio.sleep(0)
        return IncomingOutcome.ACCEPT if incoming.peek() else IncomingOutcome.REJECT

    server, client = await bind(), await bind()
    async with Router(server, {ALPN: Echo()}, incoming_filter=decide):
        async with client.connect(server.addr, ALPN) as conn:
            assert await ask(conn) == b"hello"


async def test_router_wrong_arguments_say_what_is_wanted(bind: Bind) -> None:
    ep = await bind()

    async def handler(conn: Connection) -> None: ...

    cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((None, {}), {}, "endpoint"),
        ((Endpoint, {}), {}, "endpoint"),
        ((ep, [(ALPN, handler)]), {}, "protocols"),
        ((ep, {ALPN: lambda conn: None}), {}, "async"),
        ((ep, {ALPN: Echo}), {}, "instance"),
        ((ep, {ALPN: 5}), {}, "handler"),
        ((ep, {}), {"incoming_filter": IncomingOutcome.ACCEPT}, "incoming_filter"),
        ((ep, {}), {"on_error": 5}, "on_error"),
        ((ep, {}), {"on_error": handler}, "on_error"),
    ]
    for args, options, word in cases:
        with pytest.raises(TypeError, match=word):
            Router(*args, **options)
    with pytest.raises(ConfigError, match="ALPN"):
        Router(ep, {"text": handler})  # type: ignore[dict-item]
    await ep.close()
    with pytest.raises(EndpointClosed):
        Router(ep, {ALPN: handler}).start()


async def test_router_on_accepting_can_take_over(bind: Bind) -> None:
    log: list[Any] = []

    class Early(Echo):
        async def on_accepting(self, accepting: Accepting) -> Connection | None:
            log.append(await accepting.alpn())
            conn = await accepting
            if len(log) == 1:
                conn.close(9, b"first")
                return None
            return conn

    server, client = await bind(), await bind()
    async with Router(server, {ALPN: Early()}):
        async with client.connect(server.addr, ALPN) as conn:
            assert (await conn.wait_closed()).code == 9
        async with client.connect(server.addr, ALPN) as conn:
            assert await ask(conn) == b"hello"
    assert log == [ALPN, ALPN]


async def test_router_ends_with_its_endpoint(bind: Bind) -> None:
    server = await bind()
    router = Router(server, {ALPN: Echo()}).start()
    await server.close()
    assert router.is_shutdown
    await router.shutdown()


async def test_unstarted_router_can_be_shut_down() -> None:
    ep = await Endpoint.bind(preset=presets.minimal, bind_addrs=["127.0.0.1:0"])
    router = Router(ep, {ALPN: Echo()})
    assert "not started" in repr(router)
    await router.shutdown()
    assert ep.closed


async def _awaits_a_cancelled_task() -> None:
    task = asyncio.create_task(asyncio.sleep(100))
    task.cancel()
    await task


class Rare(BaseException):
    """No Exception, and nothing that ends the program either."""


async def _raises_rare() -> None:
    raise Rare("rare")


async def _raises_group() -> None:
    raise BaseExceptionGroup("several", [Rare(), ValueError()])


ODD = [
    (_awaits_a_cancelled_task, asyncio.CancelledError),
    (_raises_rare, Rare),
    (_raises_group, BaseExceptionGroup),
]


@pytest.mark.parametrize(("fails", "kind"), ODD)
async def test_router_handler_that_fails_in_a_rare_way_is_no_success(
    bind: Bind, fails: Callable[[], Awaitable[None]], kind: type[BaseException]
) -> None:
    errors: list[BaseException] = []

    async def handler(conn: Connection) -> None:
        await conn.accept_bi()
        await fails()

    server, client = await bind(), await bind()
    router = Router(server, {ALPN: handler}, on_error=errors.append).start()
    for count in (1, 2):  # it goes on after the first
        conn = await client.connect(server.addr, ALPN)
        send, _ = await conn.open_bi()
        await send.write_all(b"x")
        reason = await conn.wait_closed()
        assert (reason.kind, reason.code, reason.reason) == (
            "application", 1, b"the handler failed"
        )  # fmt: skip
        assert [type(error) for error in errors] == [kind] * count
    await router.shutdown()


@pytest.mark.parametrize(("fails", "kind"), [*ODD, (None, TypeError)])
async def test_router_on_accepting_that_fails_is_told_to_the_client_at_once(
    bind: Bind, fails: Callable[[], Awaitable[None]] | None, kind: type[BaseException]
) -> None:
    errors: list[BaseException] = []  # with their tracebacks, which hold much

    class Handler:
        async def on_accepting(self, accepting: Accepting) -> Any:
            if fails is None:
                return "what is no connection"
            await fails()

        async def accept(self, conn: Connection) -> None:
            raise AssertionError("it was never accepted")

    server, client = await bind(), await bind()
    router = Router(server, {ALPN: Handler()}, on_error=errors.append).start()
    try:
        reason: object = await (await client.connect(server.addr, ALPN)).wait_closed()
    except ConnectError as error:
        reason = error.close_reason
    assert isinstance(reason, CloseReason) and reason.by_peer
    assert [type(error) for error in errors] == [kind]
    await router.shutdown()


async def test_router_on_accepting_may_be_a_plain_method(bind: Bind) -> None:
    class Handler(Echo):
        def on_accepting(self, accepting: Accepting) -> Accepting:
            return accepting  # which is something to await

    server, client = await bind(), await bind()
    async with Router(server, {ALPN: Handler()}), client.connect(server.addr, ALPN) as conn:
        assert await ask(conn) == b"hello"


@pytest.mark.parametrize(("fails", "kind"), ODD)
async def test_router_filter_and_shutdown_that_fail_in_a_rare_way(
    bind: Bind, fails: Callable[[], Awaitable[None]], kind: type[BaseException]
) -> None:
    errors: list[BaseException] = []
    ends: list[int] = []

    class Handler(Echo):
        async def shutdown(self) -> None:
            await fails()

    class Other(Echo):
        async def shutdown(self) -> None:
            ends.append(1)

    async def look(incoming: Incoming) -> IncomingOutcome:
        await fails()
        return IncomingOutcome.ACCEPT

    server, client = await bind(), await bind()
    protocols = {ALPN: Handler(), b"other": Other()}
    router = Router(server, protocols, incoming_filter=look, on_error=errors.append).start()
    with pytest.raises(ConnectionRefused):
        await client.connect(server.addr, ALPN)
    await router.shutdown()
    assert [type(error) for error in errors] == [kind, kind]
    assert ends == [1] and server.closed


async def test_second_router_of_an_endpoint_is_refused(bind: Bind) -> None:
    ep = await bind()

    async def handler(conn: Connection) -> None:
        await conn.wait_closed()

    async with Router(ep, {b"one": handler}) as router:
        with pytest.raises(RuntimeError, match="has a router already"):
            Router(ep, {b"two": handler}).start()
        router.accept(b"two", handler)
        assert set(ep.alpns) == {b"one", b"two"}


async def test_forgotten_await_is_told(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    for pending in (Endpoint.bind(preset=presets.minimal), client.connect(server.addr, ALPN)):
        with pytest.raises(AttributeError, match="no 'id' yet: this call has to be awaited"):
            _ = pending.id  # type: ignore[attr-defined]
        assert not hasattr(pending, "cr_await")
        pending.close()
    task = asyncio.create_task(client.connect(server.addr, ALPN))  # is a coroutine all the same
    incoming = await server.accept()
    assert incoming is not None
    async with await incoming, await task:
        pass
