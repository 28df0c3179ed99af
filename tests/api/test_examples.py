"""The examples and the demo, run as users run them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import complaints

from iroh_fast import CustomAddr, SecretKey

ROOT = Path(__file__).resolve().parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error::ResourceWarning"}
TIMEOUT_S = 90


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], env=ENV, capture_output=True, text=True, timeout=TIMEOUT_S
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("echo", ["copied 13 byte(s)", "got back: Hello, world!"]),
        ("datagrams", ["bytes fit into a datagram", "median"]),
        ("router", ["upper: HELLO", "count: 3", "enough (code 42)", "shutting down"]),
        ("zero_copy", ["64 MiB in"]),
        ("in_memory", ["1000000 bytes there and back in packets of 16384 bytes, without a socket"]),
    ],
)
def test_example_runs_clean(name: str, expected: list[str]) -> None:
    result = run(str(ROOT / "examples" / f"{name}.py"))
    assert result.returncode == 0, result.stderr
    assert complaints(result.stderr) == ""
    for text in expected:
        assert text in result.stdout


def test_example_transfer_between_two_processes(tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "transfer.py")
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(random.Random(5).randbytes(5_000_001))
    with subprocess.Popen(
        [sys.executable, script, "send", str(source)],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as sender:
        try:
            assert sender.stdout is not None
            ticket = sender.stdout.readline().strip()
            assert ticket.startswith("endpoint")
            result = run(script, "receive", ticket, str(target))
            assert result.returncode == 0, result.stderr
            assert "100 %" in result.stderr
            _, errors = sender.communicate(timeout=TIMEOUT_S)
        finally:
            if sender.poll() is None:
                sender.kill()
    assert sender.returncode == 0, errors
    assert (
        hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
    )


@contextlib.contextmanager
def started(*args: str) -> Iterator[Callable[[str], re.Match[str]]]:
    """A program that runs until the end of the block, and what waits for a line of it."""
    with subprocess.Popen(
        [sys.executable, *args],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:

        def line(pattern: str) -> re.Match[str]:
            assert process.stdout is not None
            seen = ""
            for text in process.stdout:
                seen += text
                if found := re.search(pattern, text):
                    return found
            raise AssertionError(seen)

        try:
            yield line
        finally:
            process.kill()


def test_example_by_key_finds_the_other_by_its_id_alone(tmp_path: Path) -> None:
    """As in the README, on free ports."""
    relay = tmp_path / "relay.py"
    relay.write_text(
        "import asyncio\n"
        "from iroh_fast.relay import RelayServer, RelayServerConfig\n"
        "from iroh_fast.dns_server import DnsServer, DnsServerConfig\n"
        "async def main():\n"
        "    async with (RelayServer(RelayServerConfig.dev()) as relay,\n"
        "                DnsServer(DnsServerConfig.dev()) as dns):\n"
        "        print('at', relay.url, dns.pkarr_url, *dns.dns_addr, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    script = str(ROOT / "examples" / "by_key.py")
    with started(str(relay)) as servers:
        url, pkarr, host, port = servers("^at (.*)$")[1].split()
        where = ["--relay", url, "--pkarr", pkarr, "--dns", f"{host}:{port}"]
        with started(script, *where, "serve") as serving:
            id = serving("^[0-9a-f]{64}$")[0]
            result = run(script, *where, "dial", id, "hello")
            assert result.returncode == 0, result.stderr
            assert complaints(result.stderr) == ""
            shown, known, *punched = result.stdout.splitlines()
            assert (shown, known) == ("HELLO", f"relay:{url} dns")
            # They may be direct before the answer is there.
            assert all(re.fullmatch(r"ip:\S+ connection", line) for line in punched)
            assert serving("says: (.*)$")[1] == "'hello'"
            nobody = run(script, *where, "dial", str(SecretKey.generate().public), "hello")
            assert nobody.returncode == 1
            assert "'dns' failed" in nobody.stderr and "Traceback" not in nobody.stderr


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs UNIX sockets")
def test_example_unix_socket_reaches_the_other_process(tmp_path: Path) -> None:
    script, path = str(ROOT / "examples" / "unix_socket.py"), str(tmp_path / "s")
    with started(script, "serve", path) as serving:
        ticket = serving("^endpoint[a-z2-7]+$")[0]
        result = run(script, "dial", ticket, "hello")
        assert result.returncode == 0, result.stderr
        assert complaints(result.stderr) == ""
        where = CustomAddr(0x554E4958, os.fsencode(path))
        assert result.stdout.splitlines() == ["HELLO", f"over {where}"]
        taken = run(script, "serve", path)
        assert taken.returncode == 1
        assert "UnixTransport cannot be bound" in taken.stderr and "Traceback" not in taken.stderr


def test_demo_transfers_and_compares() -> None:
    result = run("-m", "iroh_fast", "demo", "--size", "8")
    assert result.returncode == 0, result.stderr
    assert "echo: 'Hello, world!'" in result.stdout
    assert "network: 8 MiB" in result.stdout
    assert "equal on both sides" in result.stdout
    assert result.stdout.endswith("done\n")


def test_demo_fails_with_a_message_when_the_peer_hashes_something_else(tmp_path: Path) -> None:
    # The second process runs with a broken hash.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if '--serve' in sys.orig_argv:\n"
        "    import iroh_fast.cli.demo as demo\n"
        "    async def wrong(path):\n"
        "        return '0' * 64, 1.0\n"
        "    demo._hash_file = wrong\n"
    )
    env = {**ENV, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ENV['PYTHONPATH']}"}
    result = subprocess.run(
        [sys.executable, "-m", "iroh_fast", "demo", "--size", "1"],
        env=env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert result.returncode == 1
    assert complaints(result.stderr).startswith("demo failed: sha256 of the file is")
    assert "done" not in result.stdout


def test_demo_fails_when_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("-m", "iroh_fast", "demo", "--size", str(2**40))
    assert result.returncode == 1
    assert "demo failed" in result.stderr
    assert "MiB are needed" in result.stderr


def test_info_prints_json() -> None:
    result = run("-m", "iroh_fast", "info")
    assert result.returncode == 0, result.stderr
    info = json.loads(result.stdout)
    assert info["crypto"]["suites"]["aes-128-gcm"] in ("openssl", "ipsec-mb")
    assert set(info["socket"]) >= {"gso", "gro"}


def test_command_line_mistakes_explain_themselves() -> None:
    assert run("-m", "iroh_fast").returncode == 2
    assert "at least 1" in run("-m", "iroh_fast", "demo", "--size", "0").stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a file that is always full")
def test_command_whose_output_cannot_be_written_says_so_in_a_line() -> None:
    info = [sys.executable, "-m", "iroh_fast", "info"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(info, env=ENV, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1
    assert result.stderr == "cannot write the output: No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(info, env=ENV, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
@pytest.mark.parametrize(("name", "statuses"), [("SIGINT", {130, -2}), ("SIGTERM", {143})])
def test_demo_ends_by_a_signal_and_leaves_nothing(
    tmp_path: Path, name: str, statuses: set[int]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "iroh_fast", "demo", "--size", "4000"],
        env={**ENV, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()  # it is under way
    os.killpg(process.pid, getattr(signal, name))
    rest, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode in statuses
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
