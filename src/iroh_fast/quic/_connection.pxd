"""The handle of one QUIC connection for the layers above."""

from libc.stdint cimport uint8_t

from iroh_fast.quic._state cimport ConnectionState


cdef class QuicConnection(ConnectionState):
    cdef void on_stateless_reset(self)
    cdef void check(self) except *
    cdef object max_datagram(self)
    cdef bint queue_datagram(self, const uint8_t* data, Py_ssize_t n, bint drop_oldest) except -1
