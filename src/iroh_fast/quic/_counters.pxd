"""Frame counters of a path: one slot per frame type."""

from libc.stdint cimport uint64_t


cdef enum:
    IDX_PADDING = 0
    IDX_PING = 1
    IDX_ACKS = 2
    IDX_RESET_STREAM = 3
    IDX_STOP_SENDING = 4
    IDX_CRYPTO = 5
    IDX_NEW_TOKEN = 6
    IDX_STREAM = 7
    IDX_MAX_DATA = 8
    IDX_MAX_STREAM_DATA = 9
    IDX_MAX_STREAMS_BIDI = 10
    IDX_MAX_STREAMS_UNI = 11
    IDX_DATA_BLOCKED = 12
    IDX_STREAM_DATA_BLOCKED = 13
    IDX_STREAMS_BLOCKED_BIDI = 14
    IDX_STREAMS_BLOCKED_UNI = 15
    IDX_NEW_CONNECTION_ID = 16
    IDX_RETIRE_CONNECTION_ID = 17
    IDX_PATH_CHALLENGE = 18
    IDX_PATH_RESPONSE = 19
    IDX_CONNECTION_CLOSE = 20
    IDX_HANDSHAKE_DONE = 21
    IDX_IMMEDIATE_ACK = 22
    IDX_DATAGRAM = 23
    IDX_ACK_FREQUENCY = 24
    IDX_PATH_ACKS = 25
    IDX_PATH_ABANDON = 26
    IDX_PATH_STATUS_BACKUP = 27
    IDX_PATH_STATUS_AVAILABLE = 28
    IDX_PATH_NEW_CONNECTION_ID = 29
    IDX_PATH_RETIRE_CONNECTION_ID = 30
    IDX_MAX_PATH_ID = 31
    IDX_PATHS_BLOCKED = 32
    IDX_PATH_CIDS_BLOCKED = 33
    IDX_OBSERVED_ADDR = 34
    IDX_ADD_ADDRESS = 35
    IDX_REACH_OUT = 36
    IDX_REMOVE_ADDRESS = 37
    N_COUNTERS = 38


cdef inline int frame_index(uint64_t t) noexcept nogil:
    if t <= 0x03:
        return 0 if t == 0 else 1 if t == 1 else 2
    if t <= 0x07:
        return <int>(t - 1)
    if t <= 0x0f:
        return IDX_STREAM
    if t <= 0x1c:
        return <int>(t - 8)
    if t == 0x1d:
        return IDX_CONNECTION_CLOSE
    if t <= 0x1f:
        return <int>(t - 9)
    if t == 0x30 or t == 0x31:
        return IDX_DATAGRAM
    if t == 0xaf:
        return IDX_ACK_FREQUENCY
    if t == 0x3e or t == 0x3f:
        return IDX_PATH_ACKS
    if 0x3e75 <= t <= 0x3e7c:
        return <int>(IDX_PATH_ABANDON + (t - 0x3e75))
    if t == 0x9f81a6 or t == 0x9f81a7:
        return IDX_OBSERVED_ADDR
    if t == 0x3d7f90 or t == 0x3d7f91:
        return IDX_ADD_ADDRESS
    if t == 0x3d7f92 or t == 0x3d7f93:
        return IDX_REACH_OUT
    return IDX_REMOVE_ADDRESS
