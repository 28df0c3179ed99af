"""One QUIC connection: what it is composed of."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._config cimport Config
from iroh_fast.quic._datagrams cimport MessageQueue
from iroh_fast.quic._keys cimport KeyRing
from iroh_fast.quic._ledger cimport Ledger
from iroh_fast.quic._levels cimport Level
from iroh_fast.quic._parameters cimport Parameters
from iroh_fast.quic._paths cimport PathStats, PathTable
from iroh_fast.quic._random cimport RandomSource
from iroh_fast.quic._receive_buffer cimport RecvBuf
from iroh_fast.quic._send_buffer cimport SendBuf
from iroh_fast.quic._streams cimport StreamOwner, Streams
from iroh_fast.quic._timers cimport Timers


cdef class Host:
    """What a connection needs from its endpoint; times come in, datagrams go out elsewhere."""
    cdef void wake(self, QuicConnection c) noexcept
    cdef void new_cid(self, uint8_t* cid8) noexcept nogil
    cdef void token_for(self, const uint8_t* cid8, uint8_t* token16) noexcept nogil
    cdef void cid_add(self, uint64_t cid, QuicConnection c, uint32_t path_id) noexcept
    cdef void cid_remove(self, uint64_t cid) noexcept
    cdef void reset_token_add(self, bytes token, QuicConnection c)
    cdef void reset_token_remove(self, bytes token)
    cdef void on_drained(self, QuicConnection c) noexcept
    cdef RandomSource random      # every unpredictable value of its connections
    cdef int64_t clock_ns(self) noexcept nogil     # of the driver's clock, 0 when there is none


cdef class QuicConnection(StreamOwner):
    # --- identity and configuration
    cdef Host host
    cdef readonly bint is_client
    cdef readonly uint64_t stable_id
    cdef public object tls, qlog, host_random, on_address_token
    cdef bytes reset_tokens           # tokens registered at the endpoint, one behind the other
    cdef uint32_t peer_udp            # peer's max_udp_payload_size
    cdef int64_t created_at
    cdef int64_t handshake_until     # when a handshake that is not complete is given up
    cdef Config* cfg
    cdef int state
    cdef readonly bint handshake_confirmed
    cdef bint handshake_done, multipath, peer_validated_us, got_first_packet, used_retry
    cdef readonly object alpn, peer_id, early_data_accepted, close_reason
    cdef Parameters* peer_parameters          # until the handshake is confirmed
    cdef Parameters* remembered_parameters    # of the server, under which 0-RTT is sent
    cdef object early_datagrams       # 1-RTT datagrams that came before the keys
    cdef object address_token         # for our Initials
    cdef object waiters               # of whoever takes the events; the core does not look at it
    cdef tuple path_log               # path events that nobody has taken yet, bounded
    cdef uint64_t path_log_lost
    cdef object __weakref__
    # --- addresses and ids
    cdef uint8_t odcid[20]
    cdef uint8_t odcid_len
    cdef uint8_t dcid0[20]            # the peer's id during the handshake
    cdef uint8_t dcid0_len
    cdef uint8_t scid[8]
    cdef uint8_t retry_scid[20]
    cdef uint8_t retry_scid_len
    cdef uint8_t initial_dcid[20]     # server: what the client's Initials are addressed to
    cdef uint8_t initial_dcid_len
    cdef bint server_scid_known, migration_frozen
    cdef UdpAddr* dial                # candidate addresses while dialing
    cdef int* dial_errors             # why nothing leaves to each, 0 otherwise; in the memory of `dial`
    cdef int n_dial
    # --- keys
    cdef KeyRing keys
    cdef Level* initial               # a level that is never live while there is none
    cdef Level* handshake
    cdef SendBuf data_crypto_tx
    cdef RecvBuf data_crypto_rx
    # --- paths
    cdef PathTable paths
    # --- frames to send that any path may carry
    cdef Ledger control
    cdef Streams streams
    cdef MessageQueue dgram_rx
    cdef MessageQueue dgram_tx
    cdef bint datagram_blocked
    cdef uint64_t observed_tx_seq
    # --- negotiated
    cdef int64_t idle_timeout
    cdef int64_t peer_max_ack_delay
    cdef int peer_ack_exponent
    cdef uint64_t peer_cid_limit, peer_datagram
    cdef bint peer_ack_frequency, send_observed, receive_observed, nat
    cdef uint64_t peer_min_ack_delay_us
    cdef int64_t max_ack_delay        # ours, as the peer may have asked
    cdef uint64_t ack_threshold, ack_reorder
    cdef int64_t ack_frequency_seq
    cdef bint saw_ecn
    cdef bint spinning                # the spin bit shows the round trip; else it is random per id
    # --- closing
    cdef bint close_due
    cdef bint close_app
    cdef uint64_t close_code, close_frame
    cdef object close_text
    # error found while processing: 0 none
    cdef uint64_t err
    cdef uint64_t err_frame
    cdef const char* err_text
    # --- time
    cdef int64_t now
    cdef Timers timers
    cdef int64_t deadline             # the earliest of all timers as last looked at, 0: none
    cdef bint dirty                   # in the driver's list
    cdef uint32_t timer_place         # one above that of the driver's timer entry, 0: none
    cdef uint32_t dirty_events
    cdef bint failed
    cdef PathStats* done              # of discarded paths, NULL while there are none
    cdef int64_t close_next           # when CONNECTION_CLOSE may be repeated

    cdef int fail(self, uint64_t code, const char* text, uint64_t frame) noexcept nogil
    cdef void happened(self, int kind) noexcept nogil
    cdef uint32_t take_events(self) noexcept nogil
    cdef void on_stateless_reset(self)
    cdef void check(self) except *
    cdef object max_datagram(self)
    cdef bint queue_datagram(self, const uint8_t* data, Py_ssize_t n, bint drop_oldest) except -1
