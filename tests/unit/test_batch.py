"""Batched UDP on loopback: offloads, marks, addresses and every rule for a refused send."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import select
import socket
import struct
import subprocess
import sys
import threading

import pytest

from iroh_fast._batch import UdpSocket, pump_recv, pump_send

LINUX = sys.platform == "linux"
linux_only = pytest.mark.skipif(not LINUX, reason="the offload or option exists on Linux only")
HOSTS = ["127.0.0.1", "::1"]
WILDCARD = {"127.0.0.1": "0.0.0.0", "::1": "::"}
SO_NO_CHECK = 11  # asm-generic/socket.h
UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX = 101, 102  # linux/udp.h


@pytest.fixture(params=HOSTS, ids=["v4", "v6"])
def host(request):
    return request.param


@pytest.fixture
def make():
    opened = []

    def build(address_host, **options):
        s = UdpSocket.bind((address_host, 0), **options)
        opened.append(s)
        return s

    yield build
    for s in opened:
        s.close()


@pytest.fixture
def pair(host, make):
    return make(host), make(host)


def split(messages):
    """The datagrams inside received messages."""
    return [d[i : i + max(stride, 1)] for d, stride, *_ in messages for i in range(0, max(len(d), 1), max(stride, 1))]


def collect(sock, datagrams, wait_s=2.0):
    """Receive until so many datagrams came; (messages, datagrams as a list)."""
    messages = []
    while len(split(messages)) < datagrams and select.select([sock], [], [], wait_s)[0]:
        messages += sock.recv()
    return messages, split(messages)


def nothing_queued(sock):
    return not select.select([sock], [], [], 0.05)[0] and sock.recv() == []


# --- plain sends and addresses --------------------------------------------------------------------


def test_sendto_single_datagram_arrives_with_source_and_stride(pair, host):
    a, b = pair
    assert a.sendto(b"hello", b.local_address) == 0
    messages, _ = collect(b, 1)
    data, stride, ecn, src, dst_ip = messages[0]
    assert (data, stride, ecn) == (b"hello", 5, 0)
    assert src == a.local_address
    if LINUX:
        assert dst_ip == host


def test_sendto_zero_length_datagram_arrives_empty(pair):
    a, b = pair
    assert a.sendto(b"", b.local_address) == 0
    assert a.sendto(b"x", b.local_address) == 0
    messages, found = collect(b, 2)
    assert sorted(found) == [b"", b"x"]
    empty = next(m for m in messages if m[0] == b"")
    assert empty[1] == 0 and empty[3] == a.local_address
    assert b.stats()["rx_datagrams"] == 2


def test_recv_empty_queue_returns_at_once(pair):
    assert pair[0].recv() == []


def test_recv_more_than_one_call_holds_keeps_order(pair):
    a, b = pair
    sent = [struct.pack("!I", i) * (1 + i % 7) for i in range(40)]
    for data in sent:
        assert a.sendto(data, b.local_address) == 0
    first = b.recv()
    assert 1 <= len(first) <= 16
    found = split(first)
    assert found + collect(b, 40 - len(found))[1] == sent


def test_local_address_matches_the_socket(make):
    v4, v6 = make("127.0.0.1"), make("::1")
    assert v4.local_address == v4.sock.getsockname()
    assert v6.local_address == v6.sock.getsockname()
    assert v4.family == socket.AF_INET and v6.family == socket.AF_INET6
    assert v4.fileno() == v4.sock.fileno()
    assert not v4.sock.getblocking()


def test_sendto_v4_mapped_destination_reaches_a_v4_socket(make):
    a, b = make("127.0.0.1"), make("127.0.0.1")
    port = b.local_address[1]
    assert a.sendto(b"mapped", ("::ffff:127.0.0.1", port, 0, 0)) == 0
    messages, _ = collect(b, 1)
    assert messages[0][0] == b"mapped"
    assert messages[0][3] == a.local_address


@linux_only
def test_dual_stack_socket_talks_to_v4_with_mark_and_source(make):
    a, b = make("::", v6only=False), make("0.0.0.0")
    port = b.local_address[1]
    assert a.sendto(bytes(250), ("127.0.0.1", port), ecn=2, segment=100, src="127.0.0.7") == 0
    messages, found = collect(b, 3)
    assert [len(d) for d in found] == [100, 100, 50]
    assert {(m[2], m[3][0], m[4]) for m in messages} == {(2, "127.0.0.7", "127.0.0.1")}
    assert b.sendto(b"back", ("127.0.0.1", a.local_address[1]), ecn=1) == 0
    (data, _, ecn, src, dst_ip), *_ = collect(a, 1)[0]
    assert (data, ecn, src, dst_ip) == (b"back", 1, ("127.0.0.1", port), "127.0.0.1")


@linux_only
def test_wildcard_socket_reports_the_destination(host, make):
    a, b = make(host), make(WILDCARD[host])
    port = b.local_address[1]
    target = "127.0.0.99" if host == "127.0.0.1" else "::1"
    assert a.sendto(b"to", (target, port)) == 0
    assert collect(b, 1)[0][0][4] == target


@linux_only
def test_sendto_pinned_source_is_what_the_peer_sees(host, make):
    a, b = make(WILDCARD[host]), make(host)
    pinned = "127.0.0.42" if host == "127.0.0.1" else "::1"
    assert a.sendto(b"from", b.local_address, src=pinned) == 0
    assert collect(b, 1)[0][0][3][0] == pinned


def test_sendto_unspecified_source_pins_nothing(host, make):
    a, b = make(WILDCARD[host]), make(host)
    assert a.sendto(b"any", b.local_address, src=WILDCARD[host]) == 0
    assert collect(b, 1)[0][0][3][0] == host


# --- offloads and marks ---------------------------------------------------------------------------


@linux_only
@pytest.mark.parametrize(("segment", "total"), [(1200, 1200 * 10), (1452, 1452 * 44 + 7), (1, 64), (500, 501)])
def test_batch_arrives_as_segments_with_short_tail(pair, segment, total):
    a, b = pair
    assert a.gso and b.gro and a.max_segments == 64
    data = os.urandom(total)
    assert a.sendto(data, b.local_address, segment=segment) == 0
    count = -(-total // segment)
    messages, found = collect(b, count)
    assert found == [data[i : i + segment] for i in range(0, total, segment)]
    # One aggregate shows that both offloads were at work, and the stride is the segment.
    assert len(messages) == 1
    assert messages[0][1] == segment
    sent, got = a.stats(), b.stats()
    assert (sent["tx_calls"], sent["tx_datagrams"], sent["tx_segments"]) == (1, count, count)
    assert (sent["tx_bytes"], got["rx_bytes"]) == (total, total)
    assert (got["rx_datagrams"], got["rx_segments"], got["rx_dropped"]) == (count, count, 0)


@linux_only
def test_batch_to_a_plain_socket_arrives_as_single_datagrams(host, make):
    a = make(host)
    with socket.socket(a.family, socket.SOCK_DGRAM) as plain:
        plain.bind((host, 0))
        plain.settimeout(2)
        data = os.urandom(3100)
        assert a.sendto(data, plain.getsockname(), segment=1000) == 0
        assert [plain.recv(65535) for _ in range(4)] == [data[i : i + 1000] for i in range(0, 3100, 1000)]


@linux_only
def test_batch_beyond_the_segment_limit_is_cut_into_calls(pair):
    a, b = pair
    data = os.urandom(100 * 150 + 1)
    assert a.sendto(data, b.local_address, segment=100) == 0
    _, found = collect(b, 151)
    assert b"".join(found) == data
    assert {len(d) for d in found[:-1]} == {100}
    assert a.stats()["tx_calls"] == 3 and a.stats()["tx_datagrams"] == 151


@linux_only
def test_batch_beyond_the_byte_limit_is_cut_into_calls(pair):
    a, b = pair
    data = os.urandom(70_000)
    assert a.sendto(data, b.local_address, segment=10_000) == 0
    _, found = collect(b, 7)
    assert b"".join(found) == data
    assert a.stats()["tx_calls"] == 2


def test_segment_not_below_length_sends_one_datagram(pair):
    a, b = pair
    assert a.sendto(b"12345", b.local_address, segment=5) == 0
    assert a.sendto(b"12345", b.local_address, segment=60_000) == 0
    assert collect(b, 2)[1] == [b"12345", b"12345"]
    assert a.stats()["tx_segments"] == 0


@linux_only
@pytest.mark.parametrize("ecn", [0, 1, 2, 3])
def test_ecn_mark_is_carried(pair, ecn):
    a, b = pair
    assert a.sendto(b"one", b.local_address, ecn=ecn) == 0
    assert a.sendto(bytes(300), b.local_address, ecn=ecn, segment=100) == 0
    messages, found = collect(b, 4)
    assert len(found) == 4
    assert {m[2] for m in messages} == {ecn}


@linux_only
def test_dont_fragment_is_set(pair, host):
    a, _ = pair
    assert not a.may_fragment
    level, option = (socket.IPPROTO_IP, 10) if host == "127.0.0.1" else (socket.IPPROTO_IPV6, 23)
    assert a.sock.getsockopt(level, option) == 3  # *_MTU_DISCOVER == *_PMTUDISC_PROBE


# --- refused sends --------------------------------------------------------------------------------


def test_oversize_datagram_is_swallowed_and_counted(pair):
    a, b = pair
    assert a.sendto(bytes(65_535), b.local_address) == 0
    stats = a.stats()
    assert (stats["tx_too_big"], stats["tx_datagrams"], stats["tx_errors"]) == (1, 0, 0)
    assert a.last_errno == 0
    assert a.sendto(b"after", b.local_address) == 0
    assert collect(b, 1)[1] == [b"after"]


def refuse_offload(sock):
    """Make the kernel refuse GSO on this socket: it needs checksums, which this turns off."""
    if sock.family == socket.AF_INET:
        sock.sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    else:
        sock.sock.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_TX, 1)


@linux_only
def test_batch_refused_by_the_kernel_is_resent_one_by_one(pair):
    a, b = pair
    refuse_offload(a)
    if b.family == socket.AF_INET6:
        b.sock.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)
    data = os.urandom(950)
    assert a.sendto(data, b.local_address, ecn=2, segment=100) == 0
    messages, found = collect(b, 10)
    assert b"".join(found) == data and len(found) == 10
    assert {m[2] for m in messages} == {2}, "the mark was not to blame"
    assert not a.gso and a.max_segments == 1
    assert a.stats()["tx_segments"] == 0 and a.stats()["tx_datagrams"] == 10
    calls = a.stats()["tx_calls"]
    assert a.sendto(data, b.local_address, segment=100) == 0
    assert a.stats()["tx_calls"] == calls + 10, "the refused batch is not tried again"


@linux_only
def test_source_that_left_the_host_blames_no_feature(make):
    a, b = make("::"), make("::1")
    # EINVAL from the kernel: the pinned address is not ours.
    assert a.sendto(bytes(300), b.local_address, ecn=2, segment=100, src="2001:db8::1") == 0
    assert a.stats()["tx_errors"] == 1 and a.last_errno == errno.EINVAL
    assert a.gso and a.max_segments == 64
    assert a.sendto(bytes(300), b.local_address, ecn=2, segment=100) == 0
    messages, found = collect(b, 3)
    assert len(found) == 3 and len(messages) == 1 and messages[0][2] == 2


@pytest.mark.parametrize(
    ("bind", "target", "src", "expected"),
    [
        ("127.0.0.1", ("127.0.0.1", 0), None, errno.EINVAL),
        ("127.0.0.1", ("::1", 9), None, errno.EAFNOSUPPORT),
        ("127.0.0.1", ("127.0.0.1", 9), "::1", errno.EAFNOSUPPORT),
        ("::1", ("::1", 9), "127.0.0.1", errno.EAFNOSUPPORT),
    ],
    ids=["port-0", "v6-on-v4", "src-v6-dst-v4", "src-v4-dst-v6"],
)
def test_impossible_destination_is_swallowed_without_a_call(make, bind, target, src, expected):
    a = make(bind)
    assert a.sendto(b"x" * 20, target, segment=10, src=src) == 0
    assert a.last_errno == expected
    assert a.stats()["tx_errors"] == 1 and a.stats()["tx_calls"] == 0


# The kernel is made to answer a list of errnos: a seccomp listener in another process decides each
# sendmsg of one thread on one descriptor. That reaches rules that loopback never triggers by itself.

AUDIT_ARCH, NR_SENDMSG, NR_SECCOMP = {
    "x86_64": (0xC000003E, 46, 317),
    "aarch64": (0xC00000B7, 211, 277),
}.get(platform.machine(), (0, 0, 0))

SUPERVISOR = """
import array, fcntl, struct, sys
listener = int(sys.argv[1])
for answer in map(int, sys.argv[2].split(",")):
    notice = array.array("B", bytes(80))
    fcntl.ioctl(listener, 0xC0502100, notice)               # SECCOMP_IOCTL_NOTIF_RECV
    ident, = struct.unpack_from("Q", notice)
    reply = struct.pack("QqiI", ident, 0, -answer, 0 if answer else 1)   # 1: let the call go on
    fcntl.ioctl(listener, 0xC0182101, array.array("B", reply))   # SECCOMP_IOCTL_NOTIF_SEND
"""


def with_answers(sock, answers, action):
    """Run `action` with sendmsg on `sock` answering each errno in turn, 0 meaning the real call."""
    if not LINUX or not AUDIT_ARCH:
        pytest.skip("needs seccomp on Linux x86-64 or aarch64")
    outcome = []

    def rule(code, jump_true, jump_false, value):
        return struct.pack("HBBI", code, jump_true, jump_false, value)

    program = b"".join([
        rule(0x20, 0, 0, 4), rule(0x15, 0, 5, AUDIT_ARCH),
        rule(0x20, 0, 0, 0), rule(0x15, 0, 3, NR_SENDMSG),
        rule(0x20, 0, 0, 16), rule(0x15, 0, 1, sock.fileno()),
        rule(0x06, 0, 0, 0x7FC00000),    # SECCOMP_RET_USER_NOTIF
        rule(0x06, 0, 0, 0x7FFF0000),    # SECCOMP_RET_ALLOW
    ])  # fmt: skip

    def run():
        libc = ctypes.CDLL(None, use_errno=True)
        code = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, of this thread only
        listener = libc.syscall(NR_SECCOMP, 1, 8, header)  # mode filter, new listener
        if listener < 0:
            outcome.append(("refused", os.strerror(ctypes.get_errno())))
            return
        command = [sys.executable, "-S", "-c", SUPERVISOR, str(listener), ",".join(map(str, answers))]
        with subprocess.Popen(command, pass_fds=[listener]) as supervisor:
            os.close(listener)
            try:
                outcome.append(("done", action()))
                outcome.append(("exit", supervisor.wait(10)))
            finally:
                supervisor.kill()

    worker = threading.Thread(target=run)  # the filter ends with the thread
    worker.start()
    worker.join()
    if outcome and outcome[0][0] == "refused":
        pytest.skip(f"seccomp listener not permitted here: {outcome[0][1]}")
    assert outcome[-1] == ("exit", 0), "not all answers were used"
    return outcome[0][1]


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOBUFS], ids=["EAGAIN", "ENOBUFS"])
@pytest.mark.parametrize("segment", [0, 100], ids=["single", "batch"])
def test_full_queue_is_reported_and_a_retry_sends_all(pair, code, segment):
    a, b = pair
    rcs = with_answers(a, [code, 0], lambda: [a.sendto(bytes(300), b.local_address, segment=segment) for _ in "12"])
    assert rcs == [-errno.EAGAIN, 0]
    assert a.blocked_errno == code
    assert a.gso == LINUX and a.last_errno == 0
    assert a.stats()["tx_errors"] == a.stats()["tx_dropped"] == 0
    _, found = collect(b, 3 if segment else 1)
    assert b"".join(found) == bytes(300)
    assert a.stats()["tx_datagrams"] == len(found)


def test_interrupted_call_is_repeated(pair):
    a, b = pair
    assert with_answers(a, [errno.EINTR, errno.EINTR, 0], lambda: a.sendto(b"x", b.local_address)) == 0
    assert collect(b, 1)[1] == [b"x"]


def test_batch_answered_eio_turns_offload_off_and_is_resent(pair):
    a, b = pair
    data = os.urandom(250)
    rc = with_answers(a, [errno.EIO, 0, 0, 0], lambda: a.sendto(data, b.local_address, segment=100))
    assert rc == 0 and not a.gso and a.max_segments == 1
    assert b"".join(collect(b, 3)[1]) == data
    assert a.stats()["tx_calls"] == 4 and a.stats()["tx_segments"] == 0


def test_resent_batch_meeting_a_full_queue_gives_up_the_rest(pair):
    a, b = pair
    rc = with_answers(a, [errno.EIO, 0, errno.EAGAIN], lambda: a.sendto(bytes(350), b.local_address, segment=100))
    assert rc == 0, "a retry of the whole batch would repeat what is out"
    assert collect(b, 1)[1] == [bytes(100)]
    assert a.stats()["tx_dropped"] == 3


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO, errno.EOPNOTSUPP, errno.ENOPROTOOPT])
def test_error_cured_without_mark_turns_marking_off(pair, code):
    a, b = pair

    def action():
        return [a.sendto(bytes(300), b.local_address, ecn=2, segment=100) for _ in "12"]

    assert with_answers(a, [code, 0, 0], action) == [0, 0]
    messages, found = collect(b, 6)
    assert len(found) == 6 and {m[2] for m in messages} == {0}
    assert a.gso, "only the mark was to blame"
    assert a.stats()["tx_calls"] == 3


def test_single_datagram_error_is_swallowed_and_kept(pair):
    a, b = pair
    for i, code in enumerate((errno.EPERM, errno.ENETUNREACH, errno.EIO), 1):
        assert with_answers(a, [code], lambda: a.sendto(b"x", b.local_address)) == 0
        assert a.last_errno == code and a.stats()["tx_errors"] == i
    assert a.gso == LINUX
    assert nothing_queued(b)


# --- life cycle and arguments ---------------------------------------------------------------------


def test_close_twice_is_harmless_and_use_after_close_raises(make):
    a = make("127.0.0.1")
    a.sendto(b"self", a.local_address)
    collect(a, 1)
    address = a.local_address
    a.close()
    a.close()
    assert a.fileno() == -1 and a.local_address == address and "closed" in repr(a)
    uses = (
        a.recv,
        lambda: a.sendto(b"", address),
        lambda: pump_recv(a, 1),
        lambda: pump_send(a, address, 1, 1, 1),
    )
    for use in uses:
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno == errno.EBADF


@pytest.mark.skipif(os.name == "nt", reason="descriptors are listed in /dev/fd")
def test_bind_taken_port_raises_and_leaks_no_descriptor(make):
    a = make("127.0.0.1")
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        with pytest.raises(OSError):
            UdpSocket.bind(a.local_address)
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize(
    "address",
    [("localhost", 0), ("", 0), ("127.0.0.1", 65536), ("127.0.0.1", -1), ("127.0.0.1", "1"), ("127.0.0.1",),
     ("::1", 0, 0, -1), ("::1", 0, 0, 1 << 32), (b"::1", 0), ("::1%no-such-interface", 0), ("::g", 0)],
)  # fmt: skip
def test_bind_bad_address_raises_value_error(address):
    with pytest.raises(ValueError):
        UdpSocket.bind(address)


def test_sendto_bad_arguments_raise(make):
    a = make("127.0.0.1")
    to = a.local_address
    for bad in ({"ecn": 4}, {"ecn": -1}, {"segment": -1}, {"src": "nowhere"}):
        with pytest.raises(ValueError):
            a.sendto(b"x", to, **bad)
    with pytest.raises(TypeError):
        a.sendto("text", to)
    with pytest.raises(TypeError):
        UdpSocket()
    raw = UdpSocket.__new__(UdpSocket)
    raw.close()
    with pytest.raises(OSError):
        raw.recv()


def test_bind_v6only_leaves_the_v4_port_free(make):
    a = make("::")
    b = UdpSocket.bind(("0.0.0.0", a.local_address[1]))
    b.close()


@linux_only
def test_scope_of_a_link_local_address_reaches_the_kernel(make):
    a = make("::")
    # The loopback interface has no link-local route; without the scope another interface may be taken.
    lo = socket.if_nametoindex("lo")
    for i, address in enumerate(((f"fe80::1%{lo}", 9), ("fe80::1%lo", 9), ("fe80::1", 9, 0, lo)), 1):
        assert a.sendto(b"x", address) == 0
        assert a.stats()["tx_errors"] == i and a.last_errno == errno.ENETUNREACH


# --- pumps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("segments", [1, 10, 45])
def test_pumps_move_the_bytes_they_report(pair, segments):
    a, b = pair
    total = 1400 * 45
    sent = pump_send(a, b.local_address, total, 1400, segments)
    got = pump_recv(b, sent[0], deadline_s=5)
    assert sent[0] == got[0] and total <= sent[0] < total + 1400 * segments
    assert sent[1] == got[1] == sent[0] // 1400
    if LINUX:
        assert sent[2] == -(-total // (1400 * segments))


def test_pump_recv_deadline_and_idle_end_it(pair):
    a, b = pair
    assert pump_recv(b, 1, deadline_s=0.05)[:2] == (0, 0)
    a.sendto(b"abc", b.local_address)
    assert pump_recv(b, 1000, deadline_s=30, idle_s=0.05)[:2] == (3, 1)


def test_pump_send_waits_for_room(pair):
    a, b = pair
    result = with_answers(
        a, [errno.EAGAIN, 0, errno.ENOBUFS, 0], lambda: pump_send(a, b.local_address, 2000, 100, 10)
    )
    assert result[:3] == (2000, 20, 4)
    assert b"".join(collect(b, 20)[1]) == b"\x5a" * 2000


def test_pump_send_refused_send_raises(pair):
    a, _ = pair
    with pytest.raises(OSError) as caught:
        pump_send(a, (a.local_address[0], 0), 1000, 100, 1)
    assert caught.value.errno == errno.EINVAL


def test_pump_send_bad_sizes_raise(pair):
    a, b = pair
    for segment, segments in ((0, 1), (65_488, 1), (100, 0), (100, 65), (1452, 46)):
        with pytest.raises(ValueError):
            pump_send(a, b.local_address, 1, segment, segments)


# --- many messages in one call ---------------------------------------------------------------------


def test_many_messages_arrive_in_order_with_few_calls(pair):
    a, b = pair
    messages = [(bytes([n]) * (n + 1), b.local_address, 0) for n in range(50)]
    assert a.sendmany(messages) == [0] * 50
    _, found = collect(b, 50)
    assert found == [data for data, _, _ in messages]
    assert a.stats()["tx_datagrams"] == 50
    assert not LINUX or a.stats()["tx_calls"] == 2


def test_many_messages_may_be_batches_and_marked(pair):
    a, b = pair
    messages = [(os.urandom(250), b.local_address, 100), (b"x" * 99, b.local_address, 0), (os.urandom(300), b.local_address, 100)]
    assert a.sendmany(messages, ecn=2) == [0, 0, 0]
    got, found = collect(b, 7)
    assert b"".join(found) == b"".join(data for data, _, _ in messages)
    assert not LINUX or {ecn for _, _, ecn, *_ in got} == {2}


def test_message_that_cannot_leave_does_not_hold_up_the_others(pair, host):
    a, b = pair
    nowhere = (host, 0)
    messages = [(b"1", b.local_address, 0), (b"2", nowhere, 0), (b"3", b.local_address, 0), (b"4", b.local_address, 0)]
    assert a.sendmany(messages) == [0, errno.EINVAL, 0, 0]
    assert collect(b, 3)[1] == [b"1", b"3", b"4"]
    assert a.stats()["tx_errors"] == 1 and a.last_errno == errno.EINVAL


def test_many_messages_stop_where_the_queue_is_full(pair):
    a, b = pair
    one = (b"x", b.local_address, 0)
    assert with_answers(a, [errno.EAGAIN], lambda: a.sendmany([one])) == []
    assert a.blocked_errno == errno.EAGAIN and a.stats()["tx_errors"] == 0
