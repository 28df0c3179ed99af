"""Changes of the network as users see and tell them."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

from iroh_fast import Connection
from iroh_fast.net.local_addrs import Interface, NetworkState

from .conftest import ALPN, Bind


async def test_transfer_goes_on_in_a_storm_of_changes(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()

    async def echo() -> None:
        incoming = await server.accept()
        assert incoming is not None
        send, recv = await (conn := await incoming).accept_bi()
        held.append(conn)
        async for chunk in recv:
            await send.write_all(chunk)
        send.finish()

    held: list[Connection] = []
    task = asyncio.create_task(echo())
    conn = await client.connect(server.addr, ALPN)
    send, recv = await conn.open_bi()
    loop = asyncio.get_running_loop()
    begun, calls = loop.time(), 0
    data = bytes(range(256)) * 4
    for _ in range(300):
        await send.write_all(data)
        for ep in (client, server):
            await ep.network_change()
            calls += 1
        assert await recv.readexactly(len(data)) == data
    send.finish()
    assert await recv.read_to_end(1) == b""
    await task
    told = [ep.metrics.snapshot()["socket:network_changes_major"] for ep in (client, server)]
    # Eight at once, then one a second.
    assert all(1 <= count <= 9 + (loop.time() - begun) for count in told), (told, calls)
    assert [path.is_selected for path in conn.paths] == [True]
    conn.close()
    await held[0].wait_closed()


async def test_new_interfaces_are_followed_at_once_when_told(bind: Bind) -> None:
    ep = await bind(bind_addrs=["0.0.0.0:0"])
    monitor, port = ep._inside.monitor, ep.bound_sockets[0].port
    ips = [ip_address("192.0.2.7"), ip_address("198.51.100.7")]
    monitor._read = lambda: NetworkState((Interface("eth0", 3, ips=tuple(ips)),))
    watcher = ep.watch_addr()
    await ep.network_change()
    assert {str(addr) for addr in watcher.value.ip_addrs if addr.ip.version == 4} == {
        f"192.0.2.7:{port}",
        f"198.51.100.7:{port}",
    }
    del ips[0]
    await ep.network_change()  # so soon after the other: a little later
    await watcher.wait_for(
        lambda addr: (
            [a for a in addr.ip_addrs if a.ip.version == 4] == [addr.ip_addrs[0]]
            and str(addr.ip_addrs[0]) == f"198.51.100.7:{port}"
        )
    )
    await ep.close()
    before = ep.metrics.snapshot()["socket:actor_link_change"]
    await ep.network_change()
    assert ep.metrics.snapshot()["socket:actor_link_change"] == before
