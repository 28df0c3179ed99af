"""Packets of one number space that were sent: what is in flight, what was declared lost, when the rest left."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, int64_t

from iroh_fast.quic._delivery cimport Snapshot


cdef enum:
    # SentRec.flags
    REC_USED = 1                  # in flight; without it: what became of the packet
    REC_ELICITING = 2
    REC_STREAM = 4                # stream_id, offset, len describe one STREAM frame
    REC_FIN = 8                   # ... which carried FIN
    REC_MTU_PROBE = 16
    REC_ACK = 32                  # acked_path, acked_upto are set
    REC_PHASE = 128               # sent in a key phase whose bit is set
    REC_ACKED = 256               # not in flight any more: acknowledged

    MAX_LOST = 32768              # lost packets remembered, to notice spurious losses
    MAX_QUIET = 2048              # packets without ack-eliciting frames whose send time is remembered


# One frame of a sent packet besides the STREAM frame that SentRec holds inline.
cdef struct FrameRec:
    FrameRec* next
    uint64_t type
    uint64_t path
    uint64_t id
    uint64_t a
    uint64_t b


cdef struct SentRec:
    uint64_t pn
    int64_t sent_at
    uint64_t stream_id
    uint64_t offset
    uint64_t acked_upto           # not in flight any more: no packet in flight before this position
    FrameRec* frames
    uint32_t len
    uint32_t acked_path
    uint32_t generation           # of the route it was sent on
    uint16_t size                 # QUIC bytes
    uint16_t flags


# Ack-eliciting packets in the order of sending: positions head..tail-1 of a ring that grows. Memory follows what is in
# flight, whatever numbers lie between.
cdef struct SentTable:
    SentRec* ring
    Snapshot* snapshots           # beside the ring, where the controller wants samples
    uint32_t mask
    uint32_t outstanding          # in flight
    uint64_t head, tail           # the packet at head is in flight, if there is any


cdef struct SentPn:
    uint64_t pn
    int64_t sent_at               # -1: no longer of interest


# Numbers in rising order: the newest `tail - head` of a ring.
cdef struct PnLog:
    SentPn* ring                  # NULL: `few`
    uint32_t mask
    uint64_t head, tail
    SentPn few[4]


# Lost packets, and those of the last congestion event among them.
cdef struct LostTable:
    PnLog log
    uint32_t live                 # entries that did not arrive
    bint event_open               # all losses of the event may yet turn out to be spurious
    uint64_t event_first          # the first packet of the event
    uint32_t event_left           # ... not known to have arrived
    uint32_t event_generation


cdef FrameRec* frame_rec(FrameRec** head, uint64_t type, uint64_t path, uint64_t id, uint64_t a, uint64_t b) noexcept nogil
cdef void frame_recs_free(FrameRec* record) noexcept nogil

cdef void sent_free(SentTable* table) noexcept nogil
# Position of the first packet with a number of at least `pn`, in flight or not; table.tail: none.
cdef uint64_t sent_from(const SentTable* table, uint64_t pn) noexcept nogil
cdef inline SentRec* sent_at(const SentTable* table, uint64_t position) noexcept nogil:
    return &table.ring[position & table.mask]

cdef inline void sent_remove(SentTable* table, uint64_t position, uint16_t became) noexcept nogil:  # hot
    """Takes a packet out of flight; its frames are the caller's. `became`: REC_ACKED or 0."""
    cdef SentRec* record = sent_at(table, position)
    record.flags = became
    record.frames = NULL
    record.acked_upto = position + 1
    table.outstanding -= 1
    if position != table.head:
        return
    if table.outstanding == 0:
        table.head = table.tail
        return
    while not sent_at(table, table.head).flags & REC_USED:
        table.head += 1

cdef inline uint64_t sent_onward(SentTable* table, uint64_t position) noexcept nogil:  # hot
    """Where to go on behind a packet that is not in flight (any more). Runs of those are leapt over: a peer may
    acknowledge the same ones as often as it likes."""
    cdef SentRec* record = sent_at(table, position)
    cdef SentRec* following
    while record.acked_upto < table.tail:
        following = sent_at(table, record.acked_upto)
        if following.flags & REC_USED:
            break
        # Halve the way for the next time.
        record.acked_upto = following.acked_upto
        record = following
    return record.acked_upto

# 0, or -1 out of memory.
cdef int sent_grow(SentTable* table) noexcept nogil

cdef inline int sent_insert(SentTable* table, const SentRec* sent, uint16_t size, uint16_t flags) noexcept nogil:  # hot
    """Copies `sent`, whose number is above all others, with what was only known at last. 0, or -1 out of memory."""
    cdef SentRec* record
    if (table.ring == NULL or table.tail - table.head > table.mask) and sent_grow(table) < 0:
        return -1
    record = sent_at(table, table.tail)
    record[0] = sent[0]
    # Here, not in `sent`: the copy would wait for fields that were written just before.
    record.size = size
    record.flags = flags | REC_USED
    table.tail += 1
    table.outstanding += 1
    return 0

# Where to note what is known while the newest packet leaves; NULL: out of memory.
cdef Snapshot* sent_watch(SentTable* table) noexcept nogil
cdef inline Snapshot* sent_snapshot(SentTable* table) noexcept nogil:  # hot
    return &table.snapshots[(table.tail - 1) & table.mask] if table.snapshots != NULL else sent_watch(table)
# NULL: there is none.
cdef inline const Snapshot* snapshot_at(const SentTable* table, uint64_t position) noexcept nogil:
    return &table.snapshots[position & table.mask] if table.snapshots != NULL else NULL

# A log of zeros is empty.
cdef void log_free(PnLog* log) noexcept nogil
# Remember a number above all others. The oldest is forgotten where the log may hold no more than `most`, or where it was
# sent before `keep_from`.
cdef void log_add(PnLog* log, uint64_t pn, int64_t sent_at, int64_t keep_from, uint32_t most) noexcept nogil
# Position of the first number of at least `pn`; log.tail: none.
cdef uint64_t log_from(const PnLog* log, uint64_t pn) noexcept nogil
cdef inline SentPn* log_at(PnLog* log, uint64_t position) noexcept nogil:
    return &log.ring[position & log.mask] if log.ring != NULL else &log.few[position & 3]

cdef void lost_free(LostTable* lost) noexcept nogil
cdef void lost_add(LostTable* lost, uint64_t pn, int64_t sent_at, int64_t keep_from) noexcept nogil
# A congestion event began, or went on, with `count` losses from `first` on.
cdef void lost_event(LostTable* lost, bint begins, uint64_t first, uint32_t count, uint32_t generation) noexcept nogil
# Packets lo..hi were acknowledged. How many of them had been declared lost; `newest`: the highest of them. `undone`: with
# these, nothing of the last congestion event was really lost.
cdef uint32_t lost_arrived(LostTable* lost, uint64_t lo, uint64_t hi, uint64_t* newest, bint* undone) noexcept nogil
