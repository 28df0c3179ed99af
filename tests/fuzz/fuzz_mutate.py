"""Deterministic mutations of byte strings: the same seed and index give the same case."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

INTERESTING_BYTES = (0x00, 0x01, 0x02, 0x07, 0x08, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xC0, 0xFE, 0xFF)
# Edges of QUIC varints, of the 16 and 24 bit lengths of TLS and of machine integers.
INTERESTING_NUMBERS = (
    *(0, 1, 2, 8, 20, 21, 63, 64, 255, 256, 1199, 1200, 1452, 16_383, 16_384, 65_535, 65_536),
    *(2**24 - 1, 2**30 - 1, 2**30, 2**31, 2**32 - 1, 2**32, 2**60, 2**60 + 1, 2**62 - 1),
)
MAX_BYTES = 40_000


def varint(value: int, least: int = 0) -> bytes:
    """Encode a QUIC varint with at least 1 << `least` bytes."""
    for power, limit in enumerate((1 << 6, 1 << 14, 1 << 30, 1 << 62)):
        if power >= least and value < limit:
            size = 1 << power
            return (value | power << (8 * size - 2)).to_bytes(size, "big")
    raise ValueError(value)


def _position(random: Random, data: bytearray) -> int:
    """Any index, the front more often: there are the headers."""
    if random.random() < 0.3:
        return random.randrange(min(len(data), 40))
    return random.randrange(len(data))


def mutate_once(random: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Change `data` in place."""
    if not data:
        data += random.randbytes(random.choice((1, 4, 20)))
        return
    kind = random.randrange(11)
    at = _position(random, data)
    if kind == 0:
        data[at] ^= 1 << random.randrange(8)
    elif kind == 1:
        data[at] = random.choice(INTERESTING_BYTES)
    elif kind == 2:
        data[at] = random.randrange(256)
    elif kind == 3:
        data[at] = (data[at] + random.choice((-1, 1))) % 256
    elif kind == 4:  # cut the end
        del data[at:]
    elif kind == 5:  # remove a piece
        del data[at : at + random.choice((1, 2, 4, 8, 32))]
    elif kind == 6:  # put something in
        data[at:at] = random.randbytes(random.choice((1, 2, 4, 16)))
    elif kind == 7:  # repeat a piece
        piece = data[at : at + random.choice((1, 8, 64, 400))]
        data[at:at] = piece * random.choice((1, 2, 20))
    elif kind == 8:  # a number of another size
        value = varint(random.choice(INTERESTING_NUMBERS), random.randrange(4))
        data[at : at + random.choice((0, 1, 2, 4, 8))] = value
    elif kind == 9:  # a length of 16 or 24 bits
        size = random.choice((2, 3))
        value = random.choice(INTERESTING_NUMBERS) % 256**size
        data[at : at + size] = value.to_bytes(size, "big")
    else:  # a piece of another seed
        other = random.choice(corpus)
        start = random.randrange(len(other) + 1)
        piece = other[start : start + random.choice((1, 8, 64, 2000))]
        data[at : at + random.choice((0, len(piece)))] = piece
    del data[MAX_BYTES:]


def mutate(random: Random, corpus: Sequence[bytes]) -> bytes:
    """Take a seed and change it 0 to 8 times, few times more often."""
    data = bytearray(random.choice(corpus))
    if random.random() < 0.02:
        return bytes(data)
    for _ in range(1 + min(int(random.expovariate(0.6)), 7)):
        mutate_once(random, data, corpus)
    return bytes(data)


def case(name: str, seed: int, index: int, corpus: Sequence[bytes]) -> bytes:
    """Return the input number `index` of a target."""
    return mutate(Random(f"{name}:{seed}:{index}"), corpus)
