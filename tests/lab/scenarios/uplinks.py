"""Machines that change how they are connected: another network, a further one, another address, links that flap."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

from tests.lab.link import LinkConfig
from tests.lab.stage import Pair, Stage, scenario

if TYPE_CHECKING:
    from tests.lab.hosts import Host
    from tests.lab.machines import Router

SIDES = ("client", "server")
#: Access networks by what they have, as options of `Router`.
ACCESS: dict[str, dict[str, Any]] = {
    "v4": {"v4": True, "v6": False},
    "v6": {"v4": False, "v6": True},
    "dual": {"v4": True, "v6": True},
}
FIXED = LinkConfig(delay=10)
#: Seconds without data that a change of networks may cost ours.
SILENCE_S = 2.0


def homes(stage: Stage, access: str = "v4", count: int = 2) -> list[Router]:
    """Routers of one kind of access, each with its own link."""
    options = ACCESS[access]
    return [
        stage.world.router(f"{access}-{i}", link=FIXED, **options)
        for i in range(len(stage.world.machines), len(stage.world.machines) + count)
    ]


async def pair_of(stage: Stage, mover: Host, observer: Host, side: str) -> tuple[Pair, int]:
    """A connection that is direct, and at which of its ends the observer is."""
    hosts = (mover, observer) if side == "client" else (observer, mover)
    pair = await stage.pair(*hosts)
    await pair.direct(15)
    await pair.ping()
    return pair, 1 if side == "client" else 0


async def known_to(pair: Pair, end: int) -> list[str]:
    """Where the paths of an end lead, when they have settled."""
    await asyncio.sleep(1)
    return [path["remote"] for path in (await pair.paths())[end]]


async def new_path(pair: Pair, end: int, known: list[str], kind: str = "ip") -> dict[str, Any]:
    """Wait until an end has selected a direct path to another address than before."""
    node, conn = pair.ends[end]
    return await node.call("wait_path", conn=conn, kind=kind, other_than=known, timeout=30)


async def moved(
    stage: Stage, pair: Pair, end: int, known: list[str], kind: str, tickers: Any, at: float
) -> None:
    """What there has to be after a change: a new direct path, and data that did not stop for long."""
    answer = await new_path(pair, end, known, kind)
    stage.note("direct_again_s", answer["t"] - at)
    await pair.ping()
    silence = await pair.longest_silence(tickers)
    stage.note("silence_s", silence)
    if (stage.pairing.client, stage.pairing.server) == ("ours", "ours"):
        stage.check(silence < SILENCE_S, f"no data for {silence:.2f} s")


async def switch(stage: Stage, side: str, before: str, after: str, gap: float = 0.0) -> None:
    (first,), (second,) = homes(stage, before, 1), homes(stage, after, 1)
    (home,) = homes(stage, "dual", 1)
    mover = first.host("mover")
    pair, observer = await pair_of(stage, mover, home.host("observer"), side)
    known = await known_to(pair, observer)
    tickers = await pair.ticking()
    await asyncio.sleep(0.5)
    at = stage.mark(f"{side}: from {before} to {after}")
    mover.unplug()
    await asyncio.sleep(gap)
    mover.plug_in(second)
    kind = {"v4": "ip4", "v6": "ip6", "dual": "ip"}[after]
    await moved(stage, pair, observer, known, kind, tickers, at)


def enter_switches() -> None:
    for side, before, after in itertools.product(SIDES, ACCESS, ACCESS):

        async def play(stage: Stage, way: tuple[str, str, str] = (side, before, after)) -> None:
            await switch(stage, *way)

        play.__doc__ = (
            f"The {side} is plugged in at another network, {before} before and {after} then."
        )
        scenario(f"P18-{before}-{after}-{side}", limit=100)(play)


enter_switches()


@scenario("gap", limit=100)
async def without_network_between(stage: Stage) -> None:
    """Half a second without any network between Wi-Fi and a mobile network."""
    await switch(stage, "client", "dual", "v4", gap=0.5)


async def faster_link(stage: Stage, side: str) -> None:
    home = stage.world.router("home", link=FIXED)
    mobile = stage.world.router("mobile", nat="moderate", link=LinkConfig(rate=20, delay=60))
    mover, observer = mobile.host("mover"), home.host("observer")
    pair, end = await pair_of(stage, mover, observer, side)
    tickers = await pair.ticking()
    at = stage.mark(f"{side}: a second interface, in the network of the other")
    mover.plug_in(home, "eth1", metric=50)
    answers = await pair.direct(15, prefix=home.lan4)
    stage.note("direct_again_s", max(answer["t"] for answer in answers) - at)
    await pair.ping()
    stage.note("silence_s", await pair.longest_silence(tickers))
    # The first interface goes: the second one is in use, so nobody notices.
    await asyncio.sleep(1)
    tickers = await pair.ticking()
    stage.mark("the first interface goes")
    mover.unplug("eth0")
    await asyncio.sleep(3)
    silence = await pair.longest_silence(tickers)
    stage.note("silence_then_s", silence)
    stage.check(
        silence < SILENCE_S, f"no data for {silence:.2f} s without the interface that is not used"
    )


async def hard_to_easy(stage: Stage, side: str) -> None:
    strict = stage.world.router("strict", nat="strict", link=FIXED)
    easy = stage.world.router("easy", nat="moderate", link=FIXED)
    mover = strict.host("mover")
    observer = stage.home("moderate", link=FIXED)
    hosts = (mover, observer) if side == "client" else (observer, mover)
    pair = await stage.pair(*hosts)
    await pair.stays_relayed(3)
    tickers = await pair.ticking()
    at = stage.mark(f"{side}: from a strict NAT to a moderate one")
    mover.replug(easy)
    answers = await pair.direct(15)
    stage.note("direct_s", max(answer["t"] for answer in answers) - at)
    await pair.ping()
    stage.note("silence_s", await pair.longest_silence(tickers))


async def flapping(stage: Stage, side: str) -> None:
    (first, second) = homes(stage)
    mover = first.host("mover")
    pair, _ = await pair_of(stage, mover, second.host("observer"), side)
    tickers = await pair.ticking()
    for _ in range(3):
        stage.mark("down")
        mover.set_link(up=False)
        await asyncio.sleep(0.5)
        at = stage.mark("up")
        mover.set_link(up=True)
        await asyncio.sleep(1.5)
    await pair.ping()
    answers = await pair.direct(15)
    stage.note("direct_again_s", max(max(answer["t"] for answer in answers) - at, 0.0))
    silence = await pair.longest_silence(tickers)
    stage.note("silence_s", silence)


async def renewed(stage: Stage, side: str) -> None:
    (first, second) = homes(stage)
    mover = first.host("mover")
    pair, _ = await pair_of(stage, mover, second.host("observer"), side)
    tickers = await pair.ticking()
    at = stage.mark(f"{side}: another address on the same link")
    mover.renew()
    await asyncio.sleep(3)
    await pair.ping()
    answers = await pair.direct(15)
    stage.note("direct_again_s", max(max(answer["t"] for answer in answers) - at, 0.0))
    silence = await pair.longest_silence(tickers)
    stage.note("silence_s", silence)
    if (stage.pairing.client, stage.pairing.server) == ("ours", "ours"):
        stage.check(silence < SILENCE_S, f"no data for {silence:.2f} s")


async def tunnelled(stage: Stage, side: str) -> None:
    (first, second) = homes(stage)
    vpn = stage.world.router("vpn", nat="moderate", link=LinkConfig(delay=25))
    mover = first.host("mover")
    pair, _ = await pair_of(stage, mover, second.host("observer"), side)
    tickers = await pair.ticking()
    stage.mark("a VPN takes the default route")
    mover.plug_in(vpn, "vpn0", metric=10)
    mover.ip("link", "set", "vpn0", "mtu", "1420")
    await asyncio.sleep(5)
    await pair.both("bulk", bytes=200_000, way="echo", timeout=20)
    stage.mark("and goes")
    mover.unplug("vpn0")
    await asyncio.sleep(3)
    await pair.ping()
    await pair.direct(15)
    stage.note("silence_s", await pair.longest_silence(tickers))


PLAYS = {
    "P19": (faster_link, "A slow mobile network first, then an interface in the other's network: both move there."),
    "P20": (hard_to_easy, "Relayed behind a strict NAT, then plugged in behind a moderate one: direct."),
    "flapping": (flapping, "A link that goes down and up three times: usable, then direct again."),
    "renewed": (renewed, "Another address on the same link: nothing is lost."),
    "vpn": (tunnelled, "A VPN takes the default route and gives it back: usable all the time."),
}  # fmt: skip


def enter_plays() -> None:
    for name, (play_side, about) in PLAYS.items():
        for side in SIDES:

            async def play(stage: Stage, side: str = side, play_side: Any = play_side) -> None:
                await play_side(stage, side)

            play.__doc__ = f"{about} ({side})"
            scenario(f"{name}-{side}", limit=100)(play)


enter_plays()
