"""Connection ids of a connection: ours that the peer may use, and the peer's."""

from libc.stdint cimport uint32_t, uint64_t

from iroh_fast._packet._frames cimport Frame
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport CidSet, Path


cdef void watch_reset(Connection conn, CidSet* ids) noexcept nogil
cdef void drop_ids(Connection conn, uint32_t id) noexcept nogil
cdef void issue_ids(Connection conn, uint32_t path_id) noexcept nogil
cdef void issue_path_ids(Connection conn) noexcept nogil
cdef void reset_spin(Connection conn, Path* path) noexcept nogil
cdef void rotate_id(Connection conn, Path* path) noexcept nogil
cdef void retire_later(Connection conn, uint64_t cid)
cdef void unregister(Connection conn)
cdef int on_new_id(Connection conn, uint32_t path_id, Frame* frame) noexcept nogil
cdef int on_retired_id(Connection conn, uint32_t path_id, uint64_t seq) noexcept nogil
