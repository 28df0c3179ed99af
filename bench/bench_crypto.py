"""Packet protection: cost per packet of each suite and backend, without Python in the loop.

Run: ``pytest bench/bench_crypto.py -o python_files='bench_*.py' -o python_functions='bench_*'``.
Each round covers ``PACKETS`` packets; the table's times are per round, ``extra_info`` (in the JSON)
holds ns per packet and Gbit/s. The rival is `cryptography`, called from Python as aioquic-like code does.
"""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from iroh_fast import _crypto

PACKETS = 5000
SUITES = {"aes128": 0x1301, "aes256": 0x1302, "chacha": 0x1303}
SIZES = [1416, 64]
CASES = [
    pytest.param(suite, backend, id=f"{name}-{backend}")
    for name, suite in SUITES.items()
    for backend in _crypto.backend()["available"]
    if not (name == "chacha" and backend == "ipsec-mb")
]


def keys(suite: int, backend: Any) -> _crypto.PacketProtection:
    secret = bytes(range(48 if suite == 0x1302 else 32))
    return _crypto.PacketProtection(suite, secret, backend=backend)


def note(benchmark: Any, calls: int, size: int = 0) -> None:
    """Store the per-packet numbers of the fastest round."""
    if benchmark.stats is not None:
        ns = benchmark.stats.stats.min / calls * 1e9
        benchmark.extra_info["ns"] = round(ns, 1)
        if size:
            benchmark.extra_info["gbit_s"] = round(size * 8 / ns, 1)


@pytest.mark.benchmark(group="crypto-seal")
@pytest.mark.parametrize("size", SIZES, ids=[f"{n}B" for n in SIZES])
@pytest.mark.parametrize(("suite", "backend"), CASES)
def bench_seal(benchmark: Any, suite: int, backend: str, size: int) -> None:
    benchmark(keys(suite, backend).seal_many, PACKETS, size)
    note(benchmark, PACKETS, size)


@pytest.mark.benchmark(group="crypto-open")
@pytest.mark.parametrize("size", SIZES, ids=[f"{n}B" for n in SIZES])
@pytest.mark.parametrize(("suite", "backend"), CASES)
def bench_open(benchmark: Any, suite: int, backend: str, size: int) -> None:
    """Includes the copy of the sealed packet, because opening destroys it (about 20 ns for 1416 B)."""
    benchmark(keys(suite, backend).open_many, PACKETS, size)
    note(benchmark, PACKETS, size)


@pytest.mark.benchmark(group="crypto-seal")
@pytest.mark.parametrize("size", SIZES, ids=[f"{n}B" for n in SIZES])
@pytest.mark.parametrize("name", SUITES)
def bench_seal_rival_cryptography(benchmark: Any, name: str, size: int) -> None:
    aead: AESGCM | ChaCha20Poly1305
    if name == "chacha":
        aead = ChaCha20Poly1305(bytes(32))
    else:
        aead = AESGCM(bytes(16 if name == "aes128" else 32))
    payload, header = bytes(size), bytes(11)

    def seal() -> None:
        for i in range(PACKETS):
            aead.encrypt(i.to_bytes(12, "big"), payload, header)

    benchmark(seal)
    note(benchmark, PACKETS, size)


@pytest.mark.benchmark(group="crypto-masks")
@pytest.mark.parametrize("batch", [1, 16], ids=["batch1", "batch16"])
@pytest.mark.parametrize("name", SUITES)
def bench_hp_masks(benchmark: Any, name: str, batch: int) -> None:
    benchmark(keys(SUITES[name], None).masks_many, PACKETS, batch)
    note(benchmark, PACKETS * batch)


@pytest.mark.benchmark(group="crypto-keys")
@pytest.mark.parametrize("name", SUITES)
def bench_keys_from_secret(benchmark: Any, name: str) -> None:
    benchmark(_crypto.derive_many, 1000, SUITES[name])
    note(benchmark, 1000)


@pytest.mark.benchmark(group="crypto-keys")
def bench_initial_secrets(benchmark: Any) -> None:
    benchmark(_crypto.initial_secrets, bytes(8))
