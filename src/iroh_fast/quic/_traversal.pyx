"""NAT traversal: rounds, probes, and what answers lead to.

The server says where it may be reached (ADD_ADDRESS), the client begins rounds and says the same of itself (REACH_OUT). Both
then send small probing packets to each address of the other until one is answered, so that every NAT and firewall on the way
has seen something leave for there. What answers the client becomes a path; the server learns of it by its first packet.
A probe is a short-header packet of a validated path with nothing but a PATH_CHALLENGE: no padding, no acknowledgement, no
record, no share of a congestion window. Sources: iroh's NAT traversal frames, RFC 9000 §8.2 and §21.5.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from iroh_fast._batch cimport UdpAddr, addr_to_tuple
from iroh_fast._packet._frames cimport (
    FT_ADD_ADDRESS_V4, FT_ADD_ADDRESS_V6, FT_REACH_OUT_V4, FT_REACH_OUT_V6, FT_REMOVE_ADDRESS, Frame)
from iroh_fast.quic._codes cimport INTERNAL_ERROR, PROTOCOL_VIOLATION, ST_ESTABLISHED, W_PATHS
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._opening cimport OPEN_NO_CIDS, OPEN_NO_ID, has_path_to, open_path_to
from iroh_fast.quic._path_queries cimport find_path
from iroh_fast.quic._paths cimport OffPath, Path, STATUS_BACKUP, same_addr
from iroh_fast.quic._time cimport SECOND
from iroh_fast.quic._timers cimport TIMER_PROBES, timer_clear, timer_is_set, timer_set
from iroh_fast.quic._traversal_addresses cimport announce_round, may_announce
from iroh_fast.quic._traversal_state cimport (
    Candidate, Proven, Traversal, addr_is_fit, addr_is_loopback, ask, bar, candidate_add, candidate_at, candidate_find,
    candidate_remove, candidate_renew, candidate_start, candidates_clear, count_answer, count_held, count_refused, own_at,
    probe_answered, probe_done, probe_sent, proven_add, proven_remove, retry_delay, round_active, round_begin, round_next,
    token_sent_at)
from iroh_fast.quic._validation cimport path_proven


cdef enum:
    FRESH_S = 10                  # an answer proves an address for so long


# ---------------------------------------------------------------- rounds
cdef bint start_round(Connection conn) noexcept nogil:
    cdef Traversal* t = &conn.traversal
    if not conn.is_client or not conn.agreed.nat or conn.state != ST_ESTABLISHED or not may_announce(conn):
        return False
    round_begin(t, t.round + 1)
    if not announce_round(conn):
        return False
    arm(conn)
    return True


cdef inline void arm(Connection conn) noexcept nogil:
    """Ask again after a while, as long as there is somebody to ask."""
    if round_active(&conn.traversal):
        timer_set(&conn.timers, TIMER_PROBES, conn.now + retry_delay(conn.cfg.initial_rtt, conn.traversal.attempt))
    else:
        timer_clear(&conn.timers, TIMER_PROBES)


cdef void probe_again(Connection conn) noexcept nogil:
    round_next(&conn.traversal)
    arm(conn)


# ---------------------------------------------------------------- what the peer says
cdef int on_address_frame(Connection conn, Frame* frame) noexcept nogil:
    cdef UdpAddr addr
    cdef uint64_t kind = frame.type
    if not conn.agreed.nat:
        return conn.fail(PROTOCOL_VIOLATION, b"n0's nat traversal was not negotiated", 0)
    if (kind == FT_REACH_OUT_V4 or kind == FT_REACH_OUT_V6) == conn.is_client:
        return conn.fail(PROTOCOL_VIOLATION, b"Not allowed for this endpoint's connection side", 0)
    if kind == FT_REMOVE_ADDRESS:
        on_remove_address(conn, frame.id)
        return 0
    memset(&addr, 0, sizeof(UdpAddr))
    memcpy(addr.ip, frame.ip, 16)     # IPv4 in its one form, however it was written
    addr.port = frame.port
    if conn.is_client:
        return on_add_address(conn, frame.id, &addr)
    return on_reach_out(conn, frame.id, &addr)


cdef int on_add_address(Connection conn, uint64_t seq, const UdpAddr* addr) noexcept nogil:
    """The server may be reached there."""
    cdef Traversal* t = &conn.traversal
    cdef Candidate* candidate = candidate_find(t, seq)
    if not addr_is_fit(addr):
        count_refused(t)
        if candidate != NULL:
            on_remove_address(conn, seq)
        return 0
    if candidate != NULL:
        if same_addr(&candidate.addr, addr):
            return 0
        candidate_renew(t, candidate, addr)
    else:
        if t.n_candidates >= conn.cfg.max_nat:
            count_refused(t)
            return 0
        candidate = candidate_add(t, addr, seq)
        if candidate == NULL:
            return conn.fail(INTERNAL_ERROR, b"out of memory", 0)
    if timer_is_set(&conn.timers, TIMER_PROBES) and candidate_at(t, addr) == candidate:
        # Ours: the server has our addresses and probes them now, so this one need not wait for the next round.
        candidate_begin(conn, candidate)
    conn.happened(W_PATHS)
    return 0


cdef void on_remove_address(Connection conn, uint64_t seq) noexcept nogil:
    cdef Candidate* candidate = candidate_find(&conn.traversal, seq)
    if candidate != NULL:
        candidate_remove(&conn.traversal, candidate)
        conn.happened(W_PATHS)


cdef int on_reach_out(Connection conn, uint64_t round, const UdpAddr* addr) noexcept nogil:
    """The client begins a round, or names a further address of it."""
    cdef Traversal* t = &conn.traversal
    cdef Candidate* candidate
    if round < t.round:
        return 0
    if round > t.round:
        candidates_clear(t)
        round_begin(t, round)
        timer_clear(&conn.timers, TIMER_PROBES)
        conn.happened(W_PATHS)
    if not addr_is_fit(addr):
        count_refused(t)
        return 0
    if candidate_at(t, addr) != NULL:
        return 0
    if t.n_candidates >= conn.cfg.max_nat:
        return conn.fail(PROTOCOL_VIOLATION, b"Tried to add too many addresses to their advertised address set", 0)
    candidate = candidate_add(t, addr, 0)
    if candidate == NULL:
        return conn.fail(INTERNAL_ERROR, b"out of memory", 0)
    candidate_begin(conn, candidate)
    conn.happened(W_PATHS)
    return 0


cdef void candidate_begin(Connection conn, Candidate* candidate) noexcept nogil:
    candidate_start(&conn.traversal, candidate)
    if not timer_is_set(&conn.timers, TIMER_PROBES):
        arm(conn)


# ---------------------------------------------------------------- probes
cdef bint is_barred(Connection conn, const UdpAddr* addr) noexcept nogil:
    """Our own addresses, and loopback unless we are reached there ourselves: what a peer says must not have us poke about
    in our own machine."""
    cdef Traversal* t = &conn.traversal
    cdef int i
    if own_at(t, addr) != NULL:
        return True
    if not addr_is_loopback(addr):
        return False
    for i in range(t.n_own):
        if not t.own[i].gone and addr_is_loopback(&t.own[i].addr):
            return False
    return True


cdef Path* path_for_probes(Connection conn) noexcept nogil:
    """Whose connection id and packet numbers probes use: the peer knows them. NULL: none."""
    cdef Path* path = conn.paths.first
    while path != NULL and (path.abandoned or not path.route.validated or path.cids.active < 0):
        path = path.next
    return path


cdef bint next_probe(Connection conn, OffPath* out) noexcept nogil:
    cdef Traversal* t = &conn.traversal
    cdef Candidate* candidate
    cdef Path* path = path_for_probes(conn) if t.n_due else NULL
    cdef int i
    if path == NULL:
        return False
    for i in range(t.n_candidates):
        candidate = &t.candidates[i]
        if not candidate.due:
            continue
        probe_done(t, candidate)
        if is_barred(conn, &candidate.addr):
            bar(t, candidate)
        elif not conn.host.may_probe(&candidate.addr, conn.now):
            count_held(t)
        else:
            memset(out, 0, sizeof(OffPath))
            out.path_id = path.id
            out.remote = candidate.addr
            out.challenge = True
            conn.host.random.fill(out.data, 8)
            probe_sent(t, candidate, out.data, conn.now)
            return True
    return False


cdef bint works_there(Connection conn, const UdpAddr* remote) noexcept nogil:
    """Whether some path leads to an address, from wherever: a second one would be no better."""
    cdef Path* path = conn.paths.first
    while path != NULL:
        if path.route.validated and not path.abandoned and not path.silent and same_addr(&path.route.remote, remote):
            return True
        path = path.next
    return False


cdef bint ask_along(Connection conn, const UdpAddr* remote, const UdpAddr* local, uint8_t* token8) noexcept nogil:
    """A server behind a NAT with a mapping for each destination is reached where its probe came from, not where it says."""
    if not conn.is_client or not conn.agreed.nat or not addr_is_fit(remote) or has_path_to(conn, remote, local):
        return False
    if works_there(conn, remote):
        return False
    conn.host.random.fill(token8, 8)
    ask(&conn.traversal, remote, token8, conn.now)
    return True


# ---------------------------------------------------------------- answers
cdef bint on_probe_answered(Connection conn, const uint8_t* token8, const UdpAddr* src, const UdpAddr* dst) noexcept nogil:
    cdef Traversal* t = &conn.traversal
    cdef Candidate* candidate
    cdef int64_t at = token_sent_at(t, src, token8) if conn.agreed.nat else -1
    if at < 0:
        return False
    count_answer(t)
    candidate = candidate_at(t, src)
    if candidate != NULL:
        probe_answered(t, candidate, conn.now - at, conn.now)
    prove_paths(conn, src, conn.now - at)
    if conn.is_client:
        proven_add(t, src, dst, conn.now - at, conn.now)
        open_proven(conn)
    conn.happened(W_PATHS)
    return True


cdef void prove_paths(Connection conn, const UdpAddr* remote, int64_t rtt) noexcept nogil:
    """Paths to an address that answered, which the peer may have opened before its answer came."""
    cdef Path* path = conn.paths.first
    while path != NULL:
        if not path.abandoned and not path.route.validated and same_addr(&path.route.remote, remote):
            path_proven(conn, path, rtt)
        path = path.next


cdef void open_proven(Connection conn) noexcept nogil:
    """Open a path to each address that answered; without ids for one they wait.

    Ours: the answer is a proof of the address, so data need not wait for another round trip. The path's own challenge,
    which is under way, shows that it carries full packets (RFC 9000 §8.2.1).
    """
    cdef Traversal* t = &conn.traversal
    cdef Proven proven
    cdef int64_t id
    while t.n_proven:
        proven = t.proven[0]
        if not has_path_to(conn, &proven.remote, &proven.local):
            id = open_path_to(conn, &proven.remote, &proven.local, STATUS_BACKUP)
            if id == OPEN_NO_ID or id == OPEN_NO_CIDS:
                return
            if id >= 0 and conn.now - proven.at < FRESH_S * SECOND:
                path_proven(conn, find_path(conn, <uint32_t>id), proven.rtt)
        proven_remove(t, 0)


cdef void adopt_proof(Connection conn, Path* path) noexcept nogil:
    """The client has opened a path from an address that answered a probe."""
    cdef Candidate* candidate = candidate_at(&conn.traversal, &path.route.remote)
    if candidate != NULL and candidate.answered and conn.now - candidate.answered_at < FRESH_S * SECOND:
        path_proven(conn, path, candidate.rtt)


# ---------------------------------------------------------------- for the layers above
cdef list peer_addresses(Connection conn):
    cdef Traversal* t = &conn.traversal
    cdef int i
    return [addr_to_tuple(&t.candidates[i].addr) for i in range(t.n_candidates)
            if candidate_at(t, &t.candidates[i].addr) == &t.candidates[i]]


cdef dict traversal_snapshot(Connection conn):
    cdef Traversal* t = &conn.traversal
    cdef int i
    return {
        "round": t.round, "probing": timer_is_set(&conn.timers, TIMER_PROBES) or t.n_due > 0,
        "own": [addr_to_tuple(&t.own[i].addr) for i in range(t.n_own) if not t.own[i].gone],
        "candidates": [
            {"addr": addr_to_tuple(&t.candidates[i].addr), "probes": t.candidates[i].sent,
             "answered": bool(t.candidates[i].answered), "barred": bool(t.candidates[i].barred)}
            for i in range(t.n_candidates)],
        "waiting": [addr_to_tuple(&t.proven[i].remote) for i in range(t.n_proven)],
        "probes": t.probes, "answers": t.answers, "refused": t.refused, "held": t.held}
