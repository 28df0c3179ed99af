"""Data that both processes of an interop test can make from a seed and a size."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from functools import lru_cache

# A prime: no packet, window or chunk size divides it, so that a piece which is lost, doubled
# or put in another place changes the hash.
PERIOD = 1_048_573


@lru_cache(maxsize=4)
def block(seed: int, period: int = PERIOD) -> bytes:
    """Two periods of the sequence, so that a slice never wraps."""
    once = random.Random(seed).randbytes(period)
    return once + once


def chunks(seed: int, size: int, step: int = 256 * 1024) -> Iterator[bytes]:
    """Yield the first `size` bytes of sequence `seed` in pieces of at most `step` bytes."""
    period = min(PERIOD, max(size, 1))
    step = min(step, period)
    source = block(seed, period)
    offset = done = 0
    while done < size:
        n = min(step, size - done)
        yield source[offset : offset + n]
        done += n
        offset = (offset + n) % period


def data(seed: int, size: int) -> bytes:
    """Return the first `size` bytes of sequence `seed` at once."""
    return b"".join(chunks(seed, size))


def digest(pieces: Iterator[bytes] | list[bytes]) -> str:
    """Hash pieces of data as one."""
    hasher = hashlib.blake2b(digest_size=32)
    for piece in pieces:
        hasher.update(piece)
    return hasher.hexdigest()
