"""The end of connections and endpoints."""

from __future__ import annotations

import asyncio
import time

from tests.lab.link import LinkConfig
from tests.lab.scenarios.failures import between
from tests.lab.stage import Stage, scenario


@scenario("P30-live")
async def close_with_live_peer(stage: Stage) -> None:
    """The client's endpoint closes: at once, and the peer learns the code."""
    link = LinkConfig(delay=10)
    pair = await stage.pair(stage.home(link=link), stage.home(link=link))
    await pair.direct()
    await pair.client.call("close_conn", conn=pair.c, code=42, reason="done")
    told = await pair.server.call("wait_closed", conn=pair.s, timeout=5)
    stage.check(told["kind"] == "ApplicationClosed", f"{told['kind']}: {told['reason']}")
    stage.check("42" in told["reason"], told["reason"])
    took = (await pair.client.call("close"))["took"]
    stage.note("close_s", took)
    stage.check(took <= 3 * 0.04 + 0.2, f"closing took {took:.2f} s")


@scenario("P30-dead")
async def close_with_dead_peer(stage: Stage) -> None:
    """The client's endpoint closes while nothing reaches the peer: bounded all the same."""
    homes = stage.home(link=LinkConfig(delay=10)), stage.home(link=LinkConfig(delay=10))
    pair = await stage.pair(*homes)
    await pair.direct()
    stage.world.internet.block(*between(*homes))
    await asyncio.to_thread(stage.relay().stop, kill=True)
    began = time.monotonic()
    took = (await pair.client.call("close", timeout=10))["took"]
    stage.note("close_s", took)
    stage.check(took <= 4, f"closing took {took:.2f} s, {time.monotonic() - began:.2f} in all")
