"""What the control-frame ledger of a connection keeps; what its kinds mean is in `_control`."""

from libc.stdint cimport uint32_t

from iroh_fast.quic._sent cimport FrameRec, frame_recs_free


cdef enum:
    # Kinds of reliable control frames
    CONTROL_HANDSHAKE_DONE = 0
    CONTROL_NEW_CID = 1           # path, id: sequence number
    CONTROL_RETIRE_CID = 2        # path, id: sequence number
    CONTROL_PATH_ABANDON = 3      # path, a: error code
    CONTROL_PATH_STATUS = 4       # path
    CONTROL_MAX_PATH_ID = 5
    CONTROL_PATHS_BLOCKED = 6     # id: the limit
    CONTROL_CIDS_BLOCKED = 7      # path
    CONTROL_ACK_FREQUENCY = 8     # id: sequence number
    CONTROL_ADD_ADDRESS = 9       # id: sequence number
    CONTROL_REMOVE_ADDRESS = 10   # id: sequence number
    CONTROL_REACH_OUT = 11        # id: round, a: number of the own address
    N_CONTROL = 12

    MAX_ADDRESS_FRAMES = 256      # of each of these kinds, waiting or under way

    # FrameRec.type of a kind; no frame type of the wire is as large.
    CONTROL = 0x40000000


# Frames that wait to be written, and how many of each kind wait or are not acknowledged yet.
cdef struct Ledger:
    FrameRec* head
    FrameRec* tail
    uint32_t queued[12]           # N_CONTROL
    uint32_t open[12]


cdef inline bint control_waits(const Ledger* ledger) noexcept nogil:
    return ledger.head != NULL

cdef inline void ledger_free(Ledger* ledger) noexcept nogil:
    frame_recs_free(ledger.head)
