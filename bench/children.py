"""Child processes of a benchmark: started, told what to do by lines of JSON, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent
ROOT = BENCH.parent
PATIENCE_S = 30.0  # for an answer, beyond the time the work itself takes


class Failed(Exception):
    """A child answered with an error, not in time, or not at all."""


@dataclass
class Child:
    process: asyncio.subprocess.Process
    errors: Any  # temporary file with its standard error
    name: str

    @classmethod
    async def start(cls, command: list[str], name: str) -> Child:
        errors = tempfile.TemporaryFile()
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(),
            limit=1 << 24,  # one answer is one line
        )
        return cls(process, errors, name)

    async def do(self, command: str, *, takes: float = 0.0, **arguments: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        line = b""
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
            try:
                line = await asyncio.wait_for(self.process.stdout.readline(), takes + PATIENCE_S)
            except TimeoutError:
                raise Failed(f"{self.name}: {command} did not end in time\n{self.log()}") from None
        if not line:
            raise Failed(f"{self.name}: died during {command}\n{self.log()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{self.name}: {command}: {answer['error']}\n{self.log()}")
        return answer["ok"]

    def log(self, lines: int = 15) -> str:
        """The end of what it wrote to standard error."""
        self.errors.seek(0)
        return "\n".join(
            "    " + line
            for line in self.errors.read().decode(errors="replace").splitlines()[-lines:]
        )

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        self.errors.close()


def environment() -> dict[str, str]:
    """Where iroh_fast is not installed, this tree is measured."""
    env = dict(os.environ)
    if importlib.util.find_spec("iroh_fast") is None:
        env["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(ROOT / "src"), env.get("PYTHONPATH")])
        )
    return env


def run_until_done(work: Coroutine[Any, Any, None]) -> None:
    """Run; SIGINT and SIGTERM end it, and the children with it."""

    async def main() -> None:
        task = asyncio.create_task(work)
        with contextlib.suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await task

    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        raise SystemExit(143) from None
