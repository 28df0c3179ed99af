"""Which addresses are proven, and how much may go to those that are not.

An address is proven when it answers a PATH_CHALLENGE. Until then at most three times the bytes that came from it go there,
padding included, whatever they carry and whichever path they belong to. The count of a path's present address is in its
route; addresses that paths have left, or that only sent probes, are in a bounded table. An entry that is pushed out takes
unused allowance with it and never gives any back, so forgetting is safe.
Sources: RFC 9000 §8.1, §8.2, §9.3, §21.5.6, the multipath draft.
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t, int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memmove

from iroh_fast._batch cimport UdpAddr, addr_is_v4
from iroh_fast.quic._cids cimport reset_spin, rotate_id
from iroh_fast.quic._codes cimport W_PATHS
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._mtud cimport mtud_moved, mtud_peer_limit
from iroh_fast.quic._path_queries cimport path_allowance
from iroh_fast.quic._path_table cimport challenge_path, init_route, path_established
from iroh_fast.quic._paths cimport (
    AddressBudget, MAX_BUDGETS, MAX_CHALLENGES, MAX_OFF_PATH, OffPath, Path, Route, ip_known, path_generation, path_pto,
    same_addr, same_ip)
from iroh_fast.quic._recovery_state cimport flight_continue, flight_expect, flight_pto, recovery_on_answer, recovery_on_migration
from iroh_fast.quic._routing cimport leave_silent_paths, path_answered
from iroh_fast.quic._time cimport MS, doubled
from iroh_fast.quic._timers cimport TIMER_CHALLENGE, TIMER_VALIDATION, timer_clear, timer_set
from iroh_fast.quic._trace cimport log_tuple


# ---------------------------------------------------------------- budgets
cdef AddressBudget* find_budget(Connection conn, const UdpAddr* remote) noexcept nogil:
    cdef int i
    for i in range(conn.paths.n_budgets):
        if same_addr(&conn.paths.budgets[i].remote, remote):
            return &conn.paths.budgets[i]
    return NULL


cdef AddressBudget* make_budget(Connection conn, const UdpAddr* remote) noexcept nogil:
    """The entry of an address; a new one replaces the one unused for longest. NULL: out of memory."""
    cdef AddressBudget* budget = find_budget(conn, remote)
    cdef int i
    if budget == NULL:
        if conn.paths.budgets == NULL:
            conn.paths.budgets = <AddressBudget*>calloc(MAX_BUDGETS, sizeof(AddressBudget))
            if conn.paths.budgets == NULL:
                return NULL
        if conn.paths.n_budgets < MAX_BUDGETS:
            budget = &conn.paths.budgets[conn.paths.n_budgets]
            conn.paths.n_budgets += 1
        else:
            budget = &conn.paths.budgets[0]
            for i in range(1, MAX_BUDGETS):
                if conn.paths.budgets[i].used_at < budget.used_at:
                    budget = &conn.paths.budgets[i]
        budget.remote = remote[0]
        budget.received = budget.sent = 0
    budget.used_at = conn.now
    return budget


cdef Path* path_at(Connection conn, const UdpAddr* remote, bint* proven) noexcept nogil:
    """A path whose present address this is, or was before a migration that is not proven yet; proven ones first."""
    cdef Path* path = conn.paths.first
    cdef Path* found = NULL
    proven[0] = False
    while path != NULL:
        if same_addr(&path.route.remote, remote):
            if path_allowance(conn, path) == <uint64_t>-1:
                proven[0] = True
                return path
            found = path
        elif path.previous != NULL and path.previous.validated and same_addr(&path.previous.remote, remote):
            proven[0] = True
            return path
        path = path.next
    return found


cdef uint64_t address_allowance(Connection conn, const UdpAddr* remote) noexcept nogil:
    cdef bint proven
    cdef Path* path = path_at(conn, remote, &proven)
    cdef AddressBudget* budget
    if proven:
        return <uint64_t>-1
    if path != NULL:
        return path_allowance(conn, path)
    budget = find_budget(conn, remote)
    return 3 * budget.received - budget.sent if budget != NULL and 3 * budget.received > budget.sent else 0


cdef void address_received(Connection conn, const UdpAddr* remote, size_t n) noexcept nogil:
    """An authentic datagram came from an address that is not its path's."""
    cdef AddressBudget* budget
    cdef bint proven
    path_at(conn, remote, &proven)
    if proven:
        return
    budget = make_budget(conn, remote)
    if budget != NULL:
        budget.received += n


cdef void address_sent(Connection conn, const UdpAddr* remote, size_t n) noexcept nogil:
    cdef bint proven
    cdef Path* path = path_at(conn, remote, &proven)
    cdef AddressBudget* budget
    if proven:
        return
    if path != NULL:
        path.route.sent += n
        return
    budget = find_budget(conn, remote)
    if budget != NULL:
        budget.sent += n


cdef void keep_budget(Connection conn, const Route* route) noexcept nogil:
    """A path leaves an address that it did not prove."""
    cdef AddressBudget* budget
    if route.validated:
        return
    budget = make_budget(conn, &route.remote)
    if budget != NULL:
        budget.received += route.received
        budget.sent += route.sent


cdef void adopt_budget(Connection conn, Route* route) noexcept nogil:
    """A path comes to an address: its count goes on."""
    cdef AddressBudget* budget = find_budget(conn, &route.remote)
    if budget != NULL:
        route.received = budget.received
        route.sent = budget.sent
        conn.paths.n_budgets -= 1
        budget[0] = conn.paths.budgets[conn.paths.n_budgets]


# ---------------------------------------------------------------- probing packets for other addresses
cdef void queue_off_path(Connection conn, const Path* path, const UdpAddr* remote, const UdpAddr* local,
                         const uint8_t* data) noexcept nogil:
    """A PATH_RESPONSE with these data, or without any a PATH_CHALLENGE, for an address that is not the path's.

    One of each kind per address, the newest wins; no more than MAX_OFF_PATH wait.
    """
    cdef int i
    cdef OffPath* off
    cdef bint challenge = data == NULL
    for i in range(conn.paths.n_off_path):
        off = &conn.paths.off_path[i]
        if off.challenge == challenge and same_addr(&off.remote, remote) and same_ip(&off.local, local):
            if data != NULL:
                off.path_id = path.id
                memcpy(off.data, data, 8)
            return
    if conn.paths.n_off_path == MAX_OFF_PATH:
        return
    if conn.paths.off_path == NULL:
        conn.paths.off_path = <OffPath*>malloc(MAX_OFF_PATH * sizeof(OffPath))
        if conn.paths.off_path == NULL:
            return
    off = &conn.paths.off_path[conn.paths.n_off_path]
    conn.paths.n_off_path += 1
    off.path_id = path.id
    off.remote = remote[0]
    off.local = local[0]
    off.challenge = challenge
    if challenge:
        conn.host.random.fill(off.data, 8)
    else:
        memcpy(off.data, data, 8)


cdef bint take_off_path(Connection conn, OffPath* out) noexcept nogil:
    """The oldest waiting probing packet; False when there is none."""
    if conn.paths.n_off_path == 0:
        return False
    out[0] = conn.paths.off_path[0]
    conn.paths.n_off_path -= 1
    memmove(&conn.paths.off_path[0], &conn.paths.off_path[1], conn.paths.n_off_path * sizeof(OffPath))
    return True


# ---------------------------------------------------------------- challenges
cdef void on_path_challenge(Connection conn, Path* path, const uint8_t* data, const UdpAddr* src,
                            const UdpAddr* dst) noexcept nogil:
    """Answer where it came from (RFC 9000 §8.2.2)."""
    if not same_addr(src, &path.route.remote) or (
            ip_known(dst) and ip_known(&path.route.local) and not same_ip(dst, &path.route.local)):
        queue_off_path(conn, path, src, dst, data)
        return
    if path.abandoned:
        return
    memcpy(path.response, data, 8)
    path.response_due = True


cdef void next_challenge(Connection conn, Path* path, uint8_t* data) noexcept nogil:
    """Fresh data for a PATH_CHALLENGE that is written now, in place of the oldest unanswered one."""
    cdef int i, slot = 0
    cdef int64_t wait = doubled(path_pto(path), path.challenge_lost)
    for i in range(MAX_CHALLENGES):
        if path.challenge_sent[i] < path.challenge_sent[slot]:
            slot = i
    conn.host.random.fill(data, 8)
    memcpy(path.challenges[slot], data, 8)
    path.challenge_sent[slot] = conn.now
    path.challenge_route[slot] = path_generation(path)
    timer_set(&path.timers, TIMER_CHALLENGE, conn.now + (wait if wait < 2000 * MS else 2000 * MS))


cdef void on_path_response(Connection conn, Path* path, const uint8_t* data, const UdpAddr* src) noexcept nogil:
    cdef int i
    cdef int64_t rtt
    for i in range(MAX_CHALLENGES):
        if path.challenge_sent[i] != 0 and memcmp(path.challenges[i], data, 8) == 0:
            break
    else:
        return
    if path.abandoned:
        return
    if path.challenge_route[i] != path_generation(path) or not same_addr(src, &path.route.remote):
        return
    rtt = conn.now - path.challenge_sent[i]
    for i in range(MAX_CHALLENGES):
        path.challenge_sent[i] = 0
    timer_clear(&path.timers, TIMER_CHALLENGE)
    path.challenge_due = False
    path.challenge_lost = 0
    path.carries_full = path.carries_full or path.proves_mtu
    if not path.proves_mtu:
        # The address is proven by a small datagram: now show that the path carries full ones (RFC 9000 §8.2.1).
        challenge_path(conn, path)
    path_proven(conn, path, rtt)


cdef void path_proven(Connection conn, Path* path, int64_t rtt) noexcept nogil:
    if rtt > 0:
        flight_expect(&path.route.flight, rtt)
    timer_clear(&path.timers, TIMER_VALIDATION)
    path.route.validated = True
    free(path.previous)
    path.previous = NULL
    recovery_on_answer(&path.recovery)
    conn.happened(W_PATHS)      # maybe at a new address
    path_established(conn, path)
    path_answered(conn, path)
    leave_silent_paths(conn)


# ---------------------------------------------------------------- migration
cdef void return_home(Connection conn, Path* path) noexcept nogil:
    """Back to the address that was proven before the last one."""
    keep_budget(conn, &path.route)
    path.route = path.previous[0]
    free(path.previous)
    path.previous = NULL
    timer_clear(&path.timers, TIMER_VALIDATION)
    path.challenge_due = False
    timer_clear(&path.timers, TIMER_CHALLENGE)
    if conn.qlog is not None:
        log_tuple(conn, path)


cdef int migrate(Connection conn, Path* path, const UdpAddr* src, const UdpAddr* dst) noexcept nogil:
    """The peer's address of a path changed (RFC 9000 §9.3)."""
    cdef Route fresh
    cdef bint port_only = same_ip(&path.route.remote, src) and addr_is_v4(src)
    cdef int64_t old_pto = path_pto(path), new_pto
    if path.previous != NULL and path.previous.validated and same_addr(&path.previous.remote, src):
        # It never went away: somebody else repeated its packets from elsewhere.
        return_home(conn, path)
        if ip_known(dst):
            path.route.local = dst[0]
        reset_spin(conn, path)
        recovery_on_migration(&path.recovery)
        return 0
    if path.previous == NULL and path.route.validated:
        path.previous = <Route*>malloc(sizeof(Route))
        if path.previous != NULL:
            path.previous[0] = path.route
            # Make sure that the old address is really gone, not just spoofed away.
            queue_off_path(conn, path, &path.route.remote, &path.route.local, NULL)
    keep_budget(conn, &path.route)
    init_route(conn, &fresh, src, dst)
    if port_only:
        flight_continue(&fresh.flight, &path.route.flight)
        fresh.mtud = path.route.mtud
        mtud_moved(&fresh.mtud)
    else:
        mtud_peer_limit(&fresh.mtud, <uint16_t>conn.agreed.peer_udp)
    adopt_budget(conn, &fresh)
    new_pto = flight_pto(&fresh.flight)
    timer_set(&path.timers, TIMER_VALIDATION, conn.now + 3 * (old_pto if old_pto > new_pto else new_pto))
    path.route = fresh
    if conn.qlog is not None:
        log_tuple(conn, path)
    reset_spin(conn, path)
    rotate_id(conn, path)
    path.carries_full = False
    challenge_path(conn, path)
    recovery_on_migration(&path.recovery)
    if conn.agreed.send_observed:
        path.observed_due = True
    return 0


cdef void give_up_migration(Connection conn, Path* path) noexcept nogil:
    """The new address never answered: back to the one that did."""
    if path.previous != NULL and not path.route.validated:
        return_home(conn, path)
