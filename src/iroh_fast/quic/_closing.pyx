"""How a connection ends: closing, draining, drained (RFC 9000 §10)."""

from libc.stdint cimport uint64_t

from iroh_fast._batch cimport addr_to_tuple
from iroh_fast.quic._codes cimport AEAD_LIMIT_REACHED, NO_ERROR, N_WAITS, ST_CLOSING, ST_DRAINED, ST_DRAINING, W_DRAINED
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._path_queries cimport pto_max
from iroh_fast.quic._path_table cimport log_path, path_statistics
from iroh_fast.quic._paths cimport Path, ip_known, path_rtt
from iroh_fast.quic._timers cimport TIMER_CLOSE, timer_set, timers_clear

import logging

from iroh_fast.errors import CloseReason

logger = logging.getLogger("iroh_fast.quic")


cdef void end_connection(Connection conn, object reason):
    """Tell everybody, once."""
    cdef Path* path = conn.paths.first
    cdef int kind
    if conn.close_reason is not None:
        return
    conn.close_reason = reason
    if conn.qlog is not None:
        conn.qlog.closed(conn.now, reason, conn.ending.code, conn.ending.app)
    while path != NULL:
        if not path.abandoned and path.established:
            log_path(conn, "closed", path.id, addr_to_tuple(&path.route.remote),
                          addr_to_tuple(&path.route.local) if ip_known(&path.route.local) else None, reason, path_statistics(path))
        path = path.next
    conn.streams.end()
    for kind in range(N_WAITS):
        if kind != W_DRAINED:
            conn.happened(kind)
    conn.host.wake(conn)


cdef void enter_close(Connection conn, object reason, uint64_t code, bint app, object text, uint64_t frame):
    if conn.state >= ST_CLOSING:
        return
    conn.state = ST_CLOSING
    conn.ending.due = conn.ending.everywhere = True
    conn.ending.app = app
    conn.ending.code = code
    conn.close_text = text
    conn.ending.frame = frame
    timers_clear(&conn.timers)
    timer_set(&conn.timers, TIMER_CLOSE, conn.now + 3 * pto_max(conn))
    conn.ending.repeat_at = conn.now + (path_rtt(conn.paths.first) if conn.paths.first != NULL else conn.cfg.initial_rtt)
    end_connection(conn, reason)
    conn.host.wake(conn)


cdef void enter_drain(Connection conn, object reason, bint reply):
    if conn.state >= ST_DRAINING:
        return
    if conn.state == ST_CLOSING:
        conn.state = ST_DRAINING
        conn.ending.due = False
        conn.happened(W_DRAINED)      # not yet, but the peer knows
        conn.host.wake(conn)
        return
    conn.state = ST_DRAINING
    conn.ending.due = reply
    conn.ending.everywhere = False
    conn.ending.app = False
    conn.ending.code = NO_ERROR
    conn.close_text = b""
    conn.ending.frame = 0
    timers_clear(&conn.timers)
    timer_set(&conn.timers, TIMER_CLOSE, conn.now + 3 * pto_max(conn))
    end_connection(conn, reason)


cdef void finish_drained(Connection conn, object reason):
    if conn.state == ST_DRAINED:
        return
    conn.state = ST_DRAINED
    conn.deadline = 0
    timers_clear(&conn.timers)
    if reason is not None:
        end_connection(conn, reason)
    conn.host.on_drained(conn)
    if conn.qlog is not None:
        conn.qlog.finish()
    conn.happened(W_DRAINED)
    conn.host.wake(conn)


cdef void end_failed(Connection conn) noexcept:
    """Close because of `err`; runs outside of packet processing."""
    cdef object text
    cdef uint64_t err = conn.failure.code
    conn.failed = False
    conn.failure.code = 0                  # a closing connection still listens to its peer
    if conn.state >= ST_CLOSING:
        return
    try:
        text = conn.close_text if conn.close_text is not None else (
            (<bytes>conn.failure.text).decode() if conn.failure.text != NULL else "")
        if err == AEAD_LIMIT_REACHED:
            finish_drained(conn, CloseReason("transport_local", err, b"", False, None, text))
            return
        logger.debug("connection %d: closing with %#x %s", conn.stable_id, err, text)
        enter_close(conn, CloseReason("transport_local", err, text.encode(), False, conn.failure.frame or None, text),
                         err, False, text.encode(), conn.failure.frame)
    except Exception:
        logger.exception("closing failed")


cdef void on_stateless_reset(Connection conn):
    if conn.state < ST_DRAINING:
        finish_drained(conn, CloseReason("reset", 0, b"", True))
