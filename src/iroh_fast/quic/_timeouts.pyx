"""When a connection has to do something although nothing came, and doing it.

Timers of events (a challenge was sent, a path was abandoned) are set where the event is. The others follow from the state of
the connection and are brought up to date once per turn, in `set_timers`, not per packet; no condition is written twice.
Sources: RFC 9000 §10.1, RFC 9002 §6, the multipath draft.
"""

from libc.stdint cimport int64_t

from iroh_fast.quic._closing cimport end_failed, finish_drained
from iroh_fast.quic._codes cimport NO_VIABLE_PATH, PATH_UNSTABLE_OR_POOR, ST_CLOSING, ST_DRAINED, ST_ESTABLISHED
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._keys cimport LEVEL_0RTT, LEVEL_1RTT, keys_can_open, keys_drop, keys_drop_previous, keys_has_previous
from iroh_fast.quic._mtud cimport MTUD_COMPLETE
from iroh_fast.quic._path_queries cimport irreplaceable, open_paths, pto_max
from iroh_fast.quic._path_table cimport abandon_path, challenge_path, discard_path
from iroh_fast.quic._paths cimport Path, path_challenging, path_may_probe, path_ping, path_pto
from iroh_fast.quic._recovery cimport recovery_on_loss_timer, recovery_on_probe_timer, recovery_timers
from iroh_fast.quic._space cimport space_ack_at, space_ack_now, space_trim
from iroh_fast.quic._time cimport MS, NEVER
from iroh_fast.quic._timers cimport (
    N_CONNECTION_TIMERS, N_TIMERS, TIMER_ACK, TIMER_CHALLENGE, TIMER_CLOSE, TIMER_DRAIN, TIMER_HANDSHAKE,
    TIMER_HEARTBEAT, TIMER_IDLE, TIMER_KEEP_ALIVE, TIMER_KEYS, TIMER_LOSS, TIMER_MTU, TIMER_NO_PATH, TIMER_PATH_IDLE,
    TIMER_PROBE, TIMER_PROBES, TIMER_SILENCE, TIMER_VALIDATION, Timers, timer_clear, timer_set, timers_expired, timers_next)
from iroh_fast.quic._trace cimport log_expired, log_key_discarded, log_timers
from iroh_fast.quic._traversal cimport probe_again
from iroh_fast.quic._validation cimport give_up_migration

import logging

from iroh_fast.errors import CloseReason

logger = logging.getLogger("iroh_fast.quic")

cdef int64_t SLACK = 100 * MS         # what heartbeats and idle timeouts may be late
cdef int64_t CLOSE_SLACK = 10 * MS    # what the end of a closed connection may be late: many go at once
cdef int64_t SECOND_TURN = SLACK      # what the side that accepted leaves the other one to beat first
cdef int64_t ACK_SLACK = MS           # what acknowledgements may be late: the delay we announce allows for timers


# ---------------------------------------------------------------- when
cdef void set_timers(Connection conn) noexcept nogil:
    """Bring the timers that follow from the present state up to date."""
    cdef Path* path = conn.paths.first
    cdef Timers* timers = &conn.timers
    cdef int64_t least = 3 * pto_max(conn), active = 0, since = conn.created_at
    cdef bint beat = False
    if conn.handshake.done:
        timer_clear(timers, TIMER_HANDSHAKE)
    else:
        timer_set(timers, TIMER_HANDSHAKE, conn.handshake.until)
    while path != NULL:
        if path.last_rx > active:
            active = path.last_rx
        if path.last_tx > active:
            active = path.last_tx
        if path.idle_from > since:
            since = path.idle_from
        if not path.abandoned and not path.ping_due:
            beat = True
        set_path_timers(conn, path)
        path = path.next
    if conn.agreed.idle_timeout:
        timer_set(timers, TIMER_IDLE, since + (conn.agreed.idle_timeout if conn.agreed.idle_timeout > least else least))
    if beat and conn.cfg.keep_alive and conn.state == ST_ESTABLISHED:
        timer_set(timers, TIMER_KEEP_ALIVE, active + conn.cfg.keep_alive + (0 if conn.is_client else SECOND_TURN))
    else:
        timer_clear(timers, TIMER_KEEP_ALIVE)


cdef void set_path_timers(Connection conn, Path* path) noexcept nogil:
    cdef Timers* timers = &path.timers
    cdef int64_t at = space_ack_at(&path.recovery.space)
    recovery_timers(conn, path)
    timer_set(timers, TIMER_ACK, at if at else NEVER)
    set_path_life_timers(conn, path, timers)


cdef inline int64_t heartbeat(Connection conn, Path* path) noexcept nogil:
    """When a quiet path shows that it works."""
    if path == conn.paths.first and path.next == NULL:
        # Its acknowledgements come this way too: one side's beats show it to both. The other side's follow when those are late.
        return ((path.last_rx if path.last_rx > path.last_tx else path.last_tx) + conn.cfg.path_keep_alive
                + (0 if conn.is_client else SECOND_TURN))
    # Both sides beat: acknowledgements take the best path, so only what the peer sends here on its own account shows that
    # this path works.
    return path.last_tx + conn.cfg.path_keep_alive


cdef void set_path_life_timers(Connection conn, Path* path, Timers* timers) noexcept nogil:
    """Those of an open path that nothing is under way on."""
    cdef bint alive = not path.abandoned and conn.state == ST_ESTABLISHED
    cdef bint beating = alive and conn.agreed.multipath and conn.cfg.path_keep_alive != 0
    cdef int64_t least
    timer_clear(timers, TIMER_PATH_IDLE)
    if alive and conn.agreed.multipath and path.idle_timeout and not irreplaceable(conn, path):
        least = 3 * path_pto(path)
        timer_set(timers, TIMER_PATH_IDLE, path.idle_from + (path.idle_timeout if path.idle_timeout > least else least))
    timer_set(timers, TIMER_HEARTBEAT, heartbeat(conn, path) if beating and not path.ping_due else NEVER)
    # INTEROP: iroh does not beat on a path on which it hears us, be it data that is not acknowledged here. It must answer a
    # challenge on the path.
    if beating and path.route.validated and not path_challenging(path):
        timer_set(timers, TIMER_SILENCE, path.last_rx + 2 * conn.cfg.path_keep_alive)
    else:
        timer_clear(timers, TIMER_SILENCE)
    # Only while a probe could really leave, else this would stay in the past.
    if alive and path.route.mtud.state == MTUD_COMPLETE and path.route.mtud.next_search and path_may_probe(path):
        timer_set(timers, TIMER_MTU, path.route.mtud.next_search)
    else:
        timer_clear(timers, TIMER_MTU)


cdef int64_t next_deadline(Connection conn) noexcept nogil:
    """When handle_timeout has something to do; 0 never."""
    cdef Path* path = conn.paths.first
    cdef int64_t earliest, at
    if conn.state == ST_DRAINED:
        return 0
    if conn.state < ST_CLOSING:
        set_timers(conn)
        if conn.qlog is not None:
            log_timers(conn)
    earliest = timers_next(&conn.timers, N_CONNECTION_TIMERS)
    while path != NULL and conn.state < ST_CLOSING:
        at = timers_next(&path.timers, N_TIMERS)
        if at < earliest:
            earliest = at
        path = path.next
    return 0 if earliest == NEVER else earliest


cdef inline int64_t together(int64_t earliest, int64_t at, int64_t grid) noexcept nogil:
    """The earlier of `earliest` and the next point of the grid after `at`."""
    if at >= earliest:
        return earliest
    at += grid - 1 - (at + grid - 1) % grid
    return at if at < earliest else earliest


cdef int64_t next_wake(Connection conn) noexcept nogil:
    """When to call handle_timeout; 0 never. Up to SLACK after the deadline, where that does no harm."""
    cdef Path* path = conn.paths.first
    cdef int64_t earliest = NEVER
    cdef Timers* timers = &conn.timers
    cdef int which
    if conn.state == ST_DRAINED:
        return 0
    if conn.state >= ST_CLOSING:
        if timers.due[TIMER_CLOSE] <= conn.now:
            return timers.due[TIMER_CLOSE]
        return together(NEVER, timers.due[TIMER_CLOSE], CLOSE_SLACK)
    set_timers(conn)
    if conn.qlog is not None:
        log_timers(conn)
    while path != NULL:
        # All path timers but these answer to something that is under way.
        for which in range(TIMER_LOSS, TIMER_PATH_IDLE):
            if which != TIMER_ACK and path.timers.due[which] < earliest:
                earliest = path.timers.due[which]
        earliest = together(earliest, path.timers.due[TIMER_ACK], ACK_SLACK)
        earliest = together(earliest, path.timers.due[TIMER_DRAIN], SLACK)
        for which in range(TIMER_PATH_IDLE, N_TIMERS):
            earliest = together(earliest, path.timers.due[which], SLACK)
        path = path.next
    for which in range(N_CONNECTION_TIMERS):
        # The two sides' probes have to meet in time.
        earliest = together(earliest, timers.due[which], MS if which == TIMER_PROBES else SLACK)
    return 0 if earliest == NEVER else earliest


# ---------------------------------------------------------------- what
cdef void handle_timeout(Connection conn, int64_t now) noexcept:
    """Do what is due at `now`. Calls before the deadline are harmless."""
    cdef Path* path
    cdef Path* following
    cdef int which = -1
    conn.now = now
    if conn.state == ST_DRAINED:
        return
    if conn.state < ST_CLOSING:
        set_timers(conn)
    while True:
        which = timers_expired(&conn.timers, now, which)
        if which < 0:
            break
        expire(conn, which)
        if conn.state >= ST_CLOSING:
            return
    if conn.state >= ST_CLOSING:
        return
    path = conn.paths.first
    while path != NULL:
        following = path.next
        expire_path_timers(conn, path)
        path = following
    if conn.failed:
        end_failed(conn)


cdef void expire(Connection conn, int which) noexcept:
    """A timer of the connection."""
    cdef Path* path = conn.paths.first
    if conn.qlog is not None:
        log_expired(conn, NULL, which)
    if which == TIMER_CLOSE:
        finish_drained(conn, None)
    elif which == TIMER_HANDSHAKE:
        # Packets that only keep us awake are no progress.
        logger.debug("connection %d: the handshake took too long", conn.stable_id)
        finish_drained(conn, CloseReason("timed_out"))
    elif which == TIMER_IDLE:
        logger.debug("connection %d: idle timeout", conn.stable_id)
        finish_drained(conn, CloseReason("timed_out"))
    elif which == TIMER_KEYS:
        if keys_has_previous(&conn.keys):
            log_key_discarded(conn, LEVEL_1RTT)
        keys_drop_previous(&conn.keys)
        if not conn.is_client:
            if keys_can_open(&conn.keys, LEVEL_0RTT):
                log_key_discarded(conn, LEVEL_0RTT)
            keys_drop(&conn.keys, LEVEL_0RTT)
    elif which == TIMER_NO_PATH:
        if open_paths(conn) == 0:
            conn.fail(NO_VIABLE_PATH, b"", 0)
            end_failed(conn)
    elif which == TIMER_PROBES:
        probe_again(conn)
    elif which == TIMER_KEEP_ALIVE:
        while path != NULL:
            if not path.abandoned:
                beat(path)
            path = path.next


cdef void beat(Path* path) noexcept nogil:
    """Nothing happened for seconds: show that we are there, and keep only what such a path needs."""
    space_trim(&path.recovery.space)
    path_ping(path)


cdef void expire_path_timers(Connection conn, Path* path) noexcept nogil:
    cdef int which = timers_expired(&path.timers, conn.now, -1)
    while which >= 0:
        if which == TIMER_DRAIN:
            discard_path(conn, path)
            return
        expire_path_timer(conn, path, which)
        which = timers_expired(&path.timers, conn.now, which)


cdef void expire_path_timer(Connection conn, Path* path, int which) noexcept nogil:
    if conn.qlog is not None:
        log_expired(conn, path, which)
    # TIMER_PACING and TIMER_MTU only ask for the next transmit.
    if which == TIMER_LOSS:
        recovery_on_loss_timer(conn, path)
    elif which == TIMER_PROBE:
        recovery_on_probe_timer(conn, path)
    elif which == TIMER_ACK:
        space_ack_now(&path.recovery.space)
    elif which == TIMER_CHALLENGE:
        path.challenge_lost += 1
        path.challenge_due = True
    elif which == TIMER_VALIDATION:
        give_up_migration(conn, path)
    elif which == TIMER_PATH_IDLE:
        abandon_path(conn, path, PATH_UNSTABLE_OR_POOR)
    elif which == TIMER_HEARTBEAT:
        if not path.abandoned:
            beat(path)
    elif which == TIMER_SILENCE:
        if not path.abandoned:
            challenge_path(conn, path)


