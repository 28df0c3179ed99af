"""Demultiplexing and connection admission of a sans-IO QUIC endpoint."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from cpython.object cimport PyObject

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._admission cimport Admission, AdmissionHost, QuicIncoming
from iroh_fast.quic._config cimport Config
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._id_table cimport IdTable
from iroh_fast.quic._probe_limit cimport ProbeLimit


cdef class Waker:
    """Driver side: told when a connection has something to send."""
    cdef void wake(self, QuicConnection conn) noexcept
    cdef void wake_endpoint(self) noexcept
    cdef void drained(self, QuicConnection conn) noexcept      # it goes: keep nothing of it
    cdef int64_t clock_ns(self) noexcept nogil
    cdef int largest_payload(self, const UdpAddr* remote, const UdpAddr* local) noexcept nogil


cdef class QuicEndpoint(AdmissionHost):
    cdef Waker waker
    cdef readonly object identity, connections
    cdef object config_of         # the configuration `config` was made of
    cdef Config* config           # NULL: none yet
    cdef object random_take       # a bound method that all TLS sessions share
    cdef object put_ticket, put_token    # such methods of the session cache, None without one
    cdef object random_source, reset_tokens, server_tickets, session_cache, keylog, wall_clock, clock, tls_class
    cdef object outgoing              # answers of the endpoint itself: (remote, local, data)
    cdef object initial_ids           # connections by the id that their client chose
    cdef IdTable ids
    cdef ProbeLimit probe_limit
    cdef Admission admission
    cdef uint64_t last_cid            # of the datagram before
    cdef PyObject* last_conn
    cdef uint32_t last_path
    cdef uint64_t next_id
    cdef int64_t last_reset
    cdef public int interface_limit   # bytes of the largest datagram, where no driver knows; 0: unknown
    # Feed one datagram. The connection it belongs to, or None.
    cdef QuicConnection datagram(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn,
                                 int64_t now)
    cdef QuicConnection unknown(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn,
                                int64_t now)
    cdef bint reset_received(self, uint8_t* data, size_t n, int64_t now)
    cdef void maybe_send_reset(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int64_t now)
    cdef QuicConnection new_connection(self, bint is_client, object transport, int64_t now)
    cdef void open_qlog(self, QuicConnection conn, object transport, bytes parameters)
    cdef int start_client(self, QuicConnection conn, remotes, expected_peer, alpns, transport, bint resume, tls) except -1
    cdef int start_server(self, QuicConnection conn, QuicIncoming attempt, alpns, transport) except -1
