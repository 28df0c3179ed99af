"""Which path carries what, and what happens when a path goes silent.

Data take every available path that works, in the order of their ids; backup paths when no available one works. A path on
which probes stay unanswered is silent: data move to one that works, what is in flight is sent again there, and probes go
on. Its first sign of life brings the data back. Sources: the multipath draft (path status, path failure), RFC 9002 §6.2.
"""

from libc.stdint cimport uint64_t, int64_t

from iroh_fast.quic._codes cimport ST_HANDSHAKE, W_PATHS
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._fates cimport release_all
from iroh_fast.quic._paths cimport Path, STATUS_AVAILABLE, path_challenging, path_ping
from iroh_fast.quic._time cimport SECOND

cdef enum:
    SILENT_PROBES = 2             # unanswered probe timeouts in a row, or
    SILENT_SECONDS = 1            # this time without an answer: whichever comes first
    UNUSABLE = 4


cdef inline int rank(const Path* path) noexcept nogil:
    """Lower is better."""
    if not usable(path):
        return UNUSABLE
    return (2 if fails(path) else 0) + (0 if path.status == STATUS_AVAILABLE else 1)


cdef bint is_best(Connection conn, const Path* path) noexcept nogil:
    """`may_send_data` of a path that need not be the best there can be."""
    cdef Path* other = conn.paths.first
    cdef int own
    if conn.state == ST_HANDSHAKE:
        return True
    if path.abandoned or path.cids.active < 0:
        return False
    if not path.route.validated:
        # RFC 9000 §8.1: an unvalidated path of a server that has no other one may send within the 3x limit.
        return path.id == 0 and path.next == NULL
    own = rank(path)
    if own == 0:
        return True
    while other != NULL:
        if rank(other) < own:
            return False
        other = other.next
    return True


cdef void probe_unanswered(Connection conn, Path* path) noexcept nogil:
    """A probe timeout expired; the first one of a row remembers since when nothing was answered."""
    if path.recovery.pto_count == 1:
        path.silent_since = path.recovery.space.last_eliciting_at
        if conn.paths.first.next != NULL and path.route.validated and path.last_rx <= path.silent_since and not path_challenging(path):
            # INTEROP: iroh sends acknowledgements of all paths on the one it prefers, be it dead. A challenge has to be
            # answered where it was asked.
            path.challenge_due = True
            path.challenge_lost = 0
    if path.recovery.pto_count >= SILENT_PROBES or conn.now - path.silent_since >= SILENT_SECONDS * SECOND:
        if not path.silent:
            path.silent = True
            # What left before may still be acknowledged by way of another path: no sign of life.
            path.silent_since = conn.now
            conn.happened(W_PATHS)
        leave_silent_paths(conn)


cdef void path_revived(Connection conn, Path* path) noexcept nogil:
    """An outage is over for one path, and maybe for others: ask them now, not when their long timeouts expire."""
    cdef Path* other = conn.paths.first
    path.silent = False
    conn.happened(W_PATHS)
    while other != NULL:
        if other.silent and not other.abandoned:
            path_ping(other)
        other = other.next


cdef void leave_silent_paths(Connection conn) noexcept nogil:
    """If some path works, have everything that is in flight on those that do not sent again there."""
    cdef Path* path = conn.paths.first
    while path != NULL and rank(path) > 1:
        path = path.next
    if path == NULL:
        return
    path = conn.paths.first
    while path != NULL:
        if path.silent or (path.abandoned and not path.abandon_received):
            # On an abandoned path: its last words, which had no other way and may be lost like all else there.
            release_all(conn, path)
        path = path.next
