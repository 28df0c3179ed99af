"""States, events and error codes of a connection."""


cdef enum:
    ST_HANDSHAKE = 0
    ST_ESTABLISHED = 1
    ST_CLOSING = 2
    ST_DRAINING = 3
    ST_DRAINED = 4

    # What happens to a connection, as bits 1 << W_... of its events; W_ACCEPT_BI and the three after it in the
    # order of EV_OPENED_BI
    W_HANDSHAKE = 0
    W_CONFIRMED = 1
    W_ALPN = 2
    W_CLOSED = 3
    W_DRAINED = 4
    W_DATAGRAM = 5
    W_DATAGRAM_SPACE = 6
    W_ACCEPT_BI = 7
    W_ACCEPT_UNI = 8
    W_OPEN_BI = 9
    W_OPEN_UNI = 10
    W_FINISHED = 11               # every stream that was finished is acknowledged
    W_PATHS = 12
    N_WAITS = 13

    # RFC 9000 §20.1 and the multipath draft
    NO_ERROR = 0x00
    INTERNAL_ERROR = 0x01
    CONNECTION_REFUSED = 0x02
    FLOW_CONTROL_ERROR = 0x03
    FRAME_ENCODING_ERROR = 0x07
    TRANSPORT_PARAMETER_ERROR = 0x08
    CONNECTION_ID_LIMIT_ERROR = 0x09
    PROTOCOL_VIOLATION = 0x0a
    INVALID_TOKEN = 0x0b
    APPLICATION_ERROR = 0x0c
    CRYPTO_BUFFER_EXCEEDED = 0x0d
    KEY_UPDATE_ERROR = 0x0e
    AEAD_LIMIT_REACHED = 0x0f
    NO_VIABLE_PATH = 0x10
    APPLICATION_ABANDON_PATH = 0x3e
    PATH_UNSTABLE_OR_POOR = 0x3e76

    MIN_DATAGRAM = 1200
