"""Several connections between the same endpoints."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.lab.stage import Stage, describe, scenario


@scenario("P22")
async def second_connection(stage: Stage) -> None:
    """A second connection to a peer that is direct already: it begins direct."""
    pair = await stage.pair(stage.home(), stage.home())
    await pair.direct()
    await asyncio.sleep(1)
    second = await stage.connect(pair.client, pair.server)
    await second.direct(5)
    await asyncio.gather(pair.ping(), second.ping())


async def settled(stage: Stage, pairs: list[Any]) -> None:
    """One direct path per connection, and the same remote address for all of a node."""
    await asyncio.sleep(5)
    for pair in pairs:
        for paths in await pair.paths():
            direct = [path for path in paths if path["kind"] != "relay"]
            stage.check(len(direct) <= 1, f"several direct paths: {describe(paths)}")
        await pair.ping()


@scenario("P23")
async def both_dial(stage: Stage) -> None:
    """Both dial each other at once: both connections become direct, over the same addresses."""
    client, server = await asyncio.gather(stage.client(stage.home()), stage.server(stage.home()))
    there, back = await asyncio.gather(stage.connect(client, server), stage.connect(server, client))
    await asyncio.gather(there.direct(), back.direct())
    await settled(stage, [there, back])
    chosen = {path["remote"] for path in (await there.selected())[:1] + (await back.selected())[1:]}
    stage.check(len(chosen) == 1, f"the client has selected {chosen}")


@scenario("P24", limit=150)
async def first_closes(stage: Stage) -> None:
    """The first of two connections closes: the other keeps its path; what was known is kept for a minute."""
    pair = await stage.pair(stage.home(), stage.home())
    await pair.direct()
    second = await stage.connect(pair.client, pair.server)
    await second.direct(10)
    chosen = await second.selected()
    await pair.client.call("close_conn", conn=pair.c)
    await pair.server.call("wait_closed", conn=pair.s, timeout=5)
    await asyncio.sleep(2)
    await second.ping()
    now = await second.selected()
    stage.check([p["remote"] for p in now] == [p["remote"] for p in chosen], describe(now))
    of = (await second.server.call("addr"))["id"]
    known = (await second.client.call("remote_info", of=of))["addrs"]
    stage.check(bool(known), "nothing is known of the remote")
    await second.client.call("close_conn", conn=second.c)
    await asyncio.sleep(55)
    known = (await second.client.call("remote_info", of=of))["addrs"]
    stage.check(bool(known), "what was known is gone after 55 s")
    await asyncio.sleep(12)
    known = (await second.client.call("remote_info", of=of))["addrs"]
    stage.check(not known, f"still known after 67 s: {known}")
