"""What both sides of a connection go by: the peer's limits, what was negotiated, and how the peer wants acknowledgements.

Set in `_handshake`; everybody may read it.
"""

from libc.stdint cimport uint32_t, uint64_t, int64_t


cdef enum:
    MAX_UDP_PAYLOAD = 65527
    DEFAULT_ACK_DELAY_MS = 25     # RFC 9000 §18.2: where nothing else was said


cdef struct Agreed:
    int64_t idle_timeout          # 0: none
    bint multipath, nat, send_observed, receive_observed
    # limits of the peer
    int peer_nat                  # addresses of ours that it takes
    uint32_t peer_udp             # its max_udp_payload_size
    int64_t peer_max_ack_delay
    int peer_ack_exponent
    uint64_t peer_cid_limit
    uint64_t peer_datagram        # its max_datagram_frame_size, 0: takes none
    bint peer_ack_frequency       # it understands ACK_FREQUENCY and IMMEDIATE_ACK
    uint64_t peer_min_ack_delay_us


# How we acknowledge (ACK frequency draft).
cdef struct AckRules:
    int64_t max_delay
    uint64_t threshold, reorder
    int64_t seq                   # of the frame that said so, -1: none yet
    bint saw_ecn                  # packets with ECN marks came: acknowledgements count them


cdef inline bint acks_follow(AckRules* acks, int64_t seq, uint64_t threshold, uint64_t reorder, int64_t delay) noexcept nogil:
    """What an ACK_FREQUENCY frame asks for; False: we go by a newer one."""
    if seq <= acks.seq:
        return False
    acks.seq = seq
    acks.threshold = threshold
    acks.reorder = reorder
    acks.max_delay = delay
    return True

cdef inline void acks_saw_ecn(AckRules* acks) noexcept nogil:
    acks.saw_ecn = True
