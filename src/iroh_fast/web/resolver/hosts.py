"""The table of hosts of the system."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from typing import Final

__all__ = ["Hosts", "stamp"]

MAX_HOSTS_BYTES: Final = 1 << 20


def stamp(path: str) -> object:
    """What changes when a file does."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Hosts:
    """Addresses of names by ``/etc/hosts``; changes of the file are noticed.

    Parameters
    ----------
    path : another file.
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = path or _hosts_path()
        self._stamp: object = None
        self._names: dict[str, list[str]] = {}

    def addresses(self, host: str, family: int) -> Sequence[str]:
        """The addresses of one family that the table has for a name, with or without last dot."""
        current = stamp(self._path)
        if current != self._stamp:
            self._stamp = current
            self._names = _read(self._path)
        found = self._names.get(host.lower().removesuffix("."), ())
        return [ip for ip in found if (":" in ip) == (family == socket.AF_INET6)]


def _hosts_path() -> str:
    if sys.platform == "win32":
        root = os.environ.get("SystemRoot", r"C:\Windows")
        return os.path.join(root, r"System32\drivers\etc\hosts")
    return "/etc/hosts"


def _read(path: str) -> dict[str, list[str]]:
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            text = file.read(MAX_HOSTS_BYTES)
    except OSError:
        return {}
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split()[:64] or [""]
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                socket.inet_pton(family, address)
            except (OSError, ValueError):  # the second for a NUL
                continue
            for name in names:
                found.setdefault(name.lower().removesuffix("."), []).append(address)
    return found
