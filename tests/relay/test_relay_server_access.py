"""Who may use the relay: every mode, the HTTP service, rules of an embedder."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from relay_peer import RawClient, authenticate, config, connected, until, upgraded

from iroh_fast import SecretKey
from iroh_fast.errors import ConfigError
from iroh_fast.relay.server.access import (
    ALLOW,
    AccessControl,
    AllowList,
    Decision,
    DenyList,
    HttpAccess,
    SharedToken,
)
from iroh_fast.relay.server.server import RelayServer
from iroh_fast.relay.wire import ClientHandshake, RelayDenied


async def admitted(
    server: RelayServer, secret: SecretKey | None = None, **options: str
) -> str | None:
    """None when let in, else the reason."""
    async with upgraded(server, secret, **options) as client:
        try:
            await authenticate(client)
        except RelayDenied as err:
            assert await client.ended() is None
            return err.reason
        await client.ping()
        return None


async def test_lists_of_endpoints():
    listed, other = SecretKey.generate(), SecretKey.generate()
    async with RelayServer(config(access=AllowList([listed.public]))) as server:
        assert await admitted(server, listed) is None
        assert await admitted(server, other) == "not authorized"
        assert server.metrics()["access_denied"] == 1
    async with RelayServer(config(access=DenyList([listed.public]))) as server:
        assert await admitted(server, listed) == "not authorized"
        assert await admitted(server, other) is None


async def test_shared_token_of_header_and_query():
    async with RelayServer(config(access=SharedToken(["one", "two"]))) as server:
        assert await admitted(server, authorization="Bearer one") is None
        assert await admitted(server, authorization="bearer two") is None
        assert await admitted(server, target="/relay?x=1&token=two") is None
        for token in ("three", "", "on", "One"):
            assert await admitted(server, authorization=f"Bearer {token}") == "not authorized"
        assert await admitted(server) == "not authorized"


@pytest.mark.parametrize("tokens", [[], [""], ["a", ""]])
def test_shared_token_has_to_be_there(tokens):
    with pytest.raises(ConfigError):
        SharedToken(tokens)


def test_http_service_needs_a_url():
    with pytest.raises(ConfigError):
        HttpAccess("ftp://x")


@asynccontextmanager
async def service(handler):
    app = web.Application()
    app.router.add_route("*", "/check", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/check"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body", "allowed"),
    [
        (200, "true", True), (200, "true\n", False), (200, "True", False), (200, "false", False),
        (200, "", False), (200, "true" * 1000, False), (201, "true", False), (403, "true", False),
        (500, "", False),
    ],
)  # fmt: skip
async def test_http_service_answers(status, body, allowed):
    asked = []

    async def handler(request):
        asked.append((request.method, dict(request.headers), await request.read()))
        return web.Response(status=status, text=body)

    secret = SecretKey.generate()
    async with service(handler) as url:
        async with RelayServer(config(access=HttpAccess(url, "s3cret"))) as server:
            assert (await admitted(server, secret) is None) == allowed
    ((method, headers, data),) = asked
    assert (method, data) == ("POST", b"")
    assert headers["X-Iroh-Endpoint-Id"] == headers["X-Iroh-NodeId"] == str(secret.public)
    assert headers["Authorization"] == "Bearer s3cret"


async def test_http_service_redirects_are_not_followed():
    async def handler(request):
        if "again" in request.query:
            return web.Response(text="true")
        raise web.HTTPTemporaryRedirect(str(request.url) + "?again=1")

    async with service(handler) as url, RelayServer(config(access=HttpAccess(url))) as server:
        assert await admitted(server) == "not authorized"


async def test_http_service_that_is_down_or_slow_denies():
    async def handler(request):
        await asyncio.sleep(30)
        return web.Response(text="true")

    async with RelayServer(config(access=HttpAccess("http://127.0.0.1:9/check"))) as server:
        assert await admitted(server) == "not authorized"
    async with service(handler) as url:
        access = HttpAccess(url, timeout=0.2)
        async with RelayServer(config(access=access)) as server:
            assert await admitted(server) == "not authorized"


class Rules(AccessControl):
    """Records, and waits if told to."""

    def __init__(self):
        self.requests, self.gone = [], []
        self.gate = None
        self.answer = ALLOW

    async def on_connect(self, request):
        self.requests.append(request)
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def on_disconnect(self, endpoint_id, connection_id):
        self.gone.append((endpoint_id, connection_id))


async def test_rules_of_an_embedder_see_the_request_and_the_end():
    rules = Rules()
    async with RelayServer(config(access=rules)) as server:
        async with connected(
            server, target="/relay?a=1&b=%20", authorization="Bearer t", x_more="yes"
        ) as client:
            (asked,) = rules.requests
            assert asked.endpoint_id == client.secret.public
            assert (asked.connection_id, asked.protocol_version) == (0, 2)
            assert asked.uri == "/relay?a=1&b=%20" and asked.query == (("a", "1"), ("b", " "))
            assert ("x-more", b"yes") in asked.headers and asked.auth_token == "t"
            assert rules.gone == []
        await until(lambda: rules.gone == [(client.secret.public, 0)])
        async with connected(server, client.secret):
            assert rules.requests[1].connection_id == 1
    assert rules.gone == [(client.secret.public, 0), (client.secret.public, 1)]


async def test_rules_may_give_a_reason():
    rules = Rules()
    rules.answer = Decision(False, "come back on tuesday")
    async with RelayServer(config(access=rules)) as server:
        assert await admitted(server) == "come back on tuesday"
    assert rules.gone == []


async def test_rules_that_fail_deny():
    rules = Rules()
    rules.answer = RuntimeError("boom")
    async with RelayServer(config(access=rules)) as server:
        assert await admitted(server) == "not authorized"


@pytest.mark.parametrize("answer", [True, None, "yes", Decision])
async def test_rules_with_an_impossible_answer_deny(caplog, answer):
    rules = Rules()
    rules.answer = answer
    async with RelayServer(config(access=rules)) as server:
        assert await admitted(server) == "not authorized"
        assert server.metrics()["access_denied"] == 1
    assert "which is no Decision" in caplog.text


async def ask(client: RawClient) -> None:
    client.send_message(ClientHandshake(client.secret).feed(await client.receive_payload()))


async def test_messages_wait_while_access_is_decided():
    rules = Rules()
    rules.gate = asyncio.Event()
    async with RelayServer(config(access=rules)) as server:
        async with upgraded(server) as client:
            await ask(client)
            client.send(type=9, data=b"eager...")
            await until(lambda: rules.requests)
            await asyncio.sleep(0.05)
            rules.gate.set()
            assert await client.receive_payload() == b"\x02"
            assert await client.receive_payload() == b"\x0aeager..."


async def test_flood_while_access_is_decided_is_bounded():
    rules = Rules()
    rules.gate = asyncio.Event()
    async with RelayServer(config(access=rules, establish_timeout=1.0)) as server:
        async with upgraded(server) as client:
            await ask(client)
            await until(lambda: rules.requests)
            client.send_raw(bytes(20 * 2**20))
            await client.ended()
        await until(lambda: server.metrics()["unauthenticated"] == 0)
        rules.gate.set()


async def test_client_that_leaves_while_access_is_decided_is_let_out_once():
    rules = Rules()
    rules.gate = asyncio.Event()
    async with RelayServer(config(access=rules)) as server:
        async with upgraded(server) as client:
            await ask(client)
            await until(lambda: rules.requests)
        # reading is paused: the end shows when the time is over, or when the answer comes
        rules.gate.set()
        await until(lambda: rules.gone == [(client.secret.public, 0)])
        assert len(server.forwarder) == 0
    assert rules.gone == [(client.secret.public, 0)]


async def test_decision_that_never_comes_ends_with_the_time_limit():
    rules = Rules()
    rules.gate = asyncio.Event()
    async with RelayServer(config(access=rules, establish_timeout=0.3)) as server:
        async with upgraded(server) as client:
            await ask(client)
            await client.ended()
        assert server.metrics()["establish_timeouts"] == 1
    assert rules.gone == []
