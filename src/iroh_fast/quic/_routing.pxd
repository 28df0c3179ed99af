"""Which path carries what."""

from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport Path, STATUS_AVAILABLE
from iroh_fast.quic._space cimport space_ack_due


cdef inline bint usable(const Path* path) noexcept nogil:
    return path.route.validated and not path.abandoned and path.cids.active >= 0

# Probes stay unanswered, or nothing of full size ever was answered: data take another path if there is one.
cdef inline bint fails(const Path* path) noexcept nogil:
    return path.silent or (path.challenge_lost > 1 and not path.carries_full)

cdef void path_revived(Connection conn, Path* path) noexcept nogil

# It shows life: data may take it again.
cdef inline void path_answered(Connection conn, Path* path) noexcept nogil:
    if path.silent:
        path_revived(conn, path)

# Acknowledgements of a path leave on it while it works, so that round trips are measured where they happen.
cdef inline bint carries_own_acks(const Path* path) noexcept nogil:
    return usable(path) and not path.silent

# Whether acknowledgements are due that this path has to carry. `data`: it carries what belongs to no path.
cdef inline bint acks_due(Connection conn, const Path* path, bint data) noexcept nogil:
    cdef Path* other = conn.paths.first
    while other != NULL:
        if space_ack_due(&other.recovery.space, conn.now) and (data or other == path) and (other == path or not carries_own_acks(other)):
            return data or path.abandoned or carries_own_acks(path)
        other = other.next
    return False

cdef bint is_best(Connection conn, const Path* path) noexcept nogil

cdef inline bint may_send_data(Connection conn, const Path* path) noexcept nogil:
    """Whether data and control frames may leave on a path (local status alone counts)."""
    if usable(path) and not fails(path) and path.status == STATUS_AVAILABLE:
        return True                   # none ranks above it
    return is_best(conn, path)

cdef void probe_unanswered(Connection conn, Path* path) noexcept nogil
cdef void leave_silent_paths(Connection conn) noexcept nogil
