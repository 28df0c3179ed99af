"""The N0 preset of iroh and ours, in a network of its own where iroh's names lead to our DNS server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from iroh_fast import SecretKey, _dns
from iroh_fast.lookup import SignedPacket, z32
from tests.lab.namespaces import Namespace, missing

from .dns_server import DnsServerProcess
from .peer_client import PeerError, PeerProcess

REASON = missing()
pytestmark = [
    pytest.mark.lab,
    pytest.mark.interop,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]

BY_KEY = Path(__file__).with_name("by_key.py")
ALPN = b"iroh-fast-by-key/1"
ORIGIN = "dns.iroh.link."
ADDRESS = "127.0.0.1:7000"


@pytest.fixture
def network() -> Iterator[Namespace]:
    """A network without a way out, whose processes ask 127.0.0.1 for names."""
    namespace = Namespace("n0")
    # `ip netns exec` shows these files to the processes in place of those of the system.
    folder = Path("/etc/netns", namespace.name)
    try:
        folder.mkdir(parents=True)
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        yield namespace
    finally:
        namespace.close()
        (folder / "resolv.conf").unlink(missing_ok=True)
        folder.rmdir()


@pytest.fixture(params=["ours", "iroh"])
async def server(
    request: pytest.FixtureRequest, network: Namespace, tmp_path: Path
) -> AsyncIterator[DnsServerProcess]:
    running = DnsServerProcess(request.param, tmp_path, dns_port=53, origin=ORIGIN)
    async with running:
        yield running


@pytest.fixture(autouse=True)
def in_the_network(network: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    start = DnsServerProcess.start
    monkeypatch.setattr(DnsServerProcess, "start", lambda self: start(self, network.command([])))


async def ours(network: Namespace, *arguments: str) -> dict[str, Any]:
    """Run one of our programs there to its end; the last thing it says."""
    done = await asyncio.to_thread(
        network.run,
        [sys.executable, BY_KEY, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


async def publish(network: Namespace, server: DnsServerProcess, packet: SignedPacket) -> None:
    url = f"{server.pkarr}/{z32.encode(packet.public_key)}"
    answer = await ours(network, "put", url, packet.relay_payload.hex())
    assert answer == {"status": 204}


async def listen(network: Namespace, secret: SecretKey) -> subprocess.Popen[str]:
    child: subprocess.Popen[str] = network.popen(
        [sys.executable, BY_KEY, "serve", secret.to_hex(), ADDRESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert json.loads(await asyncio.to_thread(child.stdout.readline)) == {"id": str(secret.public)}
    return child


async def test_n0_of_iroh_finds_iroh_by_key_alone(
    network: Namespace, server: DnsServerProcess
) -> None:
    secret = SecretKey.generate()
    packet = SignedPacket.from_txt(secret, "_iroh", [f"addr={ADDRESS}"])
    await publish(network, server, packet)
    async with (
        await PeerProcess.launch(within=network.command([])) as accepting,
        await PeerProcess.launch(within=network.command([])) as dialing,
    ):
        bound = await accepting.call(
            "bind", addr=ADDRESS, alpns=[ALPN.hex()], secret=secret.to_hex()
        )
        await accepting.call("serve", ep=bound["ep"])
        ep = (await dialing.call("bind", n0=True))["ep"]
        conn = await dialing.call("connect", ep=ep, id=bound["id"], addrs=[], alpn=ALPN.hex())
        assert (
            await dialing.call("echo_client", conn=conn["conn"], streams=2, size=5000, seed=1) == 2
        )


async def test_n0_of_iroh_finds_us_by_key_alone(
    network: Namespace, server: DnsServerProcess
) -> None:
    secret = SecretKey.generate()
    # Its value in two strings, which are one text, and as much beside it as fits.
    owner = _dns.name_from_text(f"_iroh.{secret.public:z32}")
    writer = _dns.Writer(flags=0x8000)
    writer.record(
        _dns.ANSWER, owner, 16, 30, b"\x05addr=" + bytes((len(ADDRESS),)) + ADDRESS.encode()
    )
    writer.record(_dns.ANSWER, owner, 16, 30, b"\xfeuser-data=" + b"x" * 244)
    await publish(network, server, SignedPacket.from_dns(secret, writer.finish()))
    await listen(network, secret)
    async with await PeerProcess.launch(within=network.command([])) as dialing:
        ep = (await dialing.call("bind", n0=True))["ep"]
        id = str(secret.public)
        conn = await dialing.call("connect", ep=ep, id=id, addrs=[], alpn=ALPN.hex())
        assert (
            await dialing.call("echo_client", conn=conn["conn"], streams=2, size=5000, seed=1) == 2
        )


async def test_our_n0_finds_iroh_by_key_alone(network: Namespace, server: DnsServerProcess) -> None:
    secret = SecretKey.generate()
    packet = SignedPacket.from_txt(secret, "_iroh", [f"addr={ADDRESS}"])
    await publish(network, server, packet)
    async with await PeerProcess.launch(within=network.command([])) as accepting:
        bound = await accepting.call(
            "bind", addr=ADDRESS, alpns=[ALPN.hex()], secret=secret.to_hex()
        )
        await accepting.call("serve", ep=bound["ep"])
        answer = await ours(network, "dial", bound["id"])
    assert answer == {"id": bound["id"], "echoed": "by key"}


async def test_our_n0_finds_us_by_key_alone(network: Namespace, server: DnsServerProcess) -> None:
    secret = SecretKey.generate()
    packet = SignedPacket.from_txt(secret, "_iroh", [f"addr={ADDRESS}"])
    await publish(network, server, packet)
    await listen(network, secret)
    answer = await ours(network, "dial", str(secret.public))
    assert answer == {"id": str(secret.public), "echoed": "by key"}


async def test_n0_of_iroh_refuses_records_with_an_unknown_key_and_ours_does_not(
    network: Namespace, server: DnsServerProcess
) -> None:
    """Why nothing else may ever be published below _iroh."""
    secret = SecretKey.generate()
    packet = SignedPacket.from_txt(secret, "_iroh", [f"addr={ADDRESS}", "colour=red"])
    await publish(network, server, packet)
    await listen(network, secret)
    async with await PeerProcess.launch(within=network.command([])) as dialing:
        ep = (await dialing.call("bind", n0=True))["ep"]
        with pytest.raises(PeerError):
            await dialing.call("connect", ep=ep, id=str(secret.public), addrs=[], alpn=ALPN.hex())
    answer = await ours(network, "dial", str(secret.public))
    assert answer["echoed"] == "by key"
