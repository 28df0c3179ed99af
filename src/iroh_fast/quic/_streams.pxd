"""The streams of a connection, and the handle of one, for the layers above."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from iroh_fast.quic._budget cimport Budget
from iroh_fast.quic._config cimport Config
from iroh_fast.quic._stream cimport Stream, StreamTable


cdef class StreamOwner:
    cdef void want_send(self) noexcept
    cdef object ended(self)       # the exception of a dead connection, or None
    cdef str peer_name(self)      # who is at the other end, for messages


cdef class Streams:
    cdef StreamTable table
    cdef PyObject* owner          # StreamOwner, borrowed: it owns this
    cdef QuicStream next_event(self, uint32_t* events)
    cdef void set_windows(self, const Config* config, Budget* budget) noexcept
    cdef void end(self) noexcept nogil
    cdef dict windows(self)
    cdef QuicStream handle_for(self, Stream* stream)
    cdef QuicStream open(self, bint bidi)
    cdef QuicStream accept(self, bint bidi)
    cdef void set_concurrent(self, int uni, uint64_t value)
    cdef void set_receive_window(self, uint64_t window)


cdef class QuicStream:
    cdef readonly StreamOwner connection
    cdef Streams streams
    cdef Stream* stream
    cdef readonly uint64_t id
    cdef readonly bint is_0rtt
    cdef object waiters           # of whoever takes the events; the core does not look at it
    cdef object __weakref__
    cdef bint over(self) noexcept         # nothing will ever happen to it again
    cdef bint rejected(self) noexcept
    cdef str told(self, str way)
    cdef object rejected_error(self)
    cdef object write_error(self)
    cdef object read_error(self)
    cdef int check_open(self) except -1
    cdef int check_write(self) except -1
    cdef object read_end(self)
    cdef void after_read(self, uint64_t n)
    cdef object put(self, object owner, const uint8_t* data, Py_ssize_t size, Py_ssize_t start, bint keep,
                    object pinned=*)
    cdef void give_up_writing(self) noexcept
