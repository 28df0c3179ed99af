"""Fixtures of the simulated pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sim import Pair


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
