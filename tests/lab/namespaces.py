"""Network namespaces of Linux with processes in them, through the ``ip`` command."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PREFIX = "iroh-lab"
NAMED = Path("/run/netns")
COUNTER = itertools.count()


class LabError(Exception):
    """The lab could not be set up; the message says what the machine refused."""


def missing() -> str | None:
    """What this machine lacks for a lab, or None."""
    if sys.platform != "linux":
        return "network namespaces are of Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun (modprobe tun; in a container: --device /dev/net/tun --cap-add NET_ADMIN)"
    if shutil.which("ip") is None:
        return "no ip command (package iproute2)"
    return refused()


@functools.cache
def refused() -> str | None:
    """Why a namespace cannot be made here, or None: some containers allow root none. Tried once per process."""
    name = f"{PREFIX}-{os.getpid()}-probe{next(COUNTER)}"
    try:
        ip("netns", "add", name)
        ip("netns", "exec", name, "true")
    except LabError as error:
        return str(error)
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return None


def ip(*arguments: str, text: str = "") -> str:
    """Run the ``ip`` command; its output."""
    done = subprocess.run(
        ["ip", *arguments], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LabError(f"ip {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def processes(name: str) -> list[int]:
    """Ids of the processes in a namespace."""
    return [int(pid) for pid in ip("netns", "pids", name).split()]


def remove(name: str) -> None:
    """End the processes of a namespace and remove it; does nothing where it is gone."""
    if not (NAMED / name).exists():
        return
    with contextlib.suppress(LabError):
        for pid in processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(LabError):
        ip("netns", "del", name)


def remove_leftovers() -> list[str]:
    """Remove the namespaces of processes that ended without doing so; their names."""
    removed = []
    for path in NAMED.glob(f"{PREFIX}-*"):
        owner = re.match(rf"{PREFIX}-(\d+)-", path.name)
        if owner and not Path("/proc", owner[1]).exists():
            remove(path.name)
            removed.append(path.name)
    return removed


class Namespace:
    """A network of its own, with loopback up, and the processes in it.

    Parameters
    ----------
    role : str
        A word for its name.
    sysctls : dict
        Settings below ``net``, such as ``{"ipv4.tcp_wmem": "4096 65536 67108864"}``.

    Attributes
    ----------
    name : str
        As ``ip netns`` knows it. It begins with the id of this process.
    """

    def __init__(self, role: str, sysctls: dict[str, str] | None = None) -> None:
        self.name = f"{PREFIX}-{os.getpid()}-{next(COUNTER)}-{role}"
        self._children: list[subprocess.Popen[Any]] = []
        ip("netns", "add", self.name)
        try:
            self.ip("link", "set", "lo", "up")
            self.set(sysctls or {})
        except BaseException:
            self.close()
            raise

    def ip(self, *arguments: str, text: str = "") -> str:
        """Run the ``ip`` command on this network."""
        return ip("-n", self.name, *arguments, text=text)

    def set(self, sysctls: dict[str, str]) -> None:
        """Change settings of the kernel for this network."""
        lines = "".join(
            f"echo '{value}' > /proc/sys/net/{key.replace('.', '/')}\n"
            for key, value in sysctls.items()
        )
        if lines:
            done = self.run(["sh", "-e"], input=lines, capture_output=True, text=True)
            if done.returncode:
                raise LabError(f"sysctl: {done.stderr.strip()}")

    def command(self, argv: Sequence[str | os.PathLike[str]]) -> list[str]:
        """The command that runs another one here; it is the same process in the end."""
        return ["ip", "netns", "exec", self.name, *map(os.fspath, argv)]

    def popen(
        self, argv: Sequence[str | os.PathLike[str]], **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a process here, with the options of `subprocess.Popen`. It is ended with the network."""
        child = subprocess.Popen(self.command(argv), **options)
        self._children.append(child)
        return child

    def run(
        self, argv: Sequence[str | os.PathLike[str]], **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """Run a process here to its end, with the options of `subprocess.run`."""
        return subprocess.run(self.command(argv), **options)

    def close(self) -> None:
        """End what runs here and remove the network."""
        remove(self.name)
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        self._children.clear()
