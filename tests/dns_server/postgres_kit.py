"""A PostgreSQL server of the tests' own, as a user without rights, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


class CannotRun(Exception):
    """Why there is no server here."""


def binaries() -> Path:
    """The folder of `initdb` and `postgres`: on PATH, or where Debian has them."""
    found = [Path(path).resolve().parent for name in ("postgres",) if (path := shutil.which(name))]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in found:
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_ctl")):
            return folder
    raise CannotRun("PostgreSQL is not installed (apt install postgresql)")


def identity() -> dict[str, object]:
    """As whom to run it: PostgreSQL refuses to be root."""
    if sys.platform == "win32":
        raise CannotRun("not on Windows")
    if os.geteuid() != 0:
        return {}
    import pwd

    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise CannotRun("root has no other user to run PostgreSQL as")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Postgres:
    """A server on 127.0.0.1.

    Parameters
    ----------
    template : folder of data that `initdb` made, to be copied: that takes less long.
    settings : of ``postgresql.conf``; by default it does not wait for the disk, which changes nothing
        for what processes can do to each other.
    """

    def __init__(self, template: Path | None = None, **settings: str) -> None:
        self._bin = binaries()
        self._identity = identity()
        self.folder = Path(tempfile.mkdtemp(prefix="iroh-fast-pg-"))
        if self._identity:
            os.chown(self.folder, self._identity["user"], self._identity["group"])
        self.data = self.folder / "data"
        self.port = free_port()
        self._settings = {"fsync": "off", "max_connections": "60", **settings}
        self._process: subprocess.Popen[bytes] | None = None
        if template is None:
            self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust",
                      "-E", "UTF8", "--locale=C", "--no-sync")  # fmt: skip
        else:
            self._run("cp", "-a", str(template), str(self.data))

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [name if name == "cp" else str(self._bin / name), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            **self._identity,
        )
        if done.returncode:
            raise CannotRun(f"{name}: {done.stdout.decode(errors='replace').strip()[-300:]}")

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder),
                   "port": str(self.port), **self._settings}  # fmt: skip
        command = [str(self._bin / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, **self._identity
            )
        end = time.monotonic() + 60
        while time.monotonic() < end and self._process.poll() is None:
            lines = self.postmaster().splitlines()
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return
            time.sleep(0.02)
        raise CannotRun((self.folder / "log").read_text(errors="replace")[-300:])

    def postmaster(self) -> str:
        """What the server says of itself, empty while it does not run."""
        try:
            return (self.data / "postmaster.pid").read_text()
        except FileNotFoundError:
            return ""

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT: all processes end at once and the log is replayed; SIGINT: in good order."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def create_database(self, name: str) -> str:
        """Make a database; returns its URL."""
        done = subprocess.run(
            [str(self._bin / "createdb"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", name],
            capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def template() -> Iterator[Path]:
    """For fixtures: a folder of data that nobody uses, or the test is skipped with the reason."""
    try:
        server = Postgres()
    except CannotRun as error:
        pytest.skip(f"no PostgreSQL: {error}")
    yield server.data
    server.remove()


def running(data: Path) -> Iterator[Postgres]:
    """For fixtures: a server on a copy of these data, or the test is skipped with the reason."""
    server = Postgres(data)
    try:
        try:
            server.start()
        except CannotRun as error:
            pytest.skip(f"no PostgreSQL: {error}")
        yield server
    finally:
        server.remove()
