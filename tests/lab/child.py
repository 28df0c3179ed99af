"""Nodes of a world, as seen by a test: processes that take commands and tell events, see `tests.lab.node`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tests.lab.namespaces import LabError

if TYPE_CHECKING:
    from tests.lab.hosts import Host

__all__ = ["KINDS", "NodeError", "NodeProcess"]

ROOT = Path(__file__).parents[2]
KINDS = ("ours", "rust")
END_S = 10.0
ANSWER_S = 60.0  # beyond the timeout that a command has itself
LINE = 1 << 24


class NodeError(Exception):
    """A node could not do what it was asked; `kind` is the name of what it raised."""

    def __init__(self, who: str, cmd: str, kind: str, text: str) -> None:
        super().__init__(f"{who}: {cmd}: {kind}: {text}")
        self.kind = kind


def command_of(kind: str) -> list[str]:
    """What runs a node of a kind."""
    if kind == "ours":
        return [sys.executable, "-m", "tests.lab.node"]
    if kind == "rust":
        from tests.interop.rust import program

        return [program("peer"), "node"]
    raise ValueError(f"no such node: {kind!r}; there are {', '.join(KINDS)}")


class NodeProcess:
    """An endpoint in a process on a host, while the context is open.

    Parameters
    ----------
    host : Host
    kind : str
        ``"ours"`` or ``"rust"``.
    label : str
        For events and messages; the host's unless given.
    on_event : callable
        Called with every event as it comes.
    env : dict
        More of the environment, as ``{"IROH_FAST_LOG": "DEBUG"}``.

    Attributes
    ----------
    events : list of dict
        All events so far, in the order in which they came.
    log : Path
        What it writes to stderr.
    silences : dict
        By connection, as tickers told: (t, seconds) without an echo.
    """

    def __init__(
        self,
        host: Host,
        kind: str = "ours",
        *,
        label: str = "",
        on_event: Callable[[NodeProcess, dict[str, Any]], None] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.host, self.kind, self.label = host, kind, label or host.label
        self.events: list[dict[str, Any]] = []
        self.log = host.world.folder / f"{self.label}.node.log"
        self.silences: dict[int, list[tuple[float, float]]] = {}
        self._tickers: dict[int, int] = {}  # the connection of each
        self._on_event = on_event
        self._env = env or {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._news = asyncio.Condition()
        self._process: asyncio.subprocess.Process | None = None
        self._ended = False

    async def __aenter__(self) -> Self:
        argv = self.host.command(command_of(self.kind))
        # Frames of debug builds do not help here: a panic tells where it was.
        env = {**os.environ, "PYTHONPATH": str(ROOT), "RUST_BACKTRACE": "1", **self._env}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *argv, env=env, limit=LINE, stderr=log,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
        self._reader = asyncio.create_task(self._read())
        try:
            await self.event("ready", within=30)
        except BaseException:
            await self.close(kill=True)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close(kill=kind is not None)

    async def close(self, *, kill: bool = False) -> None:
        """Hang up, upon which it closes its endpoint and ends; or end it at once."""
        process = self._process
        assert process is not None and process.stdin is not None
        if kill and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), END_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        await self._reader

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "event" in told:
                self.events.append(told)
                if self._on_event is not None:
                    self._on_event(self, told)
                async with self._news:
                    self._news.notify_all()
            elif (waiting := self._waiting.pop(told.get("n"), None)) and not waiting.done():
                waiting.set_result(told)
        self._ended = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(LabError(f"{self.label} has ended: {self.tail()}"))
        async with self._news:
            self._news.notify_all()

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:]

    async def call(self, cmd: str, **arguments: Any) -> dict[str, Any]:
        """Have a command done; its answer.

        Raises
        ------
        NodeError
            It failed.
        LabError
            The process has ended, or does not answer.
        """
        process, number = self._process, next(self._numbers)
        if process is None or process.stdin is None or self._ended:
            raise LabError(f"{self.label} does not run")
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._waiting[number] = waiting
        request = json.dumps({"n": number, "cmd": cmd, **arguments})
        process.stdin.write(request.encode() + b"\n")
        try:
            limit = float(arguments.get("timeout") or ANSWER_S) + ANSWER_S
            answer = await asyncio.wait_for(waiting, limit)
        except TimeoutError:
            raise LabError(f"{self.label} does not answer {cmd}: {self.tail()}") from None
        finally:
            self._waiting.pop(number, None)
        if not answer["ok"]:
            raise NodeError(self.label, cmd, answer["kind"], answer["error"])
        self._remember(cmd, arguments, answer)
        return answer

    def _remember(self, cmd: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
        if cmd == "ticker":
            self._tickers[answer["ticker"]] = asked["conn"]
        elif cmd == "ticker_stop":
            gaps = [(t, seconds) for t, seconds in answer["gaps"]]
            self.silences.setdefault(self._tickers[asked["ticker"]], []).extend(gaps)

    async def event(
        self, name: str, *, within: float = 15, since: int = 0, **facts: Any
    ) -> dict[str, Any]:
        """The first event of a name with these facts, from number `since` on; it may have come already."""

        def found() -> dict[str, Any] | None:
            wanted = {"event": name, **facts}
            events = self.events[since:]
            return next((e for e in events if all(e.get(k) == v for k, v in wanted.items())), None)

        def over() -> bool:
            return self._ended or found() is not None

        async with self._news:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait_for(over), within)
        event = found()
        if event is None:
            raise LabError(f"{self.label}: no {name} {facts} among {self.events}; {self.tail()}")
        return event
