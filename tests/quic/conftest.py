"""Fixtures of the simulated pairs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from impostor import Impostor
from sim import Pair

from iroh_fast.quic._connection import QuicConnection

# These drive the core's structures through models, which a checkout installs and a release does not: the wheel under
# test has none.
if (
    importlib.util.find_spec("iroh_fast.quic._models") is None
    and not (Path(__file__).parents[2] / "setup.py").exists()
):
    collect_ignore = [
        *("test_buffers.py", "test_congestion.py", "test_controllers.py", "test_mtud.py"),
        *("test_hostile_acks.py", "test_pacing.py", "test_received.py", "test_sent.py"),
        # What runs over an emulated link.
        *("test_bbr.py", "test_hystart.py", "test_reordering.py", "test_shares.py"),
    ]


@pytest.fixture
def make_pair() -> Iterator[Callable[..., Pair]]:
    """Make simulated pairs; afterwards they must shut down without a trace."""
    pairs: list[Pair] = []

    def make(*args: object, **options: object) -> Pair:
        pair = Pair(*args, **options)  # type: ignore[arg-type]
        pairs.append(pair)
        return pair

    yield make
    try:
        for pair in pairs:
            print(f"--- trace of the pair with seed {pair.seed}")
            print("\n".join(pair.trace))
            pair.finish()
    finally:
        for pair in pairs:
            pair.close()


@pytest.fixture
def hostile(make_pair: Callable[..., Pair]) -> Callable[..., tuple[Pair, QuicConnection, Impostor]]:
    """A pair, the connection of its honest side, and the impostor in the place of the other."""

    def make(
        as_client: bool = True, prepare: Callable[..., object] | None = None, **options: object
    ) -> tuple[Pair, QuicConnection, Impostor]:
        lines: list[str] = []
        options["client_options"] = {**options.get("client_options", {}), "keylog": lines.append}  # type: ignore[dict-item]
        pair = make_pair(**options)
        client, server = pair.connect()
        if prepare is not None:
            prepare(pair, client, server)
        return pair, server if as_client else client, Impostor(pair, lines, as_client)

    return make
