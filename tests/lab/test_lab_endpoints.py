"""Endpoints of this package, and the real peer, at the ends of a link that loses packets."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab import LinkConfig, LinkLab, missing
from tests.lab.lab import Node
from tests.lab.ours import ALPN

ROOT = Path(__file__).parents[2]
SIZE = 1_000_000
#: Two in a hundred are lost both ways, and the queue is too short for a slow start.
LOSSY = LinkConfig(rate=50, delay=10, loss=0.02, queue=100)

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True, scope="module")
def lab_is_possible() -> None:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)


def ours(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.lab.ours", *arguments]


def serve(node: Node) -> dict[str, Any]:
    """Start an endpoint that echoes; its id and sockets."""
    child = node.popen(
        ours("serve", node.ip4), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    facts: dict[str, Any] = json.loads(child.stdout.readline())
    return facts


def dial(node: Node, peer: dict[str, Any]) -> dict[str, Any]:
    """Connect to an endpoint that echoes and compare what comes back."""
    address = peer["sockets"][0]
    done = node.run(
        ours("dial", node.ip4, peer["id"], address, str(SIZE)),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=True,
    )
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def check_traffic(lab: LinkLab) -> None:
    stats = lab.stats()
    for way in (stats.there, stats.back):
        assert way.delivered_bytes > SIZE and way.dropped["loss"] > 0
    assert stats.failed == 0


def test_endpoints_exchange_data_over_a_lossy_link() -> None:
    with LinkLab(LOSSY, seed=1) as lab:
        peer = serve(lab.right)
        result = dial(lab.left, peer)
        assert result["small"] and result["large"] and result["lost"] > 0
        check_traffic(lab)


@pytest.mark.interop
@pytest.mark.skipif(
    importlib.util.find_spec("iroh") is None, reason="the iroh package is not installed"
)
@pytest.mark.parametrize("dials", [True, False], ids=["dialling", "accepting"])
async def test_real_peer_exchanges_data_over_a_lossy_link(dials: bool) -> None:
    from tests.interop.peer_client import PeerProcess

    with LinkLab(LOSSY, seed=2) as lab:
        async with await PeerProcess.launch(within=lab.right.command([])) as real:
            made = await real.call("bind", addr=f"{lab.right.ip4}:0", alpns=[ALPN.hex()])
            if dials:
                await real.call("serve", ep=made["ep"])
                result = await asyncio.to_thread(dial, lab.left, made)
                assert result["small"] and result["large"]
            else:
                peer = await asyncio.to_thread(serve, lab.left)
                facts = await real.call(
                    "connect", ep=made["ep"], id=peer["id"], addrs=peer["sockets"], alpn=ALPN.hex()
                )
                conn = facts["conn"]
                assert await real.call("echo_client", conn=conn, streams=1, size=SIZE, seed=3) == 1
                await real.call("close", conn=conn)
            check_traffic(lab)
