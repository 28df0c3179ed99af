"""A DNS server as a child process: ours or the one of iroh, with the same configuration file."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import dns.message
import dns.query

from iroh_fast.web.tls_files import self_signed

from .rust import program

Kind = Literal["ours", "iroh"]
ORIGIN = "irohdns.example."
HOST = "127.0.0.1"


def free_port() -> int:
    """A port that neither TCP nor UDP uses right now."""
    while True:
        with socket.create_server((HOST, 0)) as tcp:
            port: int = tcp.getsockname()[1]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                try:
                    udp.bind((HOST, port))
                except OSError:
                    continue
        return port


def commands(kind: Kind) -> list[str]:
    """What starts a server; skips the test where iroh's was not built."""
    if kind == "iroh":
        return [program("iroh-dns-server")]
    return [sys.executable, "-m", "iroh_fast", "dns-server"]


class DnsServerProcess:
    """A server that keeps its ports and its store when it is started again.

    Parameters
    ----------
    kind : "ours" or "iroh"
    folder : for its configuration and its store.
    rate_limit : as in the configuration.
    dns_port : instead of a free one.
    origin : below which it finds endpoints, besides the root.
    tls : also serve HTTPS, with a certificate of files; `roots` is what to trust.
    """

    def __init__(
        self,
        kind: Kind,
        folder: Path,
        *,
        rate_limit: str = "disabled",
        dns_port: int = 0,
        origin: str = ORIGIN,
        tls: bool = False,
    ) -> None:
        self.kind = kind
        self.origin = origin
        self.http_port, self.dns_port = free_port(), dns_port or free_port()
        self.url = f"http://{HOST}:{self.http_port}"
        self.pkarr = f"{self.url}/pkarr"
        self.nameserver = f"{HOST}:{self.dns_port}"
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.config = folder / "dns-server.toml"
        self.config.write_text(f"""
pkarr_put_rate_limit = "{rate_limit}"
data_dir = "{folder / "data"}"

[http]
port = {self.http_port}
bind_addr = "{HOST}"

[dns]
port = {self.dns_port}
bind_addr = "{HOST}"
default_soa = "dns1.irohdns.example hostmaster.irohdns.example 0 10800 3600 604800 3600"
default_ttl = 30
origins = ["{origin}", "."]
rr_a = "127.0.0.1"
rr_ns = "ns1.irohdns.example."

[metrics]
disabled = true

[mainline]
enabled = false
""")
        if tls:
            self._add_https(folder)

    def _add_https(self, folder: Path) -> None:
        """The certificate is where a server of iroh looks for one."""
        certificate, key = self_signed(("localhost",))
        files = folder / "data" / "cert_cache"
        files.mkdir(parents=True)
        (files / "localhost.crt").write_bytes(certificate)
        (files / "localhost.key").write_bytes(key)
        self.roots = folder / "roots.pem"
        self.roots.write_bytes(certificate)
        port = self.https_port = free_port()
        self.pkarr = f"https://localhost:{port}/pkarr"
        with self.config.open("a") as config:
            config.write(f"""
[https]
port = {port}
bind_addr = "{HOST}"
domains = ["localhost"]
cert_mode = "manual"
""")

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    async def start(self, prefix: Iterable[str] = ()) -> None:
        """Start it, and wait until it answers over both ways.  `prefix` goes before the command."""
        command = [*prefix, *commands(self.kind), "--config", str(self.config)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, "RUST_LOG": "info", "NO_COLOR": "1"},
            )
        if not prefix:  # else it may be where this process cannot ask
            await asyncio.to_thread(self._wait)

    def _wait(self) -> None:
        for _ in range(600):
            if self._process is None or self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/healthz", timeout=1) as answer:
                    answer.read()
                dns.query.udp(
                    dns.message.make_query(self.origin, "SOA"), HOST, 1, port=self.dns_port
                )
            except (OSError, dns.exception.Timeout):
                pass
            else:
                return
            time.sleep(0.05)
        raise AssertionError(f"the server does not answer: {self._log.read_text()[-2000:]}")

    async def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        """End it; its status."""
        assert self._process is not None
        self._process.send_signal(how)
        return await asyncio.to_thread(self._process.wait, 30)

    async def __aenter__(self) -> DnsServerProcess:
        await self.start()
        return self

    async def __aexit__(self, *reason: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def put(self, key: str, payload: bytes) -> tuple[int, str]:
        """PUT a payload for a key in z-base-32: status and text of the answer."""
        return self.request("PUT", f"/pkarr/{key}", payload)

    def get(self, key: str) -> tuple[int, bytes]:
        """GET what is stored for a key: status and body."""
        connection = http.client.HTTPConnection(HOST, self.http_port, timeout=30)
        connection.request("GET", f"/pkarr/{key}")
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    def request(self, method: str, target: str, body: bytes | None = None) -> tuple[int, str]:
        """Any request: status and text of the answer."""
        connection = http.client.HTTPConnection(HOST, self.http_port, timeout=30)
        try:
            connection.request(method, target, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        finally:
            connection.close()
