"""Loss recovery of a path in time: when packets count as lost, when probes go out, and starting over. Source: RFC 9002 §6.2."""

from libc.stdint cimport int64_t, uint64_t

from iroh_fast.quic._codes cimport ST_HANDSHAKE
from iroh_fast.quic._controller cimport View
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._handshake_state cimport Stage, level_at
from iroh_fast.quic._keys cimport LEVEL_1RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL, keys_can_seal
from iroh_fast.quic._loss cimport declare_lost, detect_losses, forget_sent
from iroh_fast.quic._path_queries cimport amplification_blocked, must_abandon_itself
from iroh_fast.quic._paths cimport Path, path_probed, path_pto, path_rtt
from iroh_fast.quic._recovery_state cimport Flight, flight_view
from iroh_fast.quic._routing cimport probe_unanswered
from iroh_fast.quic._sent cimport sent_at
from iroh_fast.quic._space cimport PnSpace
from iroh_fast.quic._time cimport MS, NEVER, SECOND, doubled
from iroh_fast.quic._timers cimport TIMER_LOSS, TIMER_PROBE, timer_clear, timer_set

cdef double BITS = 8e9                # bits per second of one byte per ns


cdef inline int64_t earlier_loss(int64_t at, const Stage* stage) noexcept nogil:
    return stage.space.loss_time if stage.live and stage.space.loss_time and (at == 0 or stage.space.loss_time < at) else at


cdef inline int64_t loss_deadline(Connection conn, Path* path) noexcept nogil:
    """When packets of the path count as lost: 0 never."""
    cdef int64_t at = path.recovery.space.loss_time
    if path.id == 0:
        at = earlier_loss(at, conn.handshake.initial)
        at = earlier_loss(at, conn.handshake.handshake)
    return at


cdef int64_t backoff(Connection conn, Path* path, int64_t base) noexcept nogil:
    """Probe timeout after pto_count expiries, growing at most by a cap each time."""
    cdef int64_t cap, wait = base, grown
    cdef int64_t rtt = path_rtt(path)
    cdef int64_t idle = path.idle_timeout
    cdef int i
    if path.recovery.pto_count == 0:
        return base
    if rtt > 1333 * MS:
        cap = rtt + rtt // 2
    elif (idle and idle <= 25 * SECOND) or (conn.agreed.idle_timeout and conn.agreed.idle_timeout <= 25 * SECOND):
        cap = SECOND
    else:
        cap = 2 * SECOND
    for i in range(1, (path.recovery.pto_count if path.recovery.pto_count < 60 else 60) + 1):
        grown = doubled(base, i if i < 16 else 16)
        wait = grown if grown < wait + cap else wait + cap
    return wait


cdef inline int64_t unanswered_deadline(Path* path, int64_t wait) noexcept nogil:
    """When to probe although packets keep leaving.

    RFC 9002 §6.2.1 counts from the last one: a trickle, one packet each probe timeout, puts a probe off until the window is
    full. Where data could take another path, the oldest one that is not answered has to tell.
    """
    cdef int64_t since = sent_at(&path.recovery.space.sent, path.recovery.space.sent.head).sent_at
    if path.recovery.pto_count:
        return path.recovery.space.probed_at + wait
    return (since if since > path.recovery.space.probed_at else path.recovery.space.probed_at) + 2 * wait


cdef int64_t pto_deadline(Connection conn, Path* path, PnSpace** out, int* level) noexcept nogil:
    """When the path's loss probe is due: 0 never."""
    cdef Stage* initial = conn.handshake.initial
    cdef Stage* handshake = conn.handshake.handshake
    cdef PnSpace* space = &path.recovery.space
    cdef int64_t best = 0, at, wait
    cdef int64_t base = path_pto(path)
    cdef bint something = False
    if path.abandoned and not must_abandon_itself(conn, path):
        return 0
    if amplification_blocked(conn, path, 0):
        return 0
    if path.id == 0:
        if initial.live and initial.space.sent.outstanding:
            something = True
            best = initial.space.last_eliciting_at + backoff(conn, path, base)
            out[0] = &initial.space
            level[0] = LEVEL_INITIAL
        if handshake.live and handshake.space.sent.outstanding:
            something = True
            at = handshake.space.last_eliciting_at + backoff(conn, path, base)
            if best == 0 or at < best:
                best = at
                out[0] = &handshake.space
                level[0] = LEVEL_HANDSHAKE
    if space.sent.outstanding and (conn.handshake.confirmed or (
            conn.handshake.done and not initial.live and not handshake.live)):
        something = True
        wait = backoff(conn, path, base + conn.agreed.peer_max_ack_delay)
        at = space.last_eliciting_at + wait
        if conn.paths.first.next != NULL and unanswered_deadline(path, wait) < at:
            at = unanswered_deadline(path, wait)
        if best == 0 or at < best:
            best = at
            out[0] = space
            level[0] = LEVEL_1RTT
    if not something and path.id == 0 and conn.is_client and not conn.handshake.peer_validated_us and conn.state == ST_HANDSHAKE:
        # Anti-deadlock: the server may be blocked by the amplification limit.
        best = path.last_tx + backoff(conn, path, base)
        if handshake.live and keys_can_seal(&conn.keys, LEVEL_HANDSHAKE):
            out[0] = &handshake.space
            level[0] = LEVEL_HANDSHAKE
        else:
            out[0] = &initial.space
            level[0] = LEVEL_INITIAL
    return best


cdef void recovery_timers(Connection conn, Path* path) noexcept nogil:
    """When losses are looked for, and when the next probe goes out."""
    cdef PnSpace* space
    cdef int level
    cdef int64_t at = loss_deadline(conn, path)
    timer_set(&path.timers, TIMER_LOSS, at if at else NEVER)
    if at:
        timer_clear(&path.timers, TIMER_PROBE)
        return
    at = pto_deadline(conn, path, &space, &level)
    timer_set(&path.timers, TIMER_PROBE, at if at else NEVER)


cdef void check_stage(Connection conn, Path* path, int level) noexcept nogil:
    cdef Stage* stage = level_at(&conn.handshake, level)
    if stage.live and stage.space.loss_time:
        detect_losses(conn, path, &stage.space, level, NULL)


cdef void recovery_on_loss_timer(Connection conn, Path* path) noexcept nogil:
    if path.recovery.space.loss_time:
        detect_losses(conn, path, &path.recovery.space, LEVEL_1RTT, NULL)
    if path.id == 0:
        check_stage(conn, path, LEVEL_INITIAL)
        check_stage(conn, path, LEVEL_HANDSHAKE)


cdef void recovery_on_probe_timer(Connection conn, Path* path) noexcept nogil:
    """The probe timeout: something that asks for an acknowledgement goes out, whatever the window says."""
    cdef PnSpace* space = NULL
    cdef int level = 0
    if pto_deadline(conn, path, &space, &level) == 0:
        return
    space.loss_probes += 2 if space.sent.outstanding else 1
    if space.loss_probes > 2:
        space.loss_probes = 2
    path.recovery.pto_count += 1
    if level == LEVEL_1RTT:
        probe_unanswered(conn, path)
    if space.sent.outstanding == 0:
        path_probed(path, conn.now)
    else:
        # The next expiry counts from the probe that goes out now, even if nothing can be sent.
        space.last_eliciting_at = space.probed_at = conn.now
    if conn.qlog is not None:
        log_metrics(conn, path)


cdef inline void probe_stage(Stage* stage) noexcept nogil:
    if stage.live and stage.space.sent.outstanding:
        stage.space.loss_probes = 1


cdef void recovery_try_again(Connection conn, Path* path) noexcept nogil:
    """Forget the backoff of a path's probes and send one at once."""
    path.recovery.pto_count = 0
    if path.recovery.space.sent.outstanding:
        path.recovery.space.loss_probes = 2
    if path.id == 0:
        probe_stage(conn.handshake.initial)
        probe_stage(conn.handshake.handshake)


cdef void recovery_restart(Path* path, PnSpace* initial) noexcept nogil:
    """A Retry: whatever was sent counts as never sent. Packet numbers go on."""
    forget_sent(path, initial)
    forget_sent(path, &path.recovery.space)
    path.recovery.pto_count = 0
    path.route.flight.in_flight = 0


cdef void recovery_stop(Path* path) noexcept nogil:
    """The path is abandoned: nothing is probed any more."""
    path.recovery.pto_count = 0
    path.recovery.space.loss_probes = 0


cdef void recovery_abandon(Connection conn, Path* path) noexcept nogil:
    """The path goes: what is in flight is lost."""
    cdef PnSpace* space = &path.recovery.space
    while space.sent.outstanding:
        declare_lost(conn, path, space, space.sent.head, LEVEL_1RTT)


cdef const char* mode_of(Path* path, const View* view) noexcept nogil:
    """What the controller is doing: its own word, or how RFC 9002 §7.3 calls it."""
    cdef Flight* flight = &path.route.flight
    if view.mode != NULL:
        return view.mode
    if path.recovery.app_limited:
        return b"application_limited"
    if flight.cc.recovery_start >= 0 and path.recovery.space.largest_acked_at <= flight.cc.recovery_start:
        return b"recovery"
    return b"slow_start" if flight.cc.cwnd < flight.cc.ssthresh else b"congestion_avoidance"


cdef void log_metrics(Connection conn, Path* path) noexcept nogil:
    """For qlog: round trips, window, rate and mode, as far as they changed."""
    cdef uint64_t packets = path.recovery.space.sent.outstanding
    cdef Flight* flight = &path.route.flight
    cdef View view
    if path.id == 0:
        packets += conn.handshake.initial.space.sent.outstanding + conn.handshake.handshake.space.sent.outstanding
    flight_view(flight, &view)
    with gil:
        conn.qlog.metrics(conn.now, path.id, (
            view.min_rtt or flight.rtt.min, path_rtt(path), flight.rtt.latest, flight.rtt.var, path.recovery.pto_count,
            flight.cc.cwnd, flight.in_flight, flight.cc.ssthresh, packets, int(view.pacing_rate * BITS),
            int(view.bandwidth * BITS), view.inflight_longterm, view.inflight_shortterm))
        conn.qlog.mode(conn.now, path.id, (<bytes>mode_of(path, &view)).decode())
