"""Control frames that wait for a packet, on whatever path."""

from libc.stdint cimport uint64_t

from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._sent cimport FrameRec, frame_rec


cdef void queue_record(QuicConnection conn, FrameRec* record) noexcept nogil:
    record.next = NULL
    if conn.pending_tail == NULL:
        conn.pending_head = record
    else:
        conn.pending_tail.next = record
    conn.pending_tail = record
    conn.n_pending += 1


cdef void queue_control(QuicConnection conn, uint64_t type, uint64_t path, uint64_t id, uint64_t a) noexcept nogil:
    cdef FrameRec* record = NULL
    if frame_rec(&record, type, path, id, a, 0) != NULL:
        queue_record(conn, record)
