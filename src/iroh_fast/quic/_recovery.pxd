"""Packet number spaces: sent packets, received packet numbers, acknowledgement state."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

from iroh_fast.quic._random cimport RandomSource


cdef enum:
    # SentRec.flags
    REC_USED = 1
    REC_ELICITING = 2
    REC_STREAM = 4                # stream_id, offset, len describe one STREAM frame
    REC_FIN = 8                   # ... which carried FIN
    REC_MTU_PROBE = 16
    REC_ACK = 32                  # acked_path, acked_upto are set
    REC_APP_LIMITED = 64
    REC_PHASE = 128               # sent in a key phase whose bit is set

    MAX_ACK_RANGES = 64
    DEDUP_WINDOW = 128
    LOST_MEMORY = 32


# One frame of a sent packet besides the STREAM frame that SentRec holds inline.
cdef struct FrameRec:
    FrameRec* next
    uint64_t type
    uint64_t path
    uint64_t id
    uint64_t a
    uint64_t b


cdef struct SentRec:
    int64_t sent_at
    uint64_t stream_id
    uint64_t offset
    uint64_t acked_upto
    FrameRec* frames
    uint32_t len
    uint32_t acked_path
    uint32_t generation           # of the path data it was sent on
    uint16_t size                 # QUIC bytes; 0: not in flight
    uint16_t flags


cdef struct LostPn:
    uint64_t pn
    int64_t sent_at


cdef struct PnSpace:
    # --- sending
    uint64_t next_pn
    int64_t largest_acked         # -1: none
    int64_t largest_acked_at      # when that packet was sent
    SentRec* ring                 # indexed by pn & mask, grown on demand
    uint32_t mask                 # 0 with ring NULL
    uint64_t first                # no record below
    uint64_t last                 # highest number ever recorded
    uint32_t outstanding          # records in the ring
    uint32_t eliciting            # ... that are ack-eliciting
    int64_t last_eliciting_at     # 0: none since start
    int64_t loss_time             # 0: none
    int loss_probes
    uint64_t skip_pn              # the next number to leave out
    int skip_bits
    int64_t last_skipped          # -1: none
    LostPn lost[32]               # recently lost, to notice spurious losses
    int n_lost
    # --- receiving
    int64_t largest_rx            # -1: none
    int64_t largest_rx_at
    uint64_t seen[2]              # largest_rx-1-i received, bit i
    int n_ranges
    uint64_t starts[64]
    uint64_t ends[64]             # half open, ascending
    int64_t largest_eliciting     # -1: none
    uint32_t eliciting_rx         # since the last ACK sent
    uint32_t non_eliciting_rx
    bint ack_now
    int64_t ack_at                # deadline of a delayed ACK, 0: none
    uint64_t ect0, ect1, ce       # received
    uint64_t peer_ect0, peer_ect1, peer_ce   # reported by the peer
    int64_t reported              # largest received when the last ACK was sent, -1: none sent


cdef void space_init(PnSpace* s, uint64_t random) noexcept nogil
cdef void space_free(PnSpace* s) noexcept nogil
cdef inline SentRec* space_rec(PnSpace* s, uint64_t pn) noexcept nogil:
    cdef SentRec* r = &s.ring[pn & s.mask]
    return r if r.flags & REC_USED else NULL

# The number of the next packet, skipping one now and then (optimistic-ACK defence).
cdef uint64_t space_take_pn(PnSpace* s, RandomSource random) noexcept nogil
# Copies `rec` into the table. 0, or -1 out of memory.
cdef int space_insert(PnSpace* s, uint64_t pn, const SentRec* rec) noexcept nogil
# Forgets the record (its frames are the caller's) and moves `first`.
cdef void space_remove(PnSpace* s, uint64_t pn) noexcept nogil
cdef void space_remember_lost(PnSpace* s, uint64_t pn, int64_t sent_at, int64_t forget_before) noexcept nogil
cdef bint space_unlose(PnSpace* s, uint64_t lo, uint64_t hi) noexcept nogil      # True: the set became empty by this

cdef bint space_is_duplicate(const PnSpace* s, uint64_t pn) noexcept nogil
# After authentication: mark received. 
cdef void space_mark_received(PnSpace* s, uint64_t pn, int64_t now) noexcept nogil
# After its frames: decides when to acknowledge. threshold and reorder as in the ACK frequency draft.
cdef void space_on_processed(PnSpace* s, uint64_t pn, bint eliciting, bint ce, int64_t now, int64_t max_ack_delay,
                             uint64_t threshold, uint64_t reorder, int64_t previous_largest) noexcept nogil
cdef void space_ack_sent(PnSpace* s) noexcept nogil
cdef void space_forget_acked(PnSpace* s, uint64_t upto) noexcept nogil           # the peer saw our ACK of 0..upto
cdef inline bint space_ack_due(const PnSpace* s, int64_t now) noexcept nogil:
    return s.n_ranges > 0 and (s.ack_now or (s.ack_at != 0 and s.ack_at <= now))
# ... or worth adding to a packet that is sent anyway: the peer's own acknowledgements pile up.
cdef inline bint space_ack_wanted(const PnSpace* s, int64_t now) noexcept nogil:
    return space_ack_due(s, now) or (s.n_ranges > 0 and s.non_eliciting_rx > 10)

cdef FrameRec* frame_rec(FrameRec** head, uint64_t type, uint64_t path, uint64_t id, uint64_t a, uint64_t b) noexcept nogil
cdef void frame_recs_free(FrameRec* f) noexcept nogil
