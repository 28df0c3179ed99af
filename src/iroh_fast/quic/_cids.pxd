"""Connection ids of a connection: ours that the peer may use, and the peer's."""

from libc.stdint cimport uint32_t, uint64_t

from iroh_fast._packet._frames cimport Frame
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._paths cimport CidSet, Path


cdef CidSet* find_ids(QuicConnection conn, uint32_t id, bint make) noexcept nogil
cdef bint was_abandoned(QuicConnection conn, uint32_t id) noexcept nogil
cdef void watch_reset(QuicConnection conn, CidSet* ids) noexcept nogil
cdef void drop_ids(QuicConnection conn, uint32_t id) noexcept nogil
cdef void issue_ids(QuicConnection conn, uint32_t path_id) noexcept nogil
cdef void issue_path_ids(QuicConnection conn) noexcept nogil
cdef void reset_spin(QuicConnection conn, Path* path) noexcept nogil
cdef void rotate_id(QuicConnection conn, Path* path) noexcept nogil
cdef void retire_later(QuicConnection conn, uint64_t cid)
cdef void unregister(QuicConnection conn)
cdef int on_new_id(QuicConnection conn, uint32_t path_id, Frame* frame) noexcept nogil
cdef int on_retired_id(QuicConnection conn, uint32_t path_id, uint64_t seq) noexcept nogil
