"""How a handshake begins, and what its first packets say: addresses that are dialed, ids, Retry, Version Negotiation.

Sources: RFC 9000 §6.2, §7, §17.2, §17.2.5, and iroh's handshake migration.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EIO, ENOMEM, EPERM
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from iroh_fast._batch cimport UdpAddr, addr_from_tuple, addr_to_tuple
from iroh_fast._crypto cimport constant_time_equal, retry_integrity_tag
from iroh_fast._packet._headers cimport LongHeader
from iroh_fast.quic._closing cimport finish_drained
from iroh_fast.quic._codes cimport INTERNAL_ERROR, MIN_DATAGRAM, ST_HANDSHAKE
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._handshake cimport discard_keys_later
from iroh_fast.quic._handshake_state cimport (
    Handshake, handshake_validated, id_equals, id_set, level_at, level_begin, level_end)
from iroh_fast.quic._keys cimport (
    LEVEL_0RTT, LEVEL_1RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL, keys_can_open, keys_install_initial)
from iroh_fast.quic._loss cimport drop_space
from iroh_fast.quic._path_queries cimport find_path
from iroh_fast.quic._path_table cimport add_path
from iroh_fast.quic._paths cimport (
    CID_LEN, CidSet, MAX_CID_LEN, Path, ip_known, path_timeouts, remote_cid_first, same_addr)
from iroh_fast.quic._recovery cimport recovery_restart, recovery_try_again
from iroh_fast.quic._send_buffer cimport sendbuf_rewind
from iroh_fast.quic._stream_packets cimport rewind_0rtt
from iroh_fast.quic._timers cimport TIMER_KEYS, timer_is_set
from iroh_fast.quic._trace cimport log_key_discarded

import logging
import os

from iroh_fast.errors import CloseReason

logger = logging.getLogger("iroh_fast.quic")

cdef enum:
    MAX_TOLD = 8                  # addresses that an error names
    PASSING_ERRORS = 3            # in a row, of a kind that may pass: then it does not


# ---------------------------------------------------------------- how it begins
cdef int begin_client(Connection conn, list remotes) except -1:
    """The first path, to the first of the candidate addresses, and Initial keys."""
    cdef Handshake* handshake = &conn.handshake
    cdef Path* path
    cdef int i
    remotes = remotes[:MAX_DIAL]
    make_room(handshake, len(remotes))
    for i in range(len(remotes)):
        addr_from_tuple(remotes[i], &handshake.dial[i])
    handshake.n_dial = len(remotes)
    conn.host.random.fill(handshake.original.bytes, MAX_CID_LEN)
    handshake.original.len = MAX_CID_LEN
    handshake.theirs = handshake.original
    path = add_path(conn, 0, &handshake.dial[0], NULL)
    if path == NULL:
        raise MemoryError
    path.route.validated = True
    remote_cid_first(path.cids, handshake.original.bytes, handshake.original.len)
    if set_initial_keys(conn, handshake.original.bytes, handshake.original.len) < 0:
        raise MemoryError
    return 0


cdef int begin_server(Connection conn, bytes original, bytes retry, bytes theirs, bytes first, const UdpAddr* src,
                      const UdpAddr* dst, bint validated) except -1:
    """The path that a first packet came on, and Initial keys. The ids are those of `Handshake`."""
    cdef Handshake* handshake = &conn.handshake
    cdef Path* path
    id_set(&handshake.original, <const uint8_t*>PyBytes_AS_STRING(original), <size_t>PyBytes_GET_SIZE(original))
    if retry:
        handshake.retried = True
        id_set(&handshake.retry, <const uint8_t*>PyBytes_AS_STRING(retry), <size_t>PyBytes_GET_SIZE(retry))
    id_set(&handshake.theirs, <const uint8_t*>PyBytes_AS_STRING(theirs), <size_t>PyBytes_GET_SIZE(theirs))
    path = add_path(conn, 0, src, dst)
    if path == NULL:
        raise MemoryError
    path.route.validated = validated
    if set_initial_keys(conn, <const uint8_t*>PyBytes_AS_STRING(first), <size_t>PyBytes_GET_SIZE(first)) < 0:
        raise MemoryError
    return 0


cdef int set_initial_keys(Connection conn, const uint8_t* dcid, size_t n) noexcept nogil:
    if not conn.handshake.initial.live and level_begin(&conn.handshake, LEVEL_INITIAL, conn.host.random.word()) < 0:
        return -1
    return keys_install_initial(&conn.keys, conn.is_client, dcid, n)


# ---------------------------------------------------------------- addresses that are dialed
cdef int make_room(Handshake* handshake, int n) except -1:
    """For `n` candidates, with those that are there; only between turns, when nobody looks at them."""
    cdef UdpAddr* dial = <UdpAddr*>calloc(n, sizeof(UdpAddr) + sizeof(int))
    cdef int* errors = <int*>(dial + n)
    if dial == NULL:
        raise MemoryError
    if handshake.n_dial:
        memcpy(dial, handshake.dial, handshake.n_dial * sizeof(UdpAddr))
        memcpy(errors, handshake.dial_errors, handshake.n_dial * sizeof(int))
    free(handshake.dial)
    handshake.dial = dial
    handshake.dial_errors = errors
    return 0


cdef bint may_dial_more(Connection conn):
    # None is left after a Retry, and when an address has proven itself.
    return conn.is_client and conn.state == ST_HANDSHAKE and not conn.handshake.settled and conn.handshake.n_dial > 0


cdef int dial_more(Connection conn, list remotes) except -1:
    cdef Handshake* handshake = &conn.handshake
    cdef UdpAddr addr
    cdef int i, before = handshake.n_dial
    if not may_dial_more(conn) or not remotes:
        return 0
    make_room(handshake, min(before + <int>len(remotes), MAX_DIAL))
    for remote in remotes:
        addr_from_tuple(remote, &addr)
        for i in range(handshake.n_dial):
            if same_addr(&handshake.dial[i], &addr):
                break
        else:
            if handshake.n_dial < MAX_DIAL:
                handshake.dial[handshake.n_dial] = addr
                handshake.n_dial += 1
    if handshake.n_dial > before and level_at(handshake, LEVEL_INITIAL).space.sent.outstanding:
        handshake.dial_from = <uint8_t>before
        recovery_try_again(conn, conn.paths.first)
    return handshake.n_dial - before


cdef void dial_expect(Connection conn, bint more) noexcept:
    conn.handshake.dial_expects = more
    if not more and may_dial_more(conn):
        end_unreachable(conn)


cdef void dial_window(Connection conn, int* at, int* count) noexcept nogil:
    at[0] = 0
    count[0] = conn.handshake.n_dial
    if conn.handshake.dial_from and not conn.handshake.heard and path_timeouts(conn.paths.first) == 0:
        at[0] = conn.handshake.dial_from
        count[0] = min(conn.handshake.n_dial - conn.handshake.dial_from, DIAL_AT_ONCE)
        return
    if conn.handshake.n_dial > DIAL_AT_ONCE:
        # Whoever made the list may have made it long: each flight goes to a few, the repetitions to the next ones.
        if conn.paths.first != NULL:
            at[0] = (path_timeouts(conn.paths.first) % MAX_DIAL) * DIAL_AT_ONCE % conn.handshake.n_dial
        count[0] = DIAL_AT_ONCE


cdef object addr_text(const UdpAddr* addr):
    host = addr_to_tuple(addr)[0]
    return f"[{host}]:{addr.port}" if ":" in host else f"{host}:{addr.port}"


cdef void dial_refused(Connection conn, const UdpAddr* to, int error) noexcept:
    cdef Handshake* handshake = &conn.handshake
    cdef int i
    if not conn.is_client or handshake.settled or conn.state != ST_HANDSHAKE:
        return
    for i in range(handshake.n_dial):
        if same_addr(&handshake.dial[i], to):
            # A firewall that is full, or memory that is short, may not be so the next time.
            if error in (EPERM, EIO, ENOMEM) and handshake.dial_errors[i] > 1 - PASSING_ERRORS:
                handshake.dial_errors[i] -= 1
            else:
                handshake.dial_errors[i] = error
    if not handshake.dial_expects:
        end_unreachable(conn)


cdef void end_unreachable(Connection conn) noexcept:
    """The attempt is over if nothing can leave to any of its addresses."""
    cdef Handshake* handshake = &conn.handshake
    cdef int i
    for i in range(handshake.n_dial):
        if handshake.dial_errors[i] <= 0:
            return
    if handshake.n_dial == 0:
        return
    try:
        told = [f"{addr_text(&handshake.dial[i])} ({os.strerror(handshake.dial_errors[i])})"
                for i in range(min(handshake.n_dial, MAX_TOLD))]
        if handshake.n_dial > MAX_TOLD:
            told.append(f"and {handshake.n_dial - MAX_TOLD} more")
        finish_drained(conn, CloseReason("unreachable", text=", ".join(told)))
    except Exception:
        logger.exception("an attempt without any usable address could not be ended")


# ---------------------------------------------------------------- packets of the peer
cdef void receive_unprotected(Connection conn, Path* path, const uint8_t* data, size_t n, LongHeader* header,
                              const UdpAddr* src) noexcept:
    """Version Negotiation and Retry; servers send them."""
    cdef bint before = conn.handshake.retried
    if not conn.is_client:
        return
    if header.type == -1:
        if header.version == 0:
            on_version_negotiation(conn, data, n, header)
        return
    on_retry(conn, data, n, header.scid, header.scid_len, header.token, header.token_len)
    if conn.handshake.retried and not before:
        # The token is for the address this came from: the other candidates would refuse it.
        path.route.remote = src[0]
        conn.handshake.n_dial = 0


cdef bint long_is_expected(Connection conn, int level, const LongHeader* header, size_t size) noexcept nogil:
    """Whether such a packet may come now, as far as its header tells."""
    if not keys_can_open(&conn.keys, level):
        return False
    if level == LEVEL_0RTT:
        return not conn.is_client
    if level == LEVEL_INITIAL and (header.token_len != 0 if conn.is_client else size < MIN_DATAGRAM):
        return False                  # RFC 9000 §17.2.2, §14.1: servers send no tokens, clients pad
    if not level_at(&conn.handshake, level).live:
        return False
    # Once known, the peer's handshake id does not change (RFC 9000 §7.2).
    return not conn.handshake.theirs_known or id_equals(&conn.handshake.theirs, header.scid, header.scid_len)


cdef void learn_from_long(Connection conn, Path* path, int level, const LongHeader* header,
                          const UdpAddr* src, const UdpAddr* dst) noexcept nogil:
    """What the fact that a long packet authenticates says about the peer."""
    if level == LEVEL_0RTT and keys_can_open(&conn.keys, LEVEL_1RTT) and not timer_is_set(&conn.timers, TIMER_KEYS):
        discard_keys_later(conn)
    conn.handshake.heard = True
    if not conn.handshake.theirs_known and level != LEVEL_0RTT:
        adopt_handshake_id(conn, path, header)
    if not same_addr(src, &path.route.remote) and conn.is_client and not conn.handshake.settled:
        # iroh's handshake migration: until a Handshake packet proves the address, follow the server.
        path.route.remote = src[0]
        path.route.received += header.packet_len
    if ip_known(dst):
        path.route.local = dst[0]
    if level != LEVEL_HANDSHAKE:
        return
    conn.handshake.settled = True
    if conn.is_client:
        conn.handshake.n_dial = 0
        return
    path.route.validated = True
    handshake_validated(&conn.handshake)
    if conn.handshake.initial.live:
        drop_space(conn, path, &conn.handshake.initial.space)
        level_end(&conn.handshake, &conn.keys, LEVEL_INITIAL)
        log_key_discarded(conn, LEVEL_INITIAL)


cdef void adopt_handshake_id(Connection conn, Path* path, const LongHeader* header) noexcept nogil:
    """The peer has chosen the id that its packets of the handshake are addressed by."""
    cdef CidSet* ids = path.cids
    conn.handshake.theirs_known = True
    id_set(&conn.handshake.theirs, header.scid, header.scid_len)
    if ids.n_remote == 0 or (ids.n_remote == 1 and ids.remote[0].seq == 0):
        remote_cid_first(ids, header.scid, header.scid_len)


cdef void on_retry(Connection conn, const uint8_t* data, size_t n, const uint8_t* scid, uint8_t scid_len,
                   const uint8_t* token, size_t token_len) noexcept:
    """RFC 9000 §17.2.5: start over with the server's token and id, once."""
    cdef uint8_t tag[16]
    cdef Path* path = find_path(conn, 0)
    if conn.handshake.heard or conn.handshake.retried or n < 16 or token_len == 0 or conn.state != ST_HANDSHAKE:
        return
    if (retry_integrity_tag(conn.handshake.original.bytes, conn.handshake.original.len, data, n - 16, tag) < 0
            or not constant_time_equal(tag, data + n - 16, 16)):
        return
    if id_equals(&conn.handshake.theirs, scid, scid_len):
        return
    conn.handshake.retried = True
    id_set(&conn.handshake.retry, scid, scid_len)
    id_set(&conn.handshake.theirs, scid, scid_len)
    remote_cid_first(path.cids, scid, scid_len)
    conn.address_token = PyBytes_FromStringAndSize(<char*>token, token_len)
    if set_initial_keys(conn, scid, scid_len) < 0:
        conn.fail(INTERNAL_ERROR, b"key derivation failed", 0)
        return
    recovery_restart(path, &conn.handshake.initial.space)
    sendbuf_rewind(&conn.handshake.initial.tx)
    rewind_0rtt(&conn.streams.table)


cdef void on_version_negotiation(Connection conn, const uint8_t* data, size_t n, LongHeader* header) noexcept:
    """RFC 9000 §6.2: only before any other packet, and only if our version is missing."""
    cdef size_t at = 7 + header.dcid_len + header.scid_len
    if conn.handshake.heard or conn.handshake.retried or conn.state != ST_HANDSHAKE:
        return
    if at == n or (n - at) & 3:
        return                        # RFC 8999 §6: no version at all, or half of one
    if not id_equals(&conn.handshake.theirs, header.scid, header.scid_len):
        return
    if header.dcid_len != CID_LEN or memcmp(header.dcid, conn.handshake.ours, CID_LEN) != 0:
        return
    while at < n:
        if data[at] == 0 and data[at + 1] == 0 and data[at + 2] == 0 and data[at + 3] == 1:
            return
        at += 4
    finish_drained(conn, CloseReason("version_mismatch", 0, b"", True))
