"""An emulated link: a process that carries packets between a device of one namespace and one of another."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from tests.lab.link import LabStats, LinkConfig, Setup
from tests.lab.namespaces import LabError

__all__ = ["Carrier"]

ROOT = Path(__file__).parents[2]


class Carrier:
    """The process. It makes both devices, TUN of IP packets, which go with it.

    Parameters
    ----------
    left, right : tuple of (str, str)
        Namespace and device of each end.
    there, back : LinkConfig
        From left to right, and from right to left.
    seed : int
        Decides which packets are lost and how late each is.

    Raises
    ------
    LabError
        What the machine refused.
    """

    def __init__(
        self,
        left: tuple[str, str],
        right: tuple[str, str],
        there: LinkConfig,
        back: LinkConfig,
        *,
        seed: int = 0,
    ) -> None:
        ours, theirs = socket.socketpair()
        self._control = Connection(ours.detach())
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.lab.wire", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us
            )
        try:
            answer = self._ask(Setup((left, right), there, back, seed))
            if answer != "ready":
                raise LabError(f"the wire: {answer}")
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Make now the time that outages and steps count from, and count anew."""
        self._ask("begin")

    def stats(self) -> LabStats:
        """What happened since it began, or since the last change."""
        answer = self._ask("stats")
        assert isinstance(answer, LabStats)
        return answer

    def change(self, there: LinkConfig, back: LinkConfig) -> None:
        """Be another link from now on, which begins; what is under way arrives as the old one decided."""
        self._ask((there, back))

    def _ask(self, command: object) -> object:
        try:
            self._control.send(command)
            return self._control.recv()
        except (EOFError, OSError) as error:
            raise LabError("the process of the wire has ended") from error

    def close(self) -> None:
        """Hang up, which ends the process; at the latest after two seconds."""
        self._control.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
