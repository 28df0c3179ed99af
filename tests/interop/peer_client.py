"""Test side of ``peer.py``: starts the process and calls its operations."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

SCRIPT = Path(__file__).with_name("peer.py")


class PeerError(Exception):
    """The real peer raised an error."""

    def __init__(self, op: str, kind: str, message: str) -> None:
        super().__init__(f"{op}: {kind}: {message}")
        self.kind = kind
        self.message = message


class PeerProcess:
    """A running ``peer.py``.

    ``await peer.call("bind", addr=...)`` runs one operation; ``peer.start(...)`` gives a
    task, for operations that go on while the test does something else.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._process: asyncio.subprocess.Process
        self._reader: asyncio.Task[None]

    @classmethod
    async def launch(
        cls, log: IO[bytes] | None = None, level: str = "TRACE", within: Sequence[str] = ()
    ) -> PeerProcess:
        """Start the process.  With `log`, it writes what it does into that file.

        `within` is a command that runs the one that follows it, in another network for example.
        """
        self = cls()
        env = {**os.environ}
        env.pop("PEER_TRACE", None)
        if log is not None:
            env["PEER_TRACE"] = level
        self._process = await asyncio.create_subprocess_exec(
            *within,
            sys.executable,
            str(SCRIPT),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=env,
            limit=2**28,
        )
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if "ready" not in json.loads(line or b"{}"):
            raise RuntimeError("the real peer did not start")
        self._reader = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                answer = json.loads(line)
                op, future = self._waiting.pop(answer["n"], ("", None))
                if future is None or future.done():  # nobody waits for it any more
                    continue
                if "error" in answer:
                    error = answer["error"]
                    future.set_exception(PeerError(op, error["kind"], error["message"]))
                else:
                    future.set_result(answer["ok"])
        finally:
            for op, future in self._waiting.values():
                if not future.done():
                    future.set_exception(PeerError(op, "GONE", "the real peer has exited"))
            self._waiting.clear()

    async def call(self, op: str, /, **arguments: Any) -> Any:
        """Run an operation and give its result.

        Raises
        ------
        PeerError : the real peer raised; ``kind`` is iroh's error kind.
        """
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = (op, future)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"n": number, "op": op, **arguments}).encode() + b"\n")
        try:
            return await future
        except asyncio.CancelledError:
            if not self._process.stdin.is_closing():
                self._process.stdin.write(
                    json.dumps(
                        {"n": next(self._numbers), "op": "cancel", "target": number}
                    ).encode()
                    + b"\n"
                )
            raise

    def start(self, op: str, /, **arguments: Any) -> asyncio.Task[Any]:
        """Begin an operation; the task gives its result."""
        task = asyncio.create_task(self.call(op, **arguments))
        # A test that fails leaves tasks behind: their errors would only bury its own.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def kill(self) -> None:
        """End the process at once, without a chance to tell anybody (SIGKILL)."""
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """Let the process close its endpoints and exit."""
        assert self._process.stdin is not None
        if self._process.returncode is None:
            self._process.stdin.close()
            try:
                await asyncio.wait_for(self._process.wait(), 10)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await self._reader

    async def __aenter__(self) -> PeerProcess:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
