"""Bad networks: slow, far, lossy links, NATs that forget, packets that are too large and vanish."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.lab.link import Bursts, LinkConfig
from tests.lab.nat import with_changes
from tests.lab.stage import Stage, scenario

SIDES = ("client", "server")


@dataclass(frozen=True)
class Level:
    """A step of the ladder: Mbit/s, milliseconds of round trip and of jitter, percent lost in bursts of that many."""

    name: str
    rate: float
    rtt: float
    jitter: float
    loss: float
    burst: float
    required: bool = True

    def link(self) -> LinkConfig:
        """One direction. The buffer holds what the link carries in a round trip."""
        queue = max(20, round(self.rate * self.rtt * 1000 / 8 / 1400))
        bursts = Bursts(self.loss / 100, self.burst)
        return LinkConfig(
            rate=self.rate, delay=self.rtt / 2, jitter=self.jitter, burst_loss=bursts, queue=queue
        )


LADDER = (
    Level("good Wi-Fi", 100, 16, 0, 0.1, 1),
    Level("congested Wi-Fi", 25, 40, 12, 1, 6),
    Level("weak 4G", 8, 90, 15, 2, 8),
    Level("slow 3G", 3, 200, 30, 3, 10),
    Level("congested cell", 1.5, 300, 40, 5, 12),
    Level("very bad cell", 0.8, 450, 60, 8, 20),
    Level("satellite", 25, 600, 40, 1.5, 6),
    Level("barely usable", 0.5, 450, 80, 12, 25, required=False),
    Level("absurd", 0.256, 800, 150, 25, 40, required=False),
)


async def degraded(stage: Stage, side: str, number: int) -> None:
    level = LADDER[number]
    bad, good = stage.home(link=level.link()), stage.home(link=LinkConfig(delay=5))
    pair = await stage.pair(*((bad, good) if side == "client" else (good, bad)))
    limit = 20 + 10 * number
    answers = await pair.direct(limit)
    stage.note("direct_s", max(answer["since"] for answer in answers))
    stage.note("ping_s", max(answer["took"] for answer in await pair.both("ping", timeout=limit)))


def enter_ladder() -> None:
    for number, level in enumerate(LADDER):
        for side in SIDES:

            async def play(stage: Stage, side: str = side, number: int = number) -> None:
                await degraded(stage, side, number)

            more = "" if level.required else "; for information, the reference fails"
            play.__doc__ = f"The {side} is behind a link like {level.name}: becomes direct{more}."
            scenario(f"P25-{number}-{side}", limit=90 + 20 * number)(play)


enter_ladder()


@scenario("asymmetric", limit=90)
async def uneven_link(stage: Stage) -> None:
    """Ten times as fast down as up: both directions carry what their link can."""
    up, down = LinkConfig(rate=4, delay=15, queue=60), LinkConfig(rate=40, delay=15, queue=200)
    pair = await stage.pair(stage.home(link=(up, down)), stage.home(link=LinkConfig(delay=5)))
    await pair.direct(15)
    for way, rate, size in (("up", 4, 3_000_000), ("down", 40, 15_000_000)):
        told = await pair.client.call("bulk", conn=pair.c, bytes=size, way=way, timeout=60)
        reached = size * 8e-6 / told["took"]
        stage.note(f"{way}_mbits", reached)
        stage.check(reached > 0.5 * rate, f"{way}: {reached:.1f} of {rate} Mbit/s")


@scenario("mtu-black-hole", limit=90)
async def large_packets_vanish(stage: Stage) -> None:
    """A router on the way takes 1,400 bytes and says nothing of larger packets: data gets through."""
    home = stage.world.router("narrow", link=LinkConfig(delay=10))
    pair = await stage.pair(home.host("inside"), stage.home(link=LinkConfig(delay=10)))
    await pair.direct(15)
    stage.mark("the link takes 1,400 bytes, in silence")
    home.narrow(1400)
    for way in ("up", "down"):
        await pair.client.call("bulk", conn=pair.c, bytes=2_000_000, way=way, timeout=30)
    for path in await pair.selected():
        stage.check(path["kind"] != "relay", "fell back to the relay")
        stage.note(f"mtu_{path['id']}", path["mtu"])


@scenario("mapping-idle", limit=120)
async def nat_forgets_early(stage: Stage) -> None:
    """NATs that forget what was silent for ten seconds: keep-alives hold the direct path."""
    short = with_changes("moderate", idle=10, stream=10)
    pair = await stage.pair(stage.home(short), stage.home(short))
    await pair.direct(15)
    before = [path["remote"] for path in await pair.selected()]
    stage.mark("nobody says anything for 40 s")
    await asyncio.sleep(40)
    after = [path["remote"] for path in await pair.selected()]
    stage.check(before == after, f"{before} became {after}")
    await pair.ping(within=1)


@scenario("mapping-lifetime", limit=240)
async def nat_forgets_at_a_time(stage: Stage) -> None:
    """A NAT that ends every mapping after 20 s: data flows on, over the relay where it has to."""
    mobile = stage.home(with_changes("moderate", lifetime=20.0), link=LinkConfig(delay=15))
    pair = await stage.pair(mobile, stage.home(link=LinkConfig(delay=10)))
    await pair.direct(15)
    silences = []
    for seconds in (80, 80):
        tickers = await pair.ticking()
        stage.mark(f"for {seconds} s")
        await asyncio.sleep(seconds)
        silences.append(await pair.longest_silence(tickers))
    stage.note("silence_first_s", silences[0])
    stage.note("silence_then_s", silences[1])
    if (stage.pairing.client, stage.pairing.server) == ("ours", "ours"):
        stage.check(max(silences) < 2.0, f"no data for {max(silences):.2f} s")


@scenario("udp-opens", limit=150)
async def portal_lets_through(stage: Stage) -> None:
    """A network that lets no UDP out at first, then all: relayed, then direct."""
    home = stage.world.router("portal", link=LinkConfig(delay=10))
    home.firewall("udp-blocked")
    pair = await stage.pair(home.host("guest"), stage.home(link=LinkConfig(delay=10)))
    await pair.stays_relayed(5)
    at = stage.mark("UDP passes")
    home.firewall("none")
    answers = await pair.direct(75)
    stage.note("direct_s", max(answer["t"] for answer in answers) - at)
    await pair.ping()


@scenario("region", limit=120)
async def provider_is_cut_off(stage: Stage) -> None:
    """A home is cut off from everything for five seconds, and nobody tells its hosts."""
    home = stage.world.router("region", link=LinkConfig(delay=10))
    pair = await stage.pair(home.host("cut-off"), stage.home(link=LinkConfig(delay=10)))
    await pair.direct(15)
    tickers = await pair.ticking()
    stage.mark("cut off")
    home.uplink(up=False)
    await asyncio.sleep(5)
    at = stage.mark("back")
    home.uplink(up=True)
    await pair.ping(within=15)
    stage.note("usable_s", stage.mark("an echo in both directions") - at)
    await pair.direct(40)
    stage.note("silence_s", await pair.longest_silence(tickers))
