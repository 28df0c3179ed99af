"""When a connection has to do something although nothing came, and doing it.

Sources: RFC 9000 §10.1, RFC 9002 §6, the multipath draft.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free

from iroh_fast.quic._mtud cimport MTUD_COMPLETE
from iroh_fast.quic._rtt cimport rtt_pto_base
from iroh_fast.quic._keys cimport LEVEL_0RTT, LEVEL_1RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL, keys_drop, keys_drop_previous
from iroh_fast.quic._loss cimport detect_losses, discard_path, log_metrics, loss_deadline, pto_deadline
from iroh_fast.quic._paths cimport Path
from iroh_fast.quic._recovery cimport PnSpace
from iroh_fast.quic._state cimport (
    ConnectionState, NO_VIABLE_PATH, PATH_UNSTABLE_OR_POOR, ST_CLOSING, ST_DRAINED, ST_ESTABLISHED)
from iroh_fast.quic._time cimport NEVER

import logging

from iroh_fast.errors import CloseReason

logger = logging.getLogger("iroh_fast.quic")


cdef int64_t next_deadline(ConnectionState conn) noexcept nogil:
    """When handle_timeout has something to do; 0 never. Recomputed once per turn, not per packet."""
    cdef int64_t d = NEVER, t, active, three
    cdef Path* path = conn.paths
    cdef PnSpace* space
    cdef int level
    if conn.state == ST_DRAINED:
        return 0
    if conn.state >= ST_CLOSING:
        return conn.drained_at
    three = 3 * conn.pto_max()
    if not conn.handshake_done and conn.handshake_until < d:
        d = conn.handshake_until
    if conn.idle_timeout:
        t = idle_since(conn) + (conn.idle_timeout if conn.idle_timeout > three else three)
        if t < d:
            d = t
    if conn.key_discard_at and conn.key_discard_at < d:
        d = conn.key_discard_at
    if conn.no_path_at and conn.no_path_at < d:
        d = conn.no_path_at
    if conn.cfg.keep_alive and conn.state == ST_ESTABLISHED:
        active = 0
        while path != NULL:
            if path.last_rx > active:
                active = path.last_rx
            if path.last_tx > active:
                active = path.last_tx
            path = path.next
        path = conn.paths
        if conn.paths != NULL and not keep_alive_due(conn):
            t = active + conn.cfg.keep_alive
            if t < d:
                d = t
    while path != NULL:
        if path.drained_at and path.drained_at < d:
            d = path.drained_at
        t = loss_deadline(conn, path)
        if t == 0:
            t = pto_deadline(conn, path, &space, &level)
        if t and t < d:
            d = t
        if path.sp.ack_at and not path.sp.ack_now and path.sp.ack_at < d:
            d = path.sp.ack_at
        if path.challenge_at and path.challenge_at < d:
            d = path.challenge_at
        if path.validation_fails_at and path.validation_fails_at < d:
            d = path.validation_fails_at
        if path.pacing_at and path.pacing_at < d:
            d = path.pacing_at
        if not path.abandoned and conn.state == ST_ESTABLISHED:
            if conn.multipath and path.idle_timeout and not conn.irreplaceable(path):
                t = path.idle_from + (path.idle_timeout if path.idle_timeout > 3 * rtt_pto_base(&path.r.rtt) else 3 * rtt_pto_base(&path.r.rtt))
                if t < d:
                    d = t
            if conn.cfg.path_keep_alive and conn.multipath and not path.ping_due:
                t = path.last_tx + conn.cfg.path_keep_alive
                if t < d:
                    d = t
            if conn.cfg.path_keep_alive and conn.multipath and path.r.validated and not (path.challenge_at or path.challenge_due):
                t = path.last_rx + 2 * conn.cfg.path_keep_alive
                if t < d:
                    d = t
            # Only while a probe could really leave, else this deadline would stay in the past.
            if (path.r.mtud.state == MTUD_COMPLETE and path.r.validated and path.r.mtud.next_search
                    and path.r.mtud.next_search < d and not path.challenge_at and path.cids.active >= 0
                    and path.r.in_flight + 1500 < path.r.cc.cwnd):
                d = path.r.mtud.next_search
        path = path.next
    return 0 if d == NEVER else d


cdef bint keep_alive_due(ConnectionState conn) noexcept nogil:
    """Whether every path already has its PING waiting."""
    cdef Path* path = conn.paths
    while path != NULL:
        if not path.abandoned and not path.ping_due:
            return False
        path = path.next
    return True


cdef int64_t idle_since(ConnectionState conn) noexcept nogil:
    cdef Path* path = conn.paths
    cdef int64_t t = conn.created_at
    while path != NULL:
        if path.idle_from > t:
            t = path.idle_from
        path = path.next
    return t


cdef void path_timeout(ConnectionState conn, Path* path, int64_t now) noexcept nogil:
    cdef PnSpace* space = NULL
    cdef int level = 0
    cdef int64_t t
    if path.drained_at and now >= path.drained_at:
        discard_path(conn, path)
        return
    t = loss_deadline(conn, path)
    if t:
        if now >= t:
            if path.sp.loss_time:
                detect_losses(conn, path, &path.sp, LEVEL_1RTT, False)
            if path.id == 0 and conn.initial.live and conn.initial.sp.loss_time:
                detect_losses(conn, path, &conn.initial.sp, LEVEL_INITIAL, False)
            if path.id == 0 and conn.handshake.live and conn.handshake.sp.loss_time:
                detect_losses(conn, path, &conn.handshake.sp, LEVEL_HANDSHAKE, False)
    else:
        t = pto_deadline(conn, path, &space, &level)
        if t and now >= t:
            space.loss_probes += 2 if space.eliciting else 1
            if space.loss_probes > 2:
                space.loss_probes = 2
            path.pto_count += 1
            if space.eliciting == 0:
                path.last_tx = now
            else:
                # The next expiry counts from the probe that goes out now, even if nothing can be sent.
                space.last_eliciting_at = now
            if conn.qlog is not None:
                log_metrics(conn, path)
    if path.sp.ack_at and now >= path.sp.ack_at:
        path.sp.ack_now = True
    if path.challenge_at and now >= path.challenge_at:
        path.challenge_at = 0
        path.challenge_lost += 1
        path.challenge_due = True
    if path.validation_fails_at and now >= path.validation_fails_at:
        path.validation_fails_at = 0
        if path.previous != NULL and not path.r.validated:
            # The new address never answered: back to the one that did.
            conn.generation += 1
            path.r = path.previous[0]
            free(path.previous)
            path.previous = NULL
            if conn.qlog is not None:
                conn.log_tuple(path)
            path.challenge_due = False
            path.challenge_at = 0
    if path.pacing_at and now >= path.pacing_at:
        path.pacing_at = 0
    if path.abandoned or conn.state != ST_ESTABLISHED:
        return
    if conn.multipath and path.idle_timeout and not conn.irreplaceable(path):
        t = path.idle_from + (path.idle_timeout if path.idle_timeout > 3 * rtt_pto_base(&path.r.rtt) else 3 * rtt_pto_base(&path.r.rtt))
        if now >= t:
            conn.abandon(path, PATH_UNSTABLE_OR_POOR)
            return
    if conn.cfg.path_keep_alive and conn.multipath:
        # Both sides beat: acknowledgements take the best path, so only what the peer sends here on its own account
        # shows that this path works.
        if now >= path.last_tx + conn.cfg.path_keep_alive:
            path.ping_due = True
        # INTEROP: iroh does not beat on a path on which it hears us, be it data that is not acknowledged here. It must
        # answer a challenge on the path.
        if path.r.validated and not (path.challenge_at or path.challenge_due) and now >= path.last_rx + 2 * conn.cfg.path_keep_alive:
            conn.challenge(path)


cdef void handle_timeout(ConnectionState conn, int64_t now) noexcept:
    """Do what is due at `now`. Calls before the deadline are harmless."""
    cdef Path* path
    cdef Path* following
    cdef PnSpace* space = NULL
    cdef int level = 0
    cdef int64_t t, three, active
    conn.now = now
    if conn.state == ST_DRAINED:
        return
    if conn.state >= ST_CLOSING:
        if now >= conn.drained_at:
            conn.finish_drained(None)
        return
    three = 3 * conn.pto_max()
    if not conn.handshake_done and now >= conn.handshake_until:
        # Packets that only keep us awake are no progress.
        logger.debug("connection %d: the handshake took too long", conn.stable_id)
        conn.finish_drained(CloseReason("timed_out"))
        return
    if conn.idle_timeout:
        t = idle_since(conn) + (conn.idle_timeout if conn.idle_timeout > three else three)
        if now >= t:
            logger.debug("connection %d: idle timeout", conn.stable_id)
            conn.finish_drained(CloseReason("timed_out"))
            return
    if conn.key_discard_at and now >= conn.key_discard_at:
        conn.key_discard_at = 0
        keys_drop_previous(&conn.keys)
        if not conn.is_client:
            keys_drop(&conn.keys, LEVEL_0RTT)
    if conn.no_path_at and now >= conn.no_path_at:
        conn.no_path_at = 0
        if conn.open_paths() == 0:
            conn.fail(NO_VIABLE_PATH, b"", 0)
            conn.end_failed()
            return
    if conn.cfg.keep_alive and conn.state == ST_ESTABLISHED:
        active = 0
        path = conn.paths
        while path != NULL:
            if path.last_rx > active:
                active = path.last_rx
            if path.last_tx > active:
                active = path.last_tx
            path = path.next
        if now >= active + conn.cfg.keep_alive:
            path = conn.paths
            while path != NULL:
                if not path.abandoned:
                    path.ping_due = True
                path = path.next
    path = conn.paths
    while path != NULL:
        following = path.next
        path_timeout(conn, path, now)
        path = following
    if conn.failed:
        conn.end_failed()
