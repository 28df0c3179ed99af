"""Demultiplexing and connection admission of a sans-IO QUIC endpoint."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from cpython.object cimport PyObject

from iroh_fast._batch cimport UdpAddr
from iroh_fast._crypto cimport HeaderKey
from iroh_fast._packet cimport LongHeader
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._state cimport ConnectionState, Host


cdef struct CidEntry:
    uint64_t cid
    PyObject* conn                # borrowed; NULL: empty, 1: deleted
    uint32_t path_id


cdef class Waker:
    """Driver side: told when a connection has something to send."""
    cdef void wake(self, QuicConnection c) noexcept
    cdef void wake_endpoint(self) noexcept
    cdef int64_t clock_ns(self) noexcept nogil


cdef class QuicEndpoint(Host):
    cdef Waker waker
    cdef readonly object identity, connections
    cdef object random_source, reset_tokens, token_key, initial_ids, server_tickets, session_cache
    cdef object incoming, outgoing, keylog, wall_clock
    cdef public object on_incoming
    cdef public bint accepting
    cdef CidEntry* table
    cdef uint32_t mask, used, live
    cdef uint64_t last_cid
    cdef PyObject* last_conn
    cdef uint32_t last_path
    cdef uint64_t next_id
    cdef int64_t last_reset
    cdef uint64_t incoming_bytes
    cdef public uint64_t max_incoming, incoming_buffer, incoming_total
    cdef public object counters
    cdef object clock, tls_class
    # Feed one datagram. The connection it belongs to, or None.
    cdef QuicConnection datagram(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn,
                            int64_t now)
    cdef CidEntry* lookup(self, uint64_t cid) noexcept nogil
    cdef int grow(self) noexcept nogil
    cdef QuicConnection unknown(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn, int64_t now)
    cdef QuicConnection new_connection(self, bint is_client, object transport, int64_t now)
    cdef void reply(self, const UdpAddr* src, const UdpAddr* dst, bytes data)
    cdef HeaderKey* cid_key           # AES as a keyed function of 16 bytes
    cdef HeaderKey* reset_key
    cdef void keyed(self, HeaderKey* key, const uint8_t* data, size_t n, uint8_t* out16) noexcept nogil
    cdef bint is_ours(self, const uint8_t* cid8) noexcept nogil
    cdef void first_initial(self, uint8_t* data, size_t n, LongHeader* h, bytes dcid, const UdpAddr* src,
                            const UdpAddr* dst, int ecn, int64_t now)
    cdef bint reset_received(self, uint8_t* data, size_t n, int64_t now)
    cdef void maybe_send_reset(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int64_t now)
    cdef void open_qlog(self, QuicConnection c, object transport, bytes parameters)
    cdef int start_client(self, QuicConnection c, remotes, expected_peer, alpns, transport, bint resume, tls) except -1
    cdef int start_server(self, QuicConnection c, object incoming, alpns, transport) except -1
