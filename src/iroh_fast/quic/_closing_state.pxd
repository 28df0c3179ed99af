"""How a connection ends: the CONNECTION_CLOSE to send, and an error that was found. Set in `_closing`.

Beside them stand `close_reason` and `close_text` of the connection: structures hold no Python objects.
"""

from libc.stdint cimport uint64_t, int64_t


cdef struct Closing:
    bint due                      # CONNECTION_CLOSE is to be sent
    bint app                      # with an error code of the application
    uint64_t code
    uint64_t frame                # type of the frame that was wrong, 0: none
    int64_t repeat_at             # when it may be repeated
    bint everywhere               # on every open path: some of them may be dead
    uint64_t next_path            # paths below have had it


cdef inline void closing_heard(Closing* closing, int64_t now, int64_t rtt) noexcept nogil:
    """RFC 9000 §10.2.1: the peer goes on, so it has not heard yet. At most one repetition per round trip."""
    if now >= closing.repeat_at:
        closing.repeat_at = now + rtt
        closing.due = True
        closing.next_path = 0

# It leaves on this path, the last one if `last`.
cdef inline void closing_sent(Closing* closing, uint64_t path, bint last) noexcept nogil:
    closing.next_path = path + 1
    closing.due = closing.everywhere and not last


cdef struct Failure:              # found while processing; `_core` notes the first one, `_closing` acts on it
    uint64_t code                 # 0: none
    uint64_t frame
    const char* text
