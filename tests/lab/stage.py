"""What a scenario plays on: a world, a client and a server of chosen kinds, and what there is to check and to note.

    @scenario("P1", limit=60)
    async def two_homes(stage: Stage) -> None:
        \"""Two home routers: begins over the relay and becomes direct.\"""
        pair = await stage.pair(stage.home("moderate"), stage.home("moderate"))
        await pair.direct(10)
        await pair.ping()

A scenario fails by an exception: `Failed` where a check does not hold. It ends with all of its processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.lab.world import World

if TYPE_CHECKING:
    from tests.lab.child import NodeProcess
    from tests.lab.hosts import Host
    from tests.lab.relays import Relay

__all__ = [
    "SCENARIOS",
    "Failed",
    "Pair",
    "Pairing",
    "Result",
    "Scenario",
    "Stage",
    "play",
    "scenario",
]

IMPLEMENTATIONS: Final = ("ours", "rust")
RELAYS: Final = ("ours", "iroh-relay")


class Failed(AssertionError):
    """A check of a scenario does not hold; the message says what was seen instead."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Which implementation each part is of."""

    client: str = "ours"
    server: str = "ours"
    relay: str = "ours"

    def __post_init__(self) -> None:
        for role in (self.client, self.server):
            if role not in IMPLEMENTATIONS:
                raise ValueError(f"{role!r} is none of {', '.join(IMPLEMENTATIONS)}")
        if self.relay not in RELAYS:
            raise ValueError(f"{self.relay!r} is none of {', '.join(RELAYS)}")

    def __str__(self) -> str:
        return f"{self.client}/{self.server}" + (
            f" over {self.relay}" if self.relay != "ours" else ""
        )

    @classmethod
    def parse(cls, text: str) -> Pairing:
        """``CLIENT/SERVER`` or ``CLIENT/SERVER/RELAY``."""
        parts = text.split("/")
        if not 2 <= len(parts) <= 3:
            raise ValueError(f"{text!r} is not of the form CLIENT/SERVER[/RELAY]")
        return cls(*parts)


Play = Callable[["Stage"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario: its name, what it is about, and how long it may last in seconds."""

    name: str
    about: str
    limit: float
    play: Play
    #: Implementations that it can be played with; some commands only ours knows.
    only: tuple[str, ...]


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, *, limit: float = 90.0, only: tuple[str, ...] = IMPLEMENTATIONS
) -> Callable[[Play], Play]:
    """Enter an async function of a `Stage` under a name; its docstring's first line says what it is about."""

    def enter(play: Play) -> Play:
        if name in SCENARIOS:
            raise ValueError(f"there is a scenario {name} already")
        about = (play.__doc__ or "").strip().splitlines()
        SCENARIOS[name] = Scenario(name, about[0] if about else "", limit, play, only)
        return play

    return enter


@dataclass(slots=True)
class Pair:
    """A connection with both of its ends.

    Attributes
    ----------
    client, server : NodeProcess
    c, s : int
        The number of the connection at each.
    t : float
        When it was complete at the client, in seconds of CLOCK_MONOTONIC.
    """

    stage: Stage
    client: NodeProcess
    server: NodeProcess
    c: int
    s: int
    t: float

    @property
    def ends(self) -> tuple[tuple[NodeProcess, int], tuple[NodeProcess, int]]:
        return (self.client, self.c), (self.server, self.s)

    async def both(self, command: str, **arguments: Any) -> list[dict[str, Any]]:
        """The answers of client and server."""
        asked = (node.call(command, conn=conn, **arguments) for node, conn in self.ends)
        return list(await asyncio.gather(*asked))

    async def ping(self, within: float = 10.0) -> None:
        """An echo in each direction."""
        await self.both("ping", timeout=within)

    async def direct(self, within: float = 15.0, **conditions: Any) -> list[dict[str, Any]]:
        """Wait until both have selected a direct path; the answers."""
        return await self.both("wait_path", kind="ip", timeout=within, **conditions)

    async def relayed(self, within: float = 15.0) -> list[dict[str, Any]]:
        """Wait until both have selected a path over a relay."""
        return await self.both("wait_path", kind="relay", timeout=within)

    async def selected(self) -> list[dict[str, Any]]:
        """The path that each has selected now; raises `Failed` where one has none."""
        chosen = []
        for node, conn in self.ends:
            paths = (await node.call("paths", conn=conn))["paths"]
            mine = [path for path in paths if path["selected"]]
            if len(mine) != 1:
                raise Failed(f"{node.label} has selected {len(mine)} of {describe(paths)}")
            chosen.append(mine[0])
        return chosen

    async def paths(self) -> list[list[dict[str, Any]]]:
        """All paths of client and server."""
        return [answer["paths"] for answer in await self.both("paths")]

    async def stays_relayed(self, seconds: float) -> None:
        """Nobody selects a direct path for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for path in await self.selected():
                if path["kind"] != "relay":
                    raise Failed(f"selected {path['remote']}, should have stayed at the relay")
            await asyncio.sleep(min(1.0, max(end - time.monotonic(), 0.0)))

    async def began_relayed(self) -> None:
        """The first path that the client selected was one over a relay."""
        for event in self.client.events:
            if event["event"] == "path" and event["conn"] == self.c and event["what"] == "selected":
                if event["kind"] != "relay":
                    raise Failed(f"the first path selected is {event['remote']}")
                return
        raise Failed("no path was selected")

    async def ticking(self, interval: float = 0.05) -> tuple[int, int]:
        """Begin a ticker at each end."""
        started = await self.both("ticker", interval=interval)
        return started[0]["ticker"], started[1]["ticker"]

    async def longest_silence(self, tickers: tuple[int, int], within: float = 30.0) -> float:
        """End the tickers; the longest time without an echo, and nothing may be missing."""
        silence = 0.0
        for (node, _), ticker in zip(self.ends, tickers, strict=True):
            told = await node.call("ticker_stop", ticker=ticker, timeout=within)
            if told["received"] != told["sent"]:
                raise Failed(
                    f"{node.label}: {told['received']} of {told['sent']} ticks came back {told}"
                )
            silence = max(silence, told["longest"][1])
        return silence


def describe(paths: Iterable[dict[str, Any]]) -> str:
    return (
        ", ".join(f"{p['id']} {p['remote']}{' *' if p['selected'] else ''}" for p in paths)
        or "no path"
    )


@dataclass(slots=True)
class Stage:
    """A world with the parts that a pairing names.

    Attributes
    ----------
    world : World
    pairing : Pairing
    figures : dict
        What `note` was told, by name.
    marks : list of (float, str)
        What the scenario did and when, in seconds of CLOCK_MONOTONIC.
    nodes : list of NodeProcess
        All that were started.
    """

    world: World
    pairing: Pairing
    stack: contextlib.AsyncExitStack
    capture: bool = False
    figures: dict[str, Any] = field(default_factory=dict)
    marks: list[tuple[float, str]] = field(default_factory=list)
    nodes: list[NodeProcess] = field(default_factory=list)
    _relay: Relay | None = None
    _homes: int = 0

    # --- the world
    def relay(self, **options: Any) -> Relay:
        """The relay of the world; a further one where options are given."""
        if options or self._relay is None:
            made = self.world.relay(self.pairing.relay, **options)
            self._relay = self._relay or made
            return made
        return self._relay

    def home(self, nat: Any = "moderate", **options: Any) -> Host:
        """A host behind a router of its own on the internet, with the options of `Router`."""
        self._homes += 1
        label = f"home{self._homes}"
        return self.world.router(label, nat=nat, **options).host(f"host{self._homes}")

    # --- the nodes
    async def start(self, host: Host, kind: str, *, label: str = "", **bind: Any) -> NodeProcess:
        """A bound endpoint on a host. `bind` are arguments of the command; without relays it has the stage's one."""
        if self.capture and not any(node.host is host for node in self.nodes):
            self.world.capture(host)
        node = await self.stack.enter_async_context(host.node(kind, label=label or host.label))
        self.nodes.append(node)
        relays = bind.pop("relays", None)
        if relays is None:
            relays = [self.relay().url]
        await node.call("bind", relays=relays, ca=str(self.world.ca), **bind)
        if relays:
            await node.call("online", timeout=20)
        return node

    async def client(self, host: Host, **bind: Any) -> NodeProcess:
        return await self.start(host, self.pairing.client, label="client", **bind)

    async def server(self, host: Host, **bind: Any) -> NodeProcess:
        return await self.start(host, self.pairing.server, label="server", **bind)

    async def connect(
        self, client: NodeProcess, server: NodeProcess, *, within: float = 30.0, **to: Any
    ) -> Pair:
        """Dial over the relay alone unless `relays` and `ips` are given; both ends of the connection."""
        ids = [(await node.call("addr"))["id"] for node in (client, server)]
        if not to:
            to = {"relays": [self.relay().url]}
        known = {entry["conn"] for entry in (await server.call("conns"))["conns"]}
        answer = await client.call("connect", to=ids[1], timeout=within, **to)
        number = await self._accepted(server, ids[0], known)
        return Pair(self, client, server, answer["conn"], number, answer["t"])

    async def _accepted(self, server: NodeProcess, of: str, known: set[int]) -> int:
        """The number at the server: it may be complete there a moment later."""
        for _ in range(500):
            for entry in (await server.call("conns"))["conns"]:
                if entry["remote"] == of and entry["conn"] not in known:
                    return int(entry["conn"])
            await asyncio.sleep(0.01)
        raise Failed("the server has no such connection")

    async def pair(self, client: Host, server: Host, **to: Any) -> Pair:
        """Both endpoints, online, and a connection that was dialed over the relay alone."""
        ends = await asyncio.gather(self.client(client), self.server(server))
        return await self.connect(*ends, **to)

    # --- what comes out
    def note(self, name: str, value: Any) -> None:
        """A figure of this run."""
        self.figures[name] = round(value, 4) if isinstance(value, float) else value

    def mark(self, text: str) -> float:
        """What happens now, for the timeline; when that is."""
        now = time.monotonic()
        self.marks.append((now, text))
        return now

    def check(self, holds: bool, text: str) -> None:
        if not holds:
            raise Failed(text)


@dataclass(slots=True)
class Result:
    """How a scenario ended: `error` is None where all of its checks hold."""

    name: str
    pairing: Pairing
    seconds: float
    figures: dict[str, Any]
    error: str | None
    marks: list[tuple[float, str]]
    nodes: list[NodeProcess]


@contextlib.asynccontextmanager
async def opened(pairing: Pairing, *, capture: bool = False) -> AsyncIterator[Stage]:
    """A stage of its own world."""
    with World() as world:
        async with contextlib.AsyncExitStack() as stack:
            yield Stage(world, pairing, stack, capture)


async def play(
    name: str,
    pairing: Pairing,
    *,
    ended: Callable[[Stage, str | None], None] | None = None,
    capture: bool = False,
) -> Result:
    """Play a scenario in a world of its own.

    Parameters
    ----------
    ended : callable, optional
        Sees the stage while its processes still run, and what failed.
    capture : bool
        Write the packets of every host with a node to a file in the world's folder.
    """
    chosen = SCENARIOS[name]
    started = time.monotonic()
    async with opened(pairing, capture=capture) as stage:
        error = None
        try:
            async with asyncio.timeout(chosen.limit):
                await chosen.play(stage)
        except TimeoutError:
            error = f"not within {chosen.limit:.0f} s"
        except Exception as failure:  # whatever a command, a machine or a check says is the result
            error = f"{type(failure).__name__}: {failure}"
        stage.mark("failed" if error else "all checks hold")
        if ended is not None:
            ended(stage, error)
        took = time.monotonic() - started
        return Result(name, pairing, took, stage.figures, error, stage.marks, stage.nodes)
