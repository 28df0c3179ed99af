"""The crypto library fails (in practice: memory is short): no packet leaves that was not sealed.

A small library that goes before OpenSSL and intel-ipsec-mb in the process lets one function fail on demand. It is
compiled here and loaded into a child process, which runs this file.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from sim import Datagram, Pair

from iroh_fast import _crypto
from iroh_fast.quic._admission import QuicIncoming
from iroh_fast.quic._connection import QuicConnection

SECRET = b"the password is hunter2; " * 10
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
const char *volatile failing;
static int fails(const char *name) { return failing != 0 && strcmp(failing, name) == 0; }
static void *find(const char *name) {
    char *paths = strdup(getenv("SHIM_BEFORE")), *path = strtok(paths, ":");
    void *found = 0;
    for (; path && !found; path = strtok(0, ":")) found = dlsym(dlopen(path, RTLD_NOW), name);
    if (!found) abort();
    return found;
}
#define FORWARD(result, failure, name, params, args)    \
    result name params {                                \
        static result(*real) params;                    \
        if (fails(#name)) return failure;               \
        if (!real) real = (result(*) params)find(#name); \
        return real args;                               \
    }
FORWARD(void *, 0, EVP_CIPHER_CTX_new, (void), ())
FORWARD(int, 0, EVP_EncryptInit_ex2, (void *c, void *t, void *k, void *i, void *p), (c, t, k, i, p))
FORWARD(int, 0, EVP_EncryptUpdate, (void *c, void *o, int *l, void *i, int n), (c, o, l, i, n))
FORWARD(int, 0, EVP_EncryptFinal_ex, (void *c, void *o, int *l), (c, o, l))
FORWARD(int, 0, EVP_CIPHER_CTX_get_params, (void *c, void *p), (c, p))
FORWARD(int, 0, EVP_DecryptInit_ex2, (void *c, void *t, void *k, void *i, void *p), (c, t, k, i, p))
FORWARD(int, 0, EVP_MAC_init, (void *c, void *k, unsigned long n, void *p), (c, k, n, p))
FORWARD(int, 2025, imb_get_errno, (void *m), (m))
"""

SEALING = [
    "EVP_EncryptInit_ex2",
    "EVP_EncryptUpdate",
    "EVP_EncryptFinal_ex",
    "EVP_CIPHER_CTX_get_params",
]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="puts a library before another with LD_PRELOAD"
)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that fails on demand."""
    compiler = shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) or shutil.which(
        "cc"
    )
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("shim")
    source, library = folder / "failing.c", folder / "failing.so"
    source.write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def libraries() -> str:
    """Where the functions really are: what this process has loaded, the extension's own libraries first."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split()[-1] for line in lines if "libcrypto" in line or "IPSec_MB" in line}
    return ":".join(sorted(paths, key=lambda path: "iroh_fast" not in path))


def run_child(shim: Path, scenario: str, function: str, backend: str) -> str:
    """Run one scenario of this file in a child; what it printed last."""
    preload = f"{os.environ.get('LD_PRELOAD', '')} {shim}".strip()
    done = subprocess.run(
        [sys.executable, __file__, scenario, function],
        env={
            **os.environ,
            "LD_PRELOAD": preload,
            "IROH_FAST_CRYPTO": backend,
            "SHIM_BEFORE": libraries(),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("function", SEALING)
def test_packet_that_cannot_be_sealed_stays(shim: Path, function: str) -> None:
    assert run_child(shim, "seal", function, "openssl") == "closed 1, sent 0, readable 0"


def test_refusal_of_ipsec_mb_is_noticed(shim: Path) -> None:
    if "ipsec-mb" not in _crypto.backend()["available"]:
        pytest.skip("ipsec-mb is not built in, or not for this CPU")
    assert run_child(shim, "seal", "imb_get_errno", "ipsec-mb") == "closed 1, sent 0, readable 0"


def test_new_key_without_sealing_state(shim: Path) -> None:
    assert (
        run_child(shim, "update", "EVP_CIPHER_CTX_new", "openssl") == "closed 1, sent 0, readable 0"
    )


def test_key_that_cannot_be_made(shim: Path) -> None:
    """During the handshake: the connection ends, and tells it under the keys that it has."""
    assert run_child(shim, "handshake", "EVP_MAC_init", "openssl") == "closed 1, sent 1, readable 0"


def test_handshake_that_cannot_be_sealed(shim: Path) -> None:
    assert (
        run_child(shim, "handshake", "EVP_EncryptInit_ex2", "openssl")
        == "closed 1, sent 0, readable 0"
    )


def test_dial_without_keys(shim: Path) -> None:
    assert run_child(shim, "dial", "EVP_MAC_init", "openssl") == "MemoryError, sent 0, readable 0"


@pytest.mark.parametrize("function", ["EVP_EncryptInit_ex2", "EVP_MAC_init", "EVP_EncryptUpdate"])
def test_answers_without_a_connection(shim: Path, function: str) -> None:
    """Refusing and Retry need keys too."""
    assert run_child(shim, "refuse", function, "openssl") == "MemoryError, sent 0, readable 0"


def test_retry_without_integrity_tag(shim: Path) -> None:
    assert (
        run_child(shim, "retry", "EVP_EncryptInit_ex2", "openssl")
        == "MemoryError, sent 0, readable 0"
    )


@pytest.mark.parametrize("function", ["EVP_DecryptInit_ex2", "EVP_EncryptUpdate"])
def test_packet_that_cannot_be_opened_is_lost(shim: Path, function: str) -> None:
    """A failure of ours says nothing about the packet: it counts as lost, and the data arrives in the end."""
    assert run_child(shim, "open", function, "openssl") == "closed None, data arrived"


# ---------------------------------------------------------------- in the child


def after_the_handshake(pair: Pair, update: bool) -> tuple[str, list[Datagram]]:
    client, _ = pair.connect()
    if update:
        client.force_key_update()
    client.open_stream(False).write(SECRET)  # type: ignore[union-attr]
    return fail_for_a_while(pair, client)


def during_the_handshake(pair: Pair) -> tuple[str, list[Datagram]]:
    client = pair.dial()
    while not any(d.has("handshake") for d in pair.server.sent):
        pair.step()
    return fail_for_a_while(pair, client)


def fail_for_a_while(pair: Pair, client: QuicConnection) -> tuple[str, list[Datagram]]:
    mark = len(pair.client.sent)
    failing.value = function.encode()
    for _ in range(20):
        pair.step()
    return f"closed {client.close_reason and client.close_reason.code}", pair.client.sent[mark:]


def dialing(pair: Pair) -> tuple[str, list[Datagram]]:
    failing.value = function.encode()
    try:
        pair.dial()
    except MemoryError as e:
        return type(e).__name__, pair.client.sent
    return "dialed", pair.client.sent


def answering(pair: Pair, how: str) -> tuple[str, list[Datagram]]:
    waiting: list[QuicIncoming] = []
    pair.server.endpoint.on_incoming = waiting.append
    pair.dial()
    while not waiting:
        pair.step()
    failing.value = function.encode()
    try:
        getattr(waiting[0], how)()
        end = how
    except MemoryError as e:
        end = type(e).__name__
    pair.flush()
    return end, pair.server.sent


def opening(pair: Pair) -> str:
    client, server = pair.connect()
    client.open_stream(False).write(SECRET)  # type: ignore[union-attr]
    pair.flush()
    before = server.stats()["udp_rx"]["datagrams"]
    failing.value = function.encode()
    while server.stats()["udp_rx"]["datagrams"] == before:
        pair.step()
    failing.value = None
    got, stream = b"", None
    while got != SECRET and server.close_reason is None:
        pair.step()
        stream = stream or server.accept_stream(False)
        if stream is not None:
            got += stream.read(1000) or b""
    return f"closed {server.close_reason}, data {'arrived' if got == SECRET else 'missing'}"


def main(scenario: str) -> str:
    pair = Pair(1)
    if scenario == "open":
        return opening(pair)
    if scenario in ("seal", "update"):
        end, left = after_the_handshake(pair, scenario == "update")
    elif scenario == "handshake":
        end, left = during_the_handshake(pair)
    elif scenario == "dial":
        end, left = dialing(pair)
    else:
        end, left = answering(pair, scenario)
    readable = sum(any(w in d.data for w in (b"hunter2", b"sim/1", b"encrypted")) for d in left)
    return f"{end}, sent {len(left)}, readable {readable}"


if __name__ == "__main__":
    failing = ctypes.c_char_p.in_dll(ctypes.CDLL(None), "failing")
    function = sys.argv[2]
    print(main(sys.argv[1]), flush=True)
    os._exit(0)  # whatever still fails at the end is of no interest
