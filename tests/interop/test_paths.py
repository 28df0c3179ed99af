"""Several network paths to the real peer at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from iroh_fast import QuicTransportConfig, SecretKey
from iroh_fast.aio._core_events import on_paths
from iroh_fast.errors import ConfigError, IrohError
from iroh_fast.stats import PathClosed, PathOpened

from .links import ALPN, V4, V6, Link, Links, RealEndpoint, known_ways_only
from .proxy import Proxy
from .test_bulk import pull, push
from .test_handshake import assert_alive


async def two_families(links: Links) -> tuple[RealEndpoint, int, int]:
    """Make a real endpoint on IPv4 and IPv6; gives its ports too."""
    real = await links.real_endpoint(V4)
    made = await links.peer.call("sockets", ep=real.handle)
    [six] = [text for text in made if text.startswith("[::]")]
    return real, int(real.sockets[0].rpartition(":")[2]), int(six[5:])


async def two_ways(links: Links) -> tuple[Link, tuple[Any, ...], tuple[Any, ...]]:
    """Dial the real peer over IPv4; gives its addresses of both families too.

    Paths are left to the test: nothing opens or closes them by itself.
    """
    ours = await links.our_endpoint(V4, V6, transport=known_ways_only())
    real, four, six = await two_families(links)
    link = await links.connect(True, ours=ours, real=real)
    on_paths(link.ours._q, None)
    await assert_alive(link)
    return link, ("127.0.0.1", four), ("::1", six, 0, 0)


async def validated(link: Link, id: int) -> None:
    async with asyncio.timeout(60):
        while not any(path.id == id and path.validated for path in link.ours.paths):
            await asyncio.sleep(0.01)


async def real_paths(link: Link) -> set[int]:
    return {int(path["id"]) for path in (await link.call("conn_stats"))["paths"]}


async def test_second_path_carries_on_after_the_first_is_closed(links: Links) -> None:
    link, four, six = await two_ways(links)
    events = link.ours.path_events()
    core = link.ours._q
    id = core.open_path(six)
    await validated(link, id)
    async with asyncio.timeout(60):
        while await real_paths(link) != {0, id}:
            await asyncio.sleep(0.01)
    await asyncio.gather(push(link, 1, 2_000_000), pull(link, 2, 2_000_000))

    both = asyncio.gather(push(link, 3, 5_000_000), pull(link, 4, 5_000_000))
    await asyncio.sleep(0.01)
    core.close_path(0)
    await both
    assert [path.id for path in link.ours.paths] == [id]
    async with asyncio.timeout(60):
        while await real_paths(link) != {id}:
            await asyncio.sleep(0.01)

    # Ids are not used again, and there are always more.
    for _ in range(10):
        last = id
        id = core.open_path(four if link.ours.paths[0].remote_addr.addr.ip.version == 6 else six)
        assert id > last
        await validated(link, id)
        core.close_path(last)
        await assert_alive(link)
        await asyncio.sleep(0.2)  # until the peer has let go of the closed path
    await push(link, 5, 1_000_000)

    seen = []
    link.ours.close()
    async for event in events:
        seen.append(type(event))
    assert PathOpened in seen and PathClosed in seen


async def test_backup_path_carries_nothing(links: Links) -> None:
    link, _, six = await two_ways(links)
    id = link.ours._q.open_path(six, None, True)
    await validated(link, id)
    await push(link, 1, 3_000_000)
    [backup] = [path for path in link.ours.paths if path.id == id]
    assert backup.status == "backup"
    assert backup.stats.udp_tx.bytes < 50_000


@pytest.mark.limit(80)
async def test_other_path_takes_over_when_one_dies(links: Links) -> None:
    ours = await links.our_endpoint(V4, V6, transport=known_ways_only())
    real, _, six = await two_families(links)
    proxy = await Proxy.to(real.sockets[0])
    try:
        accepting = real.start("accept")
        conn = await ours.connect(type(real.addr)(real.id, ip_addrs=[proxy.address]), ALPN)
        link = links.link(conn, await accepting)
        await assert_alive(link)
        on_paths(conn._q, None)  # or one path would be closed as redundant
        id = conn._q.open_path(("::1", six, 0, 0))
        await validated(link, id)
        proxy.policy = lambda data, to_server: []
        # A path without an answer is given up after 15 seconds, the connection after 30.
        await asyncio.gather(push(link, 1, 3_000_000), pull(link, 2, 3_000_000))
        await assert_alive(link)
        async with asyncio.timeout(20):
            while [path.id for path in conn.paths] != [id]:
                await asyncio.sleep(0.1)
        await assert_alive(link)
    finally:
        proxy.close()


async def test_one_of_several_direct_paths_remains(links: Links) -> None:
    """As iroh's client does, ours settles on one direct path."""
    ours = await links.our_endpoint(V4, V6)
    real, four, six = await two_families(links)
    accepting = real.start("accept")
    sockets = [f"127.0.0.1:{four}", f"[::1]:{six}"]
    conn = await ours.connect(type(real.addr)(real.id, ip_addrs=sockets), ALPN)
    link = links.link(conn, await accepting)
    while True:
        try:
            conn._q.open_path(("::1", six, 0, 0))
            break
        except IrohError:  # the ids for another path come after the handshake
            await asyncio.sleep(0.01)
    await asyncio.gather(push(link, 1, 2_000_000), pull(link, 2, 2_000_000))
    async with asyncio.timeout(60):
        while len(conn.paths) > 1 or len(await real_paths(link)) > 1:
            await asyncio.sleep(0.05)
    assert {path.id for path in conn.paths} == await real_paths(link)
    assert conn.paths[0].is_selected
    await asyncio.gather(push(link, 3, 2_000_000), pull(link, 4, 2_000_000))


async def test_only_the_client_opens_paths(links: Links) -> None:
    link = await links.connect(False)
    await assert_alive(link)
    with pytest.raises(ConfigError):
        link.ours._q.open_path(("127.0.0.1", 9))


@pytest.mark.parametrize("addr", ["loopback", "interface"])
async def test_default_sockets(links: Links, dials: bool, addr: str) -> None:
    """Wildcard sockets, as endpoints have them when nothing else is asked for."""
    ours = await links.our_endpoint("0.0.0.0:0", "[::]:0")
    real = await links.real_endpoint("0.0.0.0:0")
    made = await links.peer.call("sockets", ep=real.handle)
    if addr == "loopback":
        theirs = [f"127.0.0.1:{text.rpartition(':')[2]}" for text in made[:1]]
        mine = [f"127.0.0.1:{ours.bound_sockets[0].port}"]
    else:
        theirs = await links.peer.call("addrs", ep=real.handle)
        mine = list(map(str, ours.addr.ip_addrs))
    assert theirs and mine
    if dials:
        accepting = real.start("accept")
        conn = await ours.connect(type(real.addr)(real.id, ip_addrs=theirs), ALPN)
        facts = await accepting
    else:
        dialling = real.dial(ours, sockets=mine)
        incoming = await ours.accept()
        assert incoming is not None
        conn = await incoming
        facts = await dialling
    link = links.link(conn, facts)
    await assert_alive(link)
    await asyncio.gather(push(link, 1, 3_000_000), pull(link, 2, 3_000_000))
    await asyncio.sleep(1.0)  # hole punching, if any, has settled
    await assert_alive(link)
    assert conn.close_reason is None


async def test_many_endpoints_of_one_process(links: Links) -> None:
    """Connections of several endpoints and keys do not mix."""
    real = await links.real_endpoint()
    transport = QuicTransportConfig(max_idle_timeout=20.0)
    ours = [
        await links.our_endpoint(secret_key=SecretKey.generate(), transport=transport)
        for _ in range(5)
    ]
    made = []
    for endpoint in ours:
        made.append(await links.connect(True, ours=endpoint, real=real))
        made.append(await links.connect(False, ours=endpoint, real=real))
    assert {link.facts["remote_id"] for link in made} == {str(endpoint.id) for endpoint in ours}
    for link in made:
        await assert_alive(link)
    await ours[0].close()
    for link in made[2:]:
        await assert_alive(link)
