"""From the relay to a direct path, or not: homes, one network, useless addresses, networks without UDP."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.lab.link import LinkConfig
from tests.lab.stage import Stage, describe, scenario

#: A relay that nobody answers at: its address leads to no router.
NOWHERE = "203.0.113.250"


@scenario("P1")
async def two_homes(stage: Stage) -> None:
    """Two home routers: begins over the relay, becomes direct, and keeps the relay as a backup."""
    link = LinkConfig(delay=10)
    pair = await stage.pair(stage.home(link=link), stage.home(link=link))
    direct = await pair.direct(10)
    await pair.began_relayed()
    await pair.ping()
    for paths in await pair.paths():
        relays = [path for path in paths if path["kind"] == "relay"]
        stage.check(len(relays) == 1, f"no relay as a backup: {describe(paths)}")
        status = relays[0]["status"]
        stage.check(status in (None, "backup"), f"the relay's path is {status}")
    stage.note("direct_s", max(answer["since"] for answer in direct))


@scenario("P3")
async def same_network(stage: Stage) -> None:
    """Two hosts of one home without hairpin, dialed over the relay: direct by their private addresses."""
    home = stage.world.router("home", nat="moderate")
    pair = await stage.pair(home.host("a"), home.host("b"))
    await pair.direct(10, prefix=home.lan4)
    await pair.ping()


@scenario("P3-hairpin")
async def own_router_reflects(stage: Stage) -> None:
    """Two homes behind one provider's NAT: by its hairpin, or over the relay, but usable."""
    provider = stage.world.router("provider", nat="moderate-hairpin")
    homes = [provider.router(f"home{i}", nat="moderate") for i in range(2)]
    pair = await stage.pair(homes[0].host("a"), homes[1].host("b"))
    direct = await pair.direct(15)
    await pair.ping()
    stage.note("direct_s", max(answer["since"] for answer in direct))


@scenario("P4")
async def same_host(stage: Stage) -> None:
    """Two endpoints of one host without a relay: one path, at once."""
    host = stage.home("none")
    ends = await asyncio.gather(stage.client(host, relays=[]), stage.server(host, relays=[]))
    ips = (await ends[1].call("addr"))["ips"]
    pair = await stage.connect(*ends, ips=ips, within=1)
    await pair.ping()
    for paths in await pair.paths():
        stage.check([p["kind"][:2] for p in paths] == ["ip"], describe(paths))


@scenario("P5")
async def direct_gets_a_relay(stage: Stage) -> None:
    """Dialed with both kinds of addresses on one network: path 0 is direct, the relay joins as a backup."""
    home = stage.world.router("home", nat="moderate")
    ends = await asyncio.gather(stage.client(home.host("a")), stage.server(home.host("b")))
    addr = await ends[1].call("addr")
    pair = await stage.connect(*ends, ips=addr["ips"], relays=addr["relays"])
    first = [path for path in (await pair.paths())[0] if path["id"] in ("0", 0)]
    stage.check(bool(first) and first[0]["kind"].startswith("ip"), f"path 0: {describe(first)}")
    for _ in range(50):
        kinds = [{path["kind"] for path in paths} for paths in await pair.paths()]
        if all("relay" in of for of in kinds):
            break
        await asyncio.sleep(0.1)
    else:
        stage.check(False, f"no path over the relay: {kinds}")
    await pair.ping()


@scenario("P6")
async def no_ip(stage: Stage) -> None:
    """Endpoints without UDP: only ever the relay, and no rounds of hole punching in vain."""
    ends = await asyncio.gather(
        stage.client(stage.home(), ip=False), stage.server(stage.home(), ip=False)
    )
    pair = await stage.connect(*ends)
    before = [(await node.call("process"))["cpu"] for node in ends]
    await pair.stays_relayed(8)
    await pair.ping()
    for node, cpu in zip(ends, before, strict=True):
        rounds = (await node.call("metrics"))["counters"].get("socket:holepunch_attempts", 0)
        used = (await node.call("process"))["cpu"] - cpu
        stage.note(f"{node.label}_rounds", rounds)
        stage.note(f"{node.label}_cpu", used / 8)
        if node.kind == "ours":
            stage.check(rounds < 8, f"{node.label}: {rounds} rounds in 8 s")


@scenario("P7")
async def dead_relay(stage: Stage) -> None:
    """A relay that nobody answers at, and a good direct address: connects by that."""
    stage.world.set_name("relay9.test", A=NOWHERE)
    client, host = stage.home(), stage.home("none")
    dialer = await stage.client(client)
    listener = await stage.server(host)
    ips = (await listener.call("addr"))["ips"]
    pair = await stage.connect(
        dialer, listener, ips=ips, relays=["https://relay9.test/"], within=10
    )
    await pair.direct(5)
    await pair.ping()


async def useless(stage: Stage, side: str, count: int) -> None:
    hosts = {"client": stage.home(), "server": stage.home()}
    hosts[side].add_useless(count)
    pair = await stage.pair(hosts["client"], hosts["server"])
    direct = await pair.direct(15)
    await pair.ping()
    stage.note("direct_s", max(answer["since"] for answer in direct))


def enter_useless(side: str, count: int) -> None:
    @scenario(f"P9-{side}-{count}")
    async def many_addresses(stage: Stage) -> None:
        """One side has many addresses that lead nowhere: direct all the same."""
        await useless(stage, side, count)


for _side in ("client", "server"):
    for _count in (8, 16, 32, 40):
        enter_useless(_side, _count)


async def without_udp(stage: Stage, hosts: dict[str, Any], blocked: tuple[str, ...]) -> None:
    """Relayed, holds, and relayed still."""
    for side in blocked:
        hosts[side].ports["eth0"][0].firewall("udp-blocked")
    pair = await stage.pair(hosts["client"], hosts["server"])
    await pair.ping(10)
    await pair.stays_relayed(3)
    await pair.ping(10)
    await pair.stays_relayed(1)


def enter_blocked(name: str, blocked: tuple[str, ...], **networks: bool) -> None:
    @scenario(name)
    async def no_udp(stage: Stage) -> None:
        """Networks that let no UDP out but questions for names: relayed and usable."""
        hosts = {side: stage.home(**networks) for side in ("client", "server")}
        await without_udp(stage, hosts, blocked)


enter_blocked("P10-ip4", ("client", "server"), v4=True)
enter_blocked("P10-ip6", ("client", "server"), v4=False, v6=True)
enter_blocked("P11-both", ("client", "server"))
enter_blocked("P11-client", ("client",))
enter_blocked("P11-server", ("server",))


@scenario("P11-443")
async def web_only(stage: Stage) -> None:
    """Networks that let only TCP 443 out: relayed and usable."""
    hosts = [stage.home(), stage.home()]
    for host in hosts:
        host.ports["eth0"][0].firewall("tcp-443-only")
    pair = await stage.pair(*hosts)
    await pair.stays_relayed(3)
    await pair.ping()


@scenario("P27")
async def both_families(stage: Stage) -> None:
    """IPv4 and IPv6 can both be punched: one is selected, and stays so; one direct path is left."""
    homes = [stage.home(v6=True, link=LinkConfig(delay=10)) for _ in range(2)]
    pair = await stage.pair(*homes)
    await pair.direct(10)
    await asyncio.sleep(3)
    settled = await pair.selected()
    await asyncio.sleep(20)
    for before, now in zip(settled, await pair.selected(), strict=True):
        stage.check(before["remote"] == now["remote"], f"{before['remote']} became {now['remote']}")
    for paths in await pair.paths():
        direct = [path for path in paths if path["kind"] != "relay"]
        stage.check(len(direct) == 1, f"not one direct path: {describe(paths)}")
    stage.note("family", settled[0]["kind"])


@scenario("P27-ip6")
async def ip6_only(stage: Stage) -> None:
    """Two networks of IPv6 alone, with firewalls that let nothing in unasked."""
    pair = await stage.pair(*(stage.home(v4=False, v6=True) for _ in range(2)))
    direct = await pair.both("wait_path", kind="ip6", timeout=15)
    await pair.ping()
    stage.note("direct_s", max(answer["since"] for answer in direct))


@scenario("P31")
async def forwarded_port(stage: Stage) -> None:
    """Two homes whose routers take another port for each destination, one passes a port on: that is guessed."""
    router = stage.world.router("forwarding", nat="strict")
    inside = router.host("server")
    router.forward(4242, inside)
    # That the port differs, two relays tell.
    relays = [stage.relay().url, stage.relay(name="relay2.test").url]
    client = await stage.client(stage.home("strict"), relays=relays)
    server = await stage.server(inside, relays=relays, bind_addrs=["0.0.0.0:4242"])
    candidate = f"{router.wan4}:4242"
    for _ in range(100):
        if candidate in (await server.call("addr"))["ips"]:
            break
        await asyncio.sleep(0.05)
    else:
        stage.check(False, f"{candidate} is not among the addresses")
    home = (await server.call("online"))["relay"]
    pair = await stage.connect(client, server, relays=[home])
    direct = await pair.direct(15)
    await pair.ping()
    stage.note("direct_s", max(answer["since"] for answer in direct))
