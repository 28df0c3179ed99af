"""One QUIC connection: the parts it is composed of, and what it needs of its endpoint.

The rooms of functions around it take it as their first argument; the handle for the layers above is in `_connection`.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._agreed cimport AckRules, Agreed
from iroh_fast.quic._budget cimport Budget
from iroh_fast.quic._closing_state cimport Closing, Failure
from iroh_fast.quic._config cimport Config
from iroh_fast.quic._datagrams cimport Datagrams
from iroh_fast.quic._handshake_state cimport Handshake
from iroh_fast.quic._keys cimport KeyRing
from iroh_fast.quic._ledger cimport Ledger
from iroh_fast.quic._paths cimport PathTable
from iroh_fast.quic._random cimport RandomSource
from iroh_fast.quic._streams cimport StreamOwner, Streams
from iroh_fast.quic._timers cimport Timers
from iroh_fast.quic._traversal_state cimport Traversal


cdef class Host:
    """What a connection needs from its endpoint; times come in, datagrams go out elsewhere."""
    cdef void wake(self, Connection conn) noexcept
    cdef void new_cid(self, uint8_t* cid8) noexcept nogil
    cdef void token_for(self, const uint8_t* cid8, uint8_t* token16) noexcept nogil
    cdef void cid_add(self, uint64_t cid, Connection conn, uint32_t path_id) noexcept
    cdef void cid_remove(self, uint64_t cid) noexcept
    cdef void reset_token_add(self, bytes token, Connection conn)
    cdef void reset_token_remove(self, bytes token)
    cdef void on_drained(self, Connection conn) noexcept
    cdef Budget* budget           # for windows that grow
    cdef RandomSource random      # every unpredictable value of its connections
    cdef int64_t clock_ns(self) noexcept nogil     # of the driver's clock, 0 when there is none
    # Whether a probe may leave for an address that nobody has proven yet; that it does then.
    cdef bint may_probe(self, const UdpAddr* remote, int64_t now) noexcept nogil
    # bytes of the largest datagram that the interface on the way takes; 0: unknown, -1: it cuts them into fragments
    cdef int largest_payload(self, const UdpAddr* remote, const UdpAddr* local) noexcept nogil


cdef class Connection(StreamOwner):
    # --- who it is
    cdef Host host
    cdef readonly bint is_client
    cdef readonly uint64_t stable_id
    cdef public object qlog, host_random
    cdef Config* cfg
    cdef int64_t created_at
    cdef int64_t now              # of the call that is going on
    cdef int state                # ST_*
    cdef uint32_t events          # what happened and nobody took: bits 1 << W_...
    cdef bint failed              # `failure` waits to be acted on
    cdef Failure failure
    # --- its parts
    cdef Handshake handshake
    cdef public object tls, on_address_token
    cdef readonly object alpn, peer_id, early_data_accepted
    cdef object early_datagrams   # 1-RTT datagrams that came before the keys
    cdef object address_token     # for our Initials
    cdef Agreed agreed
    cdef AckRules acks
    cdef KeyRing keys
    cdef PathTable paths
    cdef bytes reset_tokens       # of the peer's ids in use, registered at the endpoint, one behind the other
    cdef tuple path_log           # path events that nobody has taken yet, bounded
    cdef bint path_log_off        # nobody will take any
    cdef Ledger control
    cdef Traversal traversal
    cdef Streams streams
    cdef Datagrams datagrams
    cdef Timers timers
    cdef Closing ending
    cdef object close_text
    cdef readonly object close_reason
    # --- notes of those who use it; the core does not look at them
    cdef int64_t deadline         # the earliest of all timers as last looked at, 0: none
    cdef uint32_t timer_place     # one above that of the driver's timer entry, 0: none
    cdef bint dirty               # in the driver's list
    cdef object waiters           # of whoever takes the events
    cdef object __weakref__

    # Make its parts, at the endpoint that `host` is: the first of its own ids is known there.
    cdef int compose(self, Host host, Config* config, bint is_client, uint64_t stable_id, int64_t now) except -1
    cdef int fail(self, uint64_t code, const char* text, uint64_t frame) noexcept nogil
    cdef void happened(self, int kind) noexcept nogil
    cdef uint32_t take_events(self) noexcept nogil
    cdef void check(self) except *
