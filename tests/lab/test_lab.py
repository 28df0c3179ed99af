"""The lab of two namespaces does what it says: counts and orders, no times but the least that physics allows."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import LabError, LinkConfig, LinkLab, missing
from tests.lab.lab import Node
from tests.lab.namespaces import NAMED, PREFIX, ip

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.lab

# 33 and 32 are SO_RCVBUFFORCE and SO_SNDBUFFORCE, for which Python has no names.
# Runs at one end: takes datagrams, tells what it got as (number, ECN) until one is empty, from `echo` back.
RECEIVER = """
import json, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1) if ":" in sys.argv[1] else \\
    s.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
s.bind((sys.argv[1], 7))
print("ready", flush=True)
got = []
while True:
    data, extra, flags, peer = s.recvmsg(70000, 100)
    if not data:
        break
    if sys.argv[2:] == ["echo"]:
        s.sendto(data, peer)
    got.append((int.from_bytes(data[:4], "big"), extra[0][2][0] & 3))
print(json.dumps(got), flush=True)
"""
# Sends numbered datagrams of a size, `gap` seconds apart; then empty ones, until they can hardly all be lost.
SENDER = """
import socket, sys, time
peer, count, size, gap, ecn = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
six = ":" in peer
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 32, 1 << 24)
s.setsockopt(*((socket.IPPROTO_IPV6, socket.IPV6_TCLASS) if six else (socket.IPPROTO_IP, socket.IP_TOS)), ecn)
s.connect((peer, 7))
for i in range(count):
    s.send(i.to_bytes(4, "big") + bytes(size - 4))
    time.sleep(gap)
time.sleep(0.3)
for _ in range(30):
    try:
        s.send(b"")
    except OSError:  # the other end has heard it
        break
    time.sleep(0.02)
"""
PINGS = """
import json, socket, sys, time
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 7))
times = []
for i in range(10):
    start = time.perf_counter()
    s.send(b"abcd")
    s.recv(100)
    times.append(time.perf_counter() - start)
s.send(b"")
print(json.dumps(times))
"""
SERVER = """
import hashlib, socket, sys
listener = socket.create_server((sys.argv[1], 9))
print("ready", flush=True)
s, _ = listener.accept()
hasher = hashlib.sha256()
while data := s.recv(1 << 16):
    hasher.update(data)
print(hasher.hexdigest(), flush=True)
"""
CLIENT = """
import hashlib, random, socket, sys
data = random.Random(1).randbytes(int(sys.argv[3]))
s = socket.socket()
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, sys.argv[2].encode())
s.connect((sys.argv[1], 9))
s.sendall(data)
print(hashlib.sha256(data).hexdigest())
"""


@pytest.fixture(autouse=True, scope="module")
def lab_is_possible() -> None:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No namespace, process, descriptor or handler of this test process stays behind."""
    before = (own_namespaces(), descriptors(), signal.getsignal(signal.SIGTERM), children())
    yield
    after = (own_namespaces(), descriptors(), signal.getsignal(signal.SIGTERM), children())
    assert after == before


def own_namespaces(pid: int | None = None) -> set[str]:
    return {path.name for path in NAMED.glob(f"{PREFIX}-{pid or os.getpid()}-*")}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def start(node: Node, program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program and wait until it is ready."""
    child = node.popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child


def told(node: Node, program: str, *arguments: str) -> str:
    """Run a program; what it prints."""
    done = node.run(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return str(done.stdout)


def datagrams(
    lab: LinkLab, count: int, size: int = 100, gap: float = 0, ecn: int = 0, *, six: bool = False
) -> list[tuple[int, int]]:
    """Send datagrams from left to right: numbers and ECN bits of those that arrived, in that order."""
    peer = lab.right.ip6 if six else lab.right.ip4
    receiver = start(lab.right, RECEIVER, peer)
    lab.begin()
    told(lab.left, SENDER, peer, *map(str, (count, size, gap, ecn)))
    assert receiver.stdout is not None
    return [(number, bits) for number, bits in json.loads(receiver.stdout.readline())]


# ---------------------------------------------------------------- what passes
@pytest.mark.parametrize("six", [False, True], ids=["v4", "v6"])
def test_round_trip_takes_both_delays(six: bool) -> None:
    with LinkLab(LinkConfig(delay=20), LinkConfig(delay=30)) as lab:
        peer = lab.right.ip6 if six else lab.right.ip4
        start(lab.right, RECEIVER, peer, "echo")
        times = json.loads(told(lab.left, PINGS, peer))
        stats = lab.stats()
    assert len(times) == 10 and min(times) >= 0.05
    assert (stats.there.packets, stats.back.packets) == (11, 10) and stats.failed == 0


def test_ends_have_loopback_and_are_apart() -> None:
    with LinkLab(LinkConfig()) as lab:
        for node in (lab.left, lab.right):
            up = json.loads(node.ip("-j", "addr"))
            assert {a["local"] for device in up for a in device["addr_info"]} == {
                "127.0.0.1", "::1", node.ip4, node.ip6
            }  # fmt: skip
            assert all("UP" in device["flags"] for device in up)
            told(node, "import socket; socket.create_server(('127.0.0.1', 80)).close()")
        assert lab.stats().there.packets == 0  # nothing is said unasked


@pytest.mark.parametrize("algorithm", ["cubic", "bbr"])
def test_tcp_transfer_arrives_whole_and_never_above_the_rate(algorithm: str) -> None:
    size = 3_000_000
    with LinkLab(LinkConfig(rate=50, delay=5, loss=0.002, queue=100), seed=1) as lab:
        server = start(lab.right, SERVER, lab.right.ip4)
        if algorithm == "bbr":
            offered = told(
                lab.left,
                "print(open('/proc/sys/net/ipv4/tcp_available_congestion_control').read())",
            )
            if "bbr" not in offered.split():
                pytest.skip("the kernel has no BBR")
        lab.begin()
        sent = told(lab.left, CLIENT, lab.right.ip4, algorithm, str(size))
        assert server.stdout is not None and server.stdout.readline() == sent
        stats = lab.stats()
        devices = json.loads(lab.left.ip("-j", "-s", "link", "show", "tun0"))
    there = stats.there
    assert there.bytes > size and there.bytes / there.packets <= 1500
    assert there.delivered + there.lost == there.packets
    assert there.lost == there.dropped["loss"] + there.dropped["queue"]
    assert (
        max(there.rates) <= 50 + 1500 * 8 / 1e5
    )  # a packet may begin in the tenth of a second before
    assert stats.failed == 0 and devices[0]["stats64"]["tx"]["dropped"] == 0


@pytest.mark.parametrize("six", [False, True], ids=["v4", "v6"])
def test_losses_are_those_that_were_counted(six: bool) -> None:
    with LinkLab(LinkConfig(delay=3, loss=0.1), LinkConfig(), seed=7) as lab:
        got = datagrams(lab, 2000, six=six)
        stats = lab.stats()
    numbers = [number for number, _ in got]
    assert numbers == sorted(set(numbers)) and 1700 < len(numbers) < 1900
    # The empty ones that end it may be lost, too.
    assert 0 <= stats.there.dropped["loss"] - (2000 - len(numbers)) <= 30
    assert stats.there.lost == stats.there.dropped["loss"]
    assert stats.failed == 0


def test_losses_are_the_same_with_the_same_seed() -> None:
    runs = []
    for seed in (3, 3, 4):
        with LinkLab(LinkConfig(loss=0.2), LinkConfig(), seed=seed) as lab:
            runs.append([number for number, _ in datagrams(lab, 300)])
    assert runs[0] == runs[1] != runs[2]


def test_full_queue_drops_its_tail() -> None:
    with LinkLab(LinkConfig(rate=2, queue=20), LinkConfig()) as lab:
        got = datagrams(lab, 500, 1000)
        stats = lab.stats()
    assert [number for number, _ in got[:20]] == list(range(20))
    assert len(got) < 400 and stats.there.dropped["queue"] >= 500 - len(got)
    assert stats.there.queue_delay_ms(1.0) <= 20 * 1028 * 8 / 2000 * 1.04


@pytest.mark.parametrize("reorder", [False, True])
def test_jitter_changes_the_order_only_when_asked(reorder: bool) -> None:
    with LinkLab(LinkConfig(delay=1, jitter=10, reorder=reorder), LinkConfig(), seed=2) as lab:
        numbers = [number for number, _ in datagrams(lab, 1000)]
        stats = lab.stats()
    assert sorted(numbers) == list(range(1000))
    assert (numbers != sorted(numbers)) == reorder == (stats.there.overtaken > 0)


@pytest.mark.parametrize("six", [False, True], ids=["v4", "v6"])
@pytest.mark.parametrize("ecn", [0, 1, 2])
def test_long_queue_marks_what_can_be_marked(ecn: int, six: bool) -> None:
    with LinkLab(LinkConfig(rate=5, queue=1000, ecn=10), LinkConfig()) as lab:
        got = datagrams(lab, 200, 500, ecn=ecn, six=six)
        stats = lab.stats()
    assert len(got) == 200 and stats.failed == 0
    assert [bits for _, bits in got[:10]] == [ecn] * 10
    marks = sum(bits == 3 for _, bits in got)
    assert marks > 100 if ecn else marks == 0
    assert {bits for _, bits in got} <= {ecn, 3} and stats.there.marked >= marks


def test_outage_counts_from_begin() -> None:
    with LinkLab(LinkConfig(outages=((0, 0.2),)), LinkConfig()) as lab:
        first = datagrams(lab, 200, gap=0.005)
        stats = lab.stats()
        assert 0 < len(first) < 200 and first[-1][0] == 199
        assert stats.there.dropped["outage"] == 200 - len(first) == stats.there.lost


def test_mtu_is_that_of_both_ends() -> None:
    with LinkLab(LinkConfig(), mtu=9000) as lab:
        assert len(datagrams(lab, 3, 8000)) == 3
        stats = lab.stats()
    assert stats.there.bytes // 8028 == 3
    for mtu in (1000, 70_000):
        with pytest.raises(ValueError, match="mtu"):
            LinkLab(LinkConfig(), mtu=mtu)


def test_statistics_begin_anew() -> None:
    with LinkLab(LinkConfig()) as lab:
        datagrams(lab, 50)
        assert lab.stats().there.packets >= 51
        lab.begin()
        assert lab.stats().there.packets == lab.stats().failed == 0


# ---------------------------------------------------------------- the end
def test_processes_end_with_the_lab() -> None:
    with LinkLab(LinkConfig()) as lab:
        child = lab.left.popen(["sh", "-c", "setsid sleep 600 & exec sleep 600"])
        name = lab.left.name
        sleeping = lab.left.popen(["sleep", "600"])
        assert own_namespaces() == {lab.left.name, lab.right.name}
    assert child.returncode == sleeping.returncode == -signal.SIGKILL
    assert not (NAMED / name).exists()
    with pytest.raises(LabError, match="not open"):
        lab.stats()


def test_exception_takes_the_lab_down() -> None:
    with pytest.raises(ZeroDivisionError), LinkLab(LinkConfig()):
        raise ZeroDivisionError


def test_lab_that_fails_to_open_leaves_nothing() -> None:
    with pytest.raises(LabError, match="sysctl"):
        LinkLab(LinkConfig(), sysctls={"ipv4.no_such_thing": "1"}).__enter__()


def test_several_labs_are_open_at_once() -> None:
    with LinkLab(LinkConfig()) as one, LinkLab(LinkConfig(loss=1)) as other:
        assert len(datagrams(one, 10)) == 10
        assert len({n.name for lab in (one, other) for n in (lab.left, lab.right)}) == 4
        assert other.stats().there.packets == 0


def test_many_labs_one_after_another_leave_nothing() -> None:
    devices = json.loads(ip("-j", "link"))
    before = own_namespaces(), descriptors(), children()
    for number in range(100 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 5):
        with contextlib.suppress(ZeroDivisionError), LinkLab(LinkConfig(loss=0.5)) as lab:
            lab.left.popen(["sleep", "600"], stdout=subprocess.PIPE)
            lab.right.run(["true"], check=True)
            _ = 1 // (number % 3)
        assert (own_namespaces(), descriptors(), children()) == before
    # Others may have come and gone meanwhile; a device of ours is in no namespace of ours.
    names = {device["ifname"] for device in json.loads(ip("-j", "link"))}
    assert "tun0" not in names - {device["ifname"] for device in devices}


HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from tests.lab import LinkConfig, LinkLab
with LinkLab(LinkConfig()) as lab:
    lab.left.popen(["sleep", "600"])
    print("ready", flush=True)
    time.sleep(600)
"""


def holder() -> subprocess.Popen[str]:
    """A process that keeps a lab open."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(ROOT)],
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    assert len(own_namespaces(child.pid)) == 2
    return child


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_signal_takes_the_lab_down(how: signal.Signals) -> None:
    with holder() as child:
        child.send_signal(how)
        assert child.wait() != 0
        assert own_namespaces(child.pid) == set()


def test_what_a_killed_process_left_is_removed_by_the_next() -> None:
    with holder() as child:
        child.kill()
        child.wait()
        with LinkLab(LinkConfig()):
            assert own_namespaces(child.pid) == set()


# ---------------------------------------------------------------- the command
def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.lab", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_runs_between_both_ends_and_tells_what_happened() -> None:
    serve = f"{sys.executable} -m http.server --bind ::"
    fetch = "import os, urllib.request as u; print(u.urlopen(f'http://{os.environ[\"LAB_PEER\"]}:8000/setup.py').read().decode())"
    done = command(
        "link", "--rate", "100", "--delay", "5", "--loss", "0.01", "--burst-loss", "0.01:3", "--back", "rate=10",
        "--outage", "60:1", "--step", "60:5", "--queue", "500", "--serve", serve, "--", sys.executable, "-c", fetch,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "setup.py").read_text() + "\n"
    assert "packets arrived" in done.stderr and "wire" in done.stderr


def test_command_gives_its_status() -> None:
    assert command("link", "--", "sh", "-c", "exit 7").returncode == 7
    assert command("link", "--", "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["link"], 2, "a command is missing"),
        (["link", "--rate", "fast", "--", "true"], 2, "--rate"),
        (["link", "--rate", "0", "--", "true"], 2, "rate=0.0 is not between"),
        (["link", "--outage", "3", "--", "true"], 2, "START:LENGTH"),
        (["link", "--burst-loss", "0.5:x", "--", "true"], 2, "FRACTION:LENGTH"),
        (["link", "--back", "speed=1", "--", "true"], 2, "speed=1"),
        (["link", "--back", "rate=x", "--", "true"], 2, "no number"),
        (["link", "--mtu", "9", "--", "true"], 1, "mtu=9"),
        (["link", "--", "no-such-command"], 127, "no-such-command"),
        (["link", "--serve", "false", "--", "true"], 1, "ended with status 1"),
        ([], 2, "usage"),
    ],
)
def test_command_that_cannot_work_says_why(arguments: list[str], status: int, message: str) -> None:
    done = command(*arguments)
    assert done.returncode == status and message in done.stderr and "Traceback" not in done.stderr


def test_wire_that_could_not_be_made_closes_nothing() -> None:
    pytest.importorskip("tests.lab._wire", reason="the loop between TUN devices is of Linux")
    program = """
import os
from tests.lab import LinkConfig
from tests.lab._link import Link
from tests.lab._wire import Wire
try:
    Wire(0, 0, 0, Link(LinkConfig(), 0), None)
except TypeError:
    os.fstat(0)
    print("still open")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == "still open\n", done.stderr


def test_machine_without_root_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in (missing() or "")
    with pytest.raises(LabError, match="root"), LinkLab(LinkConfig()):
        pass
