"""The paths of a connection: opening, proving, abandoning, and what all of them say together.

Sources: RFC 9000 §9, the multipath draft, and iroh's use of it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset

from iroh_fast._batch cimport UdpAddr, addr_to_tuple
from iroh_fast._packet._frames cimport FT_PATHS_BLOCKED, Frame
from iroh_fast.quic._agreed cimport DEFAULT_ACK_DELAY_MS
from iroh_fast.quic._cids cimport drop_ids, issue_ids, issue_path_ids, reset_spin, watch_reset
from iroh_fast.quic._codes cimport (
    APPLICATION_ABANDON_PATH, INTERNAL_ERROR, PATH_UNSTABLE_OR_POOR, PROTOCOL_VIOLATION, ST_ESTABLISHED, W_PATHS)
from iroh_fast.quic._control_queue cimport queue_control
from iroh_fast.quic._controller cimport UINT64_MAX, View
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._ledger cimport (
    CONTROL_MAX_PATH_ID, CONTROL_PATHS_BLOCKED, CONTROL_PATH_ABANDON, CONTROL_PATH_STATUS)
from iroh_fast.quic._mtud cimport mtud_init, mtud_peer_limit
from iroh_fast.quic._path_queries cimport find_ids, find_path, open_paths, was_abandoned
from iroh_fast.quic._paths cimport (
    CidSet, Path, PathStats, Route, STATUS_BACKUP, ids_add, ids_end, ip_known, path_challenging, path_cwnd, path_free,
    path_new, path_pto, path_rtt, same_addr, stats_add)
from iroh_fast.quic._recovery cimport recovery_abandon, recovery_stop, recovery_try_again
from iroh_fast.quic._recovery_state cimport flight_expect, flight_init, flight_view
from iroh_fast.quic._routing cimport path_answered
from iroh_fast.quic._rtt cimport rtt_conservative
from iroh_fast.quic._space cimport space_init
from iroh_fast.quic._time cimport MS
from iroh_fast.quic._timers cimport (
    TIMER_CHALLENGE, TIMER_DRAIN, TIMER_NO_PATH, TIMER_VALIDATION, timer_clear, timer_is_set, timer_set)
from iroh_fast.quic._trace cimport log_tuple

from iroh_fast.quic._counters import FRAME_NAMES

cdef enum:
    MAX_PATH_LOG = 64

ABANDON_REASONS = {APPLICATION_ABANDON_PATH: "application", PATH_UNSTABLE_OR_POOR: "timed out"}


cdef void init_route(Connection conn, Route* route, const UdpAddr* remote, const UdpAddr* local) noexcept nogil:
    memset(route, 0, sizeof(Route))
    route.remote = remote[0]
    if local != NULL:
        route.local = local[0]
    route.ecn = True
    conn.paths.generation += 1
    flight_init(&route.flight, conn.paths.generation, conn.cfg.initial_rtt, conn.cfg.cc, conn.cfg.initial_mtu, conn.now)
    mtud_init(&route.mtud, conn.cfg.initial_mtu, conn.cfg.min_mtu, conn.cfg.mtu_bound, conn.cfg.mtu_interval,
              conn.cfg.mtu_cooldown, conn.cfg.mtu_min_change, conn.cfg.mtud)


cdef Path* add_path(Connection conn, uint32_t id, const UdpAddr* remote, const UdpAddr* local) noexcept nogil:
    """Create the state of a path; it inherits validation and RTT of a path on the same 4-tuple."""
    cdef Path* path = path_new(id)
    cdef Path* other
    cdef Path** at
    if path == NULL:
        return NULL
    init_route(conn, &path.route, remote, local)
    space_init(&path.recovery.space, conn.host.random.word())
    reset_spin(conn, path)
    path.last_rx = path.last_tx = path.idle_from = conn.now
    path.permit_idle_reset = True
    path.idle_timeout = conn.cfg.path_idle if id or conn.agreed.multipath else 0
    mtud_peer_limit(&path.route.mtud, <uint16_t>conn.agreed.peer_udp)
    other = conn.paths.first
    while other != NULL:
        if other.route.validated and not other.abandoned and same_addr(&other.route.remote, remote):
            path.route.validated = True
            flight_expect(&path.route.flight, rtt_conservative(&other.route.flight.rtt))
            break
        other = other.next
    path.cids = find_ids(conn, id, True)
    if path.cids == NULL:
        path_free(path)
        return NULL
    at = &conn.paths.first
    while at[0] != NULL and at[0].id < id:
        at = &at[0].next
    path.next = at[0]
    at[0] = path
    watch_reset(conn, path.cids)
    if <int64_t>id > conn.paths.max_used:
        conn.paths.max_used = id
    if conn.qlog is not None:
        log_tuple(conn, path)
    return path


cdef void challenge_path(Connection conn, Path* path) noexcept nogil:
    path.challenge_due = True
    path.challenge_lost = 0
    timer_clear(&path.timers, TIMER_CHALLENGE)


cdef void path_established(Connection conn, Path* path) noexcept nogil:
    """First proof that the path works."""
    if path.established:
        return
    path.established = True
    if path.id:
        issue_ids(conn, path.id)     # path 0 has got its own with the handshake
    if conn.agreed.send_observed and path.id:
        path.observed_due = True     # path 0 has been told with the parameters
    with gil:
        log_opened(conn, path)


cdef void log_path(Connection conn, str kind, uint32_t id, object a, object b, object c, object d):
    cdef tuple event = (kind, id, a, b, c, d)
    log_event(conn, event[:6 if kind == "closed" else 3])


cdef struct Opened:
    uint32_t id
    UdpAddr remote, local


cdef void log_opened(Connection conn, const Path* path):
    """Most connections open one path, and nobody asks for it: kept small."""
    cdef Opened event
    event.id = path.id
    event.remote = path.route.remote
    event.local = path.route.local
    log_event(conn, PyBytes_FromStringAndSize(<char*>&event, sizeof(Opened)))


cdef object read_event(object event):
    cdef Opened opened
    if isinstance(event, bytes):
        memcpy(&opened, PyBytes_AS_STRING(event), sizeof(Opened))
        return ("opened", opened.id, addr_to_tuple(&opened.remote),
                addr_to_tuple(&opened.local) if ip_known(&opened.local) else None)
    if event[0] == "closed":
        return (*event[:4], str(event[4]), (<PathStatistics>event[5]).as_dict())
    return event


cdef void log_event(Connection conn, object event):
    # Also when nobody takes the events: the listener follows the paths themselves.
    conn.happened(W_PATHS)
    if conn.path_log_off:
        return
    if conn.path_log is None:
        conn.path_log = ()
    if len(conn.path_log) >= MAX_PATH_LOG:
        conn.paths.log_lost += 1
        return
    conn.path_log += (event,)


cdef void try_again(Connection conn, Path* path) noexcept nogil:
    """The path may work again: forget how long it was silent, and ask at once."""
    path_answered(conn, path)
    path.challenge_lost = 0
    if path_challenging(path):
        path.challenge_due = True
    path.ping_due = True
    if conn.agreed.peer_ack_frequency:
        path.immediate_ack_due = True
    recovery_try_again(conn, path)


cdef void set_path_status(Connection conn, Path* path, int status) noexcept nogil:
    if path.status != status:
        # Whoever follows the paths may have looked between the news and what was made of it.
        conn.happened(W_PATHS)
    path.status = status
    path.status_seq += 1
    if conn.agreed.multipath:
        path.status_due = True
        if not path.status_queued:
            path.status_queued = queue_control(conn, CONTROL_PATH_STATUS, path.id, 0, 0) == 0


cdef void grant_path(Connection conn) noexcept nogil:
    """Both sides gave up a path id: allow the peer another one."""
    if conn.paths.local_max < <uint32_t>0xffffffff:
        conn.paths.local_max += 1
        queue_control(conn, CONTROL_MAX_PATH_ID, 0, 0, 0)
        issue_path_ids(conn)


cdef int give_up_id(Connection conn, uint32_t id, uint64_t code) noexcept nogil:
    """A path id must not come back; the peer is told."""
    if ids_add(&conn.paths.abandoned, id) < 0:
        return conn.fail(INTERNAL_ERROR, b"out of memory", 0)
    return queue_control(conn, CONTROL_PATH_ABANDON, id, 0, code)


cdef void abandon_path(Connection conn, Path* path, uint64_t code) noexcept nogil:
    """Stop using a path and tell the peer."""
    if path.abandoned:
        return
    path.abandoned = True
    conn.paths.n_draining += 1
    path.abandon_code = code
    path.abandon_due = True
    path.challenge_due = False
    timer_clear(&path.timers, TIMER_CHALLENGE)
    timer_clear(&path.timers, TIMER_VALIDATION)
    path.ping_due = path.immediate_ack_due = path.observed_due = path.response_due = False
    recovery_stop(path)
    give_up_id(conn, path.id, code)
    watch_reset(conn, NULL)
    with gil:
        log_path(conn, "closed", path.id, addr_to_tuple(&path.route.remote),
                      addr_to_tuple(&path.route.local) if ip_known(&path.route.local) else None,
                      ABANDON_REASONS.get(code, f"code {code:#x}") if not path.abandon_received
                      else f"closed by peer: {code:#x}",
                      path_statistics(path))


cdef inline str mode_name(const View* view):
    return (<bytes>view.mode).decode() if view.mode != NULL else ""


cdef object bound(uint64_t size):
    return size if size != UINT64_MAX else None


cdef object controller_info(const Path* path):
    """What congestion control thinks of a path; rates in bytes per second, None: no bound."""
    cdef View view
    flight_view(&path.route.flight, &view)
    return {
        "mode": mode_name(&view), "bandwidth": view.bandwidth * 1e9, "pacing_rate": view.pacing_rate * 1e9,
        "min_rtt": view.min_rtt / 1e9, "inflight_longterm": bound(view.inflight_longterm),
        "inflight_shortterm": bound(view.inflight_shortterm), "own_loss": view.own_loss}


@cython.final
cdef class PathStatistics:
    """What a path has counted until now, as cheap as a copy: most connections end without anybody asking."""

    cdef PathStats counted
    cdef View view
    cdef double rtt
    cdef uint64_t cwnd, probes_sent, probes_lost, black_holes
    cdef uint16_t mtu

    def as_dict(self):
        cdef PathStats* counted = &self.counted
        cdef int i
        return {
            "udp_tx": {"datagrams": counted.tx_datagrams, "bytes": counted.tx_bytes},
            "udp_rx": {"datagrams": counted.rx_datagrams, "bytes": counted.rx_bytes},
            "frame_tx": {name: counted.tx_frames[i] for i, name in enumerate(FRAME_NAMES)},
            "frame_rx": {name: counted.rx_frames[i] for i, name in enumerate(FRAME_NAMES)},
            "rtt": self.rtt, "cwnd": self.cwnd, "congestion_events": counted.congestion_events,
            "spurious_congestion_events": counted.spurious, "lost_packets": counted.lost_packets, "lost_bytes": counted.lost_bytes,
            "sent_plpmtud_probes": self.probes_sent, "lost_plpmtud_probes": self.probes_lost,
            "black_holes_detected": self.black_holes, "current_mtu": self.mtu,
            "congestion_mode": mode_name(&self.view), "bandwidth": self.view.bandwidth * 1e9,
            "pacing_rate": self.view.pacing_rate * 1e9}


cdef object path_statistics(Path* path):
    cdef PathStatistics now = PathStatistics.__new__(PathStatistics)
    now.counted = path.stats
    flight_view(&path.route.flight, &now.view)
    now.rtt = path_rtt(path) / 1e9
    now.cwnd = path_cwnd(path)
    now.probes_sent = path.route.mtud.probes_sent
    now.probes_lost = path.route.mtud.probes_lost
    now.black_holes = path.route.mtud.black_holes
    now.mtu = path.route.mtud.current
    return now


cdef int on_path_abandon(Connection conn, Frame* frame) noexcept nogil:
    cdef Path* path = find_path(conn, <uint32_t>frame.path)
    cdef uint32_t id = <uint32_t>frame.path
    if path == NULL:
        if frame.path > conn.paths.sent_max:
            return conn.fail(PROTOCOL_VIOLATION, b"PATH_ABANDON contains path_id exceeding current max", 0)
        if not conn.is_client and not was_abandoned(conn, id):
            # Opened by the client but never seen here. Without an answer its id would be lost for both.
            drop_ids(conn, id)
            if give_up_id(conn, id, frame.value) < 0:
                return -1
            grant_path(conn)
        return 0
    if path.abandon_received:
        return 0
    path.abandon_received = True
    abandon_path(conn, path, frame.value)
    timer_set(&path.timers, TIMER_DRAIN, conn.now + 3 * (path_pto(path) + conn.agreed.peer_max_ack_delay))
    grant_path(conn)
    if open_paths(conn) == 0 and not timer_is_set(&conn.timers, TIMER_NO_PATH):
        timer_set(&conn.timers, TIMER_NO_PATH, conn.now + 3 * (conn.cfg.initial_rtt * 3 + DEFAULT_ACK_DELAY_MS * MS))
    return 0


cdef void on_path_status(Connection conn, Frame* frame, int status) noexcept nogil:
    """The peer's status of a path: told to the application, not used."""
    cdef Path* path = find_path(conn, <uint32_t>frame.path)
    cdef bint news
    if path == NULL or <int64_t>frame.id <= path.remote_status_seq:
        return
    news = path.remote_status_seq < 0 or path.remote_status != status
    path.remote_status_seq = <int64_t>frame.id
    path.remote_status = status
    if news:
        with gil:
            log_path(conn, "status", path.id, "backup" if status == STATUS_BACKUP else "available", None, None, None)


cdef void discard_path(Connection conn, Path* path) noexcept nogil:
    """Drained: what was in flight is lost, the ids are forgotten, counters are kept."""
    cdef Path** at = &conn.paths.first
    if conn.qlog is not None:
        with gil:
            conn.qlog.assigned(conn.now, path.id, None, None)
    recovery_abandon(conn, path)
    if conn.paths.done == NULL:
        conn.paths.done = <PathStats*>calloc(1, sizeof(PathStats))
    if conn.paths.done != NULL:
        stats_add(conn.paths.done, &path.stats)
    drop_ids(conn, path.id)
    while at[0] != path:
        at = &at[0].next
    at[0] = path.next
    conn.paths.n_draining -= 1
    if conn.paths.last_found == path:
        conn.paths.last_found = NULL
    path_free(path)


cdef void discard_oldest(Connection conn) noexcept nogil:
    """Of the abandoned paths, the one with the lowest id waits no longer."""
    cdef Path* path = conn.paths.first
    while not path.abandoned:
        path = path.next
    if not path.abandon_received:
        # The peer's answer will find no path any more.
        grant_path(conn)
    discard_path(conn, path)


# ---------------------------------------------------------------- limits
cdef void start_multipath(Connection conn, uint64_t peer_limit) noexcept nogil:
    """Both sides have announced how many paths they allow."""
    conn.agreed.multipath = True
    conn.paths.local_max = conn.paths.sent_max = conn.cfg.max_paths - 1
    conn.paths.remote_max = <uint32_t>peer_limit


cdef bint may_be_opened(Connection conn, uint32_t id) noexcept nogil:
    """Whether the peer may open a path with this id: only the client does, and only after the handshake."""
    return (not conn.is_client and conn.agreed.multipath and id <= conn.paths.local_max and not was_abandoned(conn, id)
            and conn.state == ST_ESTABLISHED)


cdef int64_t next_path_id(Connection conn) noexcept nogil:
    """The id of the next path that we open; -1 when the peer allows no more."""
    cdef int64_t id = conn.paths.max_used + 1
    cdef uint32_t top = conn.paths.local_max if conn.paths.local_max < conn.paths.remote_max else conn.paths.remote_max
    if <int64_t>ids_end(&conn.paths.abandoned) > id:
        id = <int64_t>ids_end(&conn.paths.abandoned)
    if id > top:
        queue_control(conn, CONTROL_PATHS_BLOCKED, 0, conn.paths.remote_max, 0)
        return -1
    return id


cdef void on_max_path_id(Connection conn, Frame* frame) noexcept nogil:
    if frame.id > conn.paths.remote_max:
        conn.paths.remote_max = <uint32_t>frame.id
        issue_path_ids(conn)


cdef int on_blocked(Connection conn, Frame* frame) noexcept nogil:
    """PATHS_BLOCKED and PATH_CIDS_BLOCKED: the peer has what we allow, or soon will; only lies matter."""
    cdef CidSet* ids
    if frame.type == FT_PATHS_BLOCKED:
        if frame.id > conn.paths.local_max:
            return conn.fail(PROTOCOL_VIOLATION, b"PATHS_BLOCKED maximum path identifier was larger than local maximum", 0)
        return 0
    if frame.path > conn.paths.local_max:
        return conn.fail(PROTOCOL_VIOLATION, b"PATH_CIDS_BLOCKED path identifier was larger than local maximum", 0)
    ids = find_ids(conn, <uint32_t>frame.path, False)
    if frame.value > (ids.next_seq if ids != NULL else 0) + 1:
        return conn.fail(PROTOCOL_VIOLATION, b"PATH_CIDS_BLOCKED next sequence number larger than in local state", 0)
    return 0


cdef object path_stats(Path* path):
    return (<PathStatistics>path_statistics(path)).as_dict()


cdef list read_path_log(Connection conn):
    """Take the events, complete."""
    cdef tuple events = conn.path_log
    cdef list out = [read_event(event) for event in events]
    conn.path_log = None
    if conn.paths.log_lost:
        out.append(("lagged", conn.paths.log_lost))
        conn.paths.log_lost = 0
    return out


cdef void record_path_log(Connection conn, bint on):
    """Whether to keep events. Off: those that wait are forgotten."""
    conn.path_log_off = not on
    if not on:
        conn.path_log = None
        conn.paths.log_lost = 0


cdef bytes addr_bytes(const UdpAddr* a):
    return PyBytes_FromStringAndSize(<char*>a, sizeof(UdpAddr))
