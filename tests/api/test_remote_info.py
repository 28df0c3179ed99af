"""What an endpoint tells of others: their addresses, who told of them, what came of them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from iroh_fast import Endpoint, EndpointAddr, IpAddr, SocketAddr
from iroh_fast.lookup import MemoryLookup

from .conftest import ALPN, Bind, connect


async def test_remote_info_tells_who_told_and_lasts_a_minute(bind: Bind) -> None:
    server_ep = await bind(alpns=[ALPN])
    client_ep = await bind(address_lookup=[MemoryLookup([server_ep.addr], provenance="book")])
    nobody = IpAddr(SocketAddr.parse("127.0.0.1:9"))
    by_hand = SimpleNamespace(
        addr=EndpointAddr(server_ep.id, [nobody]), accept=server_ep.accept, id=server_ep.id
    )
    client, server = await connect(client_ep, by_hand)  # type: ignore[arg-type]
    info = await client_ep.remote_info(server_ep.id)
    assert info is not None
    known = {entry.addr: entry for entry in info.addrs}
    assert known[nobody].status in ("unknown", "unusable") and known[nobody].sources == ("app",)
    assert known[nobody].last_told["app"] >= 0
    [used] = [entry for entry in info.addrs if entry.usage == "active"]
    assert "book" in used.sources and used.addr in server_ep.addr.addrs
    [seen] = (await server_ep.remote_info(client_ep.id)).addrs  # type: ignore[union-attr]
    assert seen.status == "active"
    client.close()
    await server.wait_closed()
    await until_gone(client_ep)
    info = await client_ep.remote_info(server_ep.id)
    assert info is not None
    assert {entry.addr: entry.status for entry in info.addrs}[used.addr] == "inactive"


async def until_gone(ep: Endpoint) -> None:
    while ep._context.live():
        await asyncio.sleep(0.01)
