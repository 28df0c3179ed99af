"""The queue of the control-frame ledger: what waits, and how much of each kind may."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free

from iroh_fast.quic._codes cimport INTERNAL_ERROR
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._ledger cimport CONTROL, Ledger, N_CONTROL
from iroh_fast.quic._sent cimport FrameRec, frame_rec

cdef Kind KINDS[N_CONTROL]


cdef Kind* control_kind(int kind) noexcept nogil:
    return &KINDS[kind]


cdef void append_record(Connection conn, FrameRec* record) noexcept nogil:
    cdef Ledger* ledger = &conn.control
    record.next = NULL
    if ledger.tail == NULL:
        ledger.head = record
    else:
        ledger.tail.next = record
    ledger.tail = record
    ledger.queued[record.type - CONTROL] += 1


cdef FrameRec* take_record(Connection conn) noexcept nogil:
    cdef Ledger* ledger = &conn.control
    cdef FrameRec* record = ledger.head
    ledger.head = record.next
    if ledger.head == NULL:
        ledger.tail = NULL
    ledger.queued[record.type - CONTROL] -= 1
    return record


cdef FrameRec* make_record(Connection conn, int kind, uint32_t path, uint64_t id, uint64_t value) noexcept nogil:
    cdef FrameRec* record = NULL
    if frame_rec(&record, CONTROL + kind, path, id, value, 0) != NULL:
        conn.control.open[kind] += 1
    return record


cdef void forget_record(Connection conn, FrameRec* record) noexcept nogil:
    conn.control.open[record.type - CONTROL] -= 1
    free(record)


cdef int queue_control(Connection conn, int kind, uint32_t path, uint64_t id, uint64_t value) noexcept nogil:
    cdef Kind* row = &KINDS[kind]
    cdef FrameRec* record
    if row.joins and conn.control.queued[kind]:
        return 0
    if conn.control.open[kind] >= row.bound + <uint64_t>row.per_path * conn.cfg.max_paths:
        return conn.fail(row.error, row.text, 0) if row.error else 1
    record = make_record(conn, kind, path, id, value)
    if record == NULL:
        return conn.fail(INTERNAL_ERROR, b"out of memory", 0)
    append_record(conn, record)
    return 0
