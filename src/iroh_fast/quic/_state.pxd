"""State of one QUIC connection: paths, connection ids, what is waiting to be sent, how it ends."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._buffers cimport RecvBuf, SendBuf
from iroh_fast.quic._datagrams cimport MessageQueue
from iroh_fast.quic._keys cimport KeyRing
from iroh_fast.quic._parameters cimport Parameters
from iroh_fast.quic._paths cimport AddressBudget, CidSet, IdRanges, OffPath, Path, PathStats, Route
from iroh_fast.quic._random cimport RandomSource
from iroh_fast.quic._recovery cimport PnSpace
from iroh_fast.quic._sent cimport FrameRec
from iroh_fast.quic._streams cimport StreamOwner, Streams
from iroh_fast.quic._timers cimport Timers


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


cdef struct Config:
    int64_t idle_timeout, keep_alive, path_idle, path_keep_alive, initial_rtt
    uint64_t max_bidi, max_uni, stream_window, receive_window, send_window
    bint fair, spin, mtud, pad_to_mtu, gso, observed_send, observed_receive
    uint64_t packet_threshold
    double time_threshold
    int64_t persistent_threshold
    uint16_t initial_mtu, min_mtu, mtu_bound, mtu_min_change
    int64_t mtu_interval, mtu_cooldown
    uint64_t crypto_buffer, datagram_rx, datagram_tx
    bint datagrams
    int cc
    uint32_t max_paths            # 0: no multipath
    int max_nat
    bint ack_frequency
    uint64_t af_threshold, af_reorder
    int64_t af_max_delay          # 0: the peer's own


cdef struct Level:                # Initial or Handshake, until its keys are discarded
    bint live
    PnSpace sp
    SendBuf tx
    RecvBuf rx


cdef class Host:
    """What a connection needs from its endpoint; times come in, datagrams go out elsewhere."""
    cdef void wake(self, ConnectionState c) noexcept
    cdef void new_cid(self, uint8_t* cid8) noexcept nogil
    cdef void token_for(self, const uint8_t* cid8, uint8_t* token16) noexcept nogil
    cdef void cid_add(self, uint64_t cid, ConnectionState c, uint32_t path_id) noexcept
    cdef void cid_remove(self, uint64_t cid) noexcept
    cdef void reset_token_add(self, bytes token, ConnectionState c)
    cdef void reset_token_remove(self, bytes token)
    cdef void on_drained(self, ConnectionState c) noexcept
    cdef RandomSource random      # every unpredictable value of its connections
    cdef int64_t clock_ns(self) noexcept nogil     # of the driver's clock, 0 when there is none


cdef class ConnectionState(StreamOwner):
    # --- identity and configuration
    cdef Host host
    cdef readonly bint is_client
    cdef readonly uint64_t stable_id
    cdef public object tls, qlog, host_random, on_address_token
    cdef object retired               # ids the peer retired, still routed for a while
    cdef list reset_tokens            # tokens registered at the endpoint
    cdef uint32_t peer_udp            # peer's max_udp_payload_size
    cdef int64_t created_at
    cdef int64_t handshake_until     # when a handshake that is not complete is given up
    cdef Config cfg
    cdef int state
    cdef readonly bint handshake_confirmed
    cdef bint handshake_done, multipath, peer_validated_us, got_first_packet, used_retry
    cdef readonly object alpn, peer_id, early_data_accepted, close_reason
    cdef Parameters* peer_parameters          # until the handshake is confirmed
    cdef Parameters* remembered_parameters    # of the server, under which 0-RTT is sent
    cdef object early_datagrams       # 1-RTT datagrams that came before the keys
    cdef object address_token         # for our Initials
    cdef object waiters               # of whoever takes the events; the core does not look at it
    cdef list path_log                # path events that nobody has taken yet, bounded
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
    cdef Path* paths                  # ascending id
    cdef CidSet* cids
    cdef Path* last_path              # cache
    cdef uint32_t local_max_path, remote_max_path, sent_max_path
    cdef int64_t max_path_used
    cdef uint64_t issued_paths        # path ids below this have had their connection ids
    cdef IdRanges abandoned
    cdef int n_draining               # abandoned paths in `paths`
    cdef uint32_t generation
    cdef OffPath* off_path
    cdef int n_off_path
    cdef AddressBudget* budgets
    cdef int n_budgets
    # --- frames to send that any path may carry
    cdef FrameRec* pending_head
    cdef FrameRec* pending_tail
    cdef int n_pending, n_retire
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
    cdef int64_t timer_at             # of the driver's timer entry, 0: none
    cdef uint32_t dirty_events
    cdef bint failed
    cdef PathStats* done              # of discarded paths, NULL while there are none
    cdef int64_t close_next           # when CONNECTION_CLOSE may be repeated
    # receiving

    cdef int64_t pto_max(self) noexcept nogil
    cdef bint last_open(self, Path* p) noexcept nogil
    cdef bint any_usable(self) noexcept nogil
    cdef bint irreplaceable(self, Path* p) noexcept nogil
    cdef void note_abandoned(self, uint32_t id) noexcept nogil
    cdef void grant_path(self) noexcept nogil
    cdef void drop_cidset(self, uint32_t id) noexcept nogil
    cdef bint must_abandon_itself(self, Path* p) noexcept nogil
    cdef void end_failed(self) noexcept
    cdef void retire_later(self, uint64_t cid)
    cdef void unregister(self)
    cdef void watch_reset(self, CidSet* c) noexcept nogil
    cdef void set_status(self, Path* p, int status) noexcept nogil
    cdef Path* path(self, uint32_t id) noexcept nogil
    cdef CidSet* cidset(self, uint32_t id, bint make) noexcept nogil
    cdef Path* add_path(self, uint32_t id, const UdpAddr* remote, const UdpAddr* local) noexcept nogil
    cdef void init_route(self, Route* r, const UdpAddr* remote, const UdpAddr* local) noexcept nogil
    cdef bint was_abandoned(self, uint32_t id) noexcept nogil
    cdef void abandon(self, Path* p, uint64_t code) noexcept nogil
    cdef void issue_cids(self, uint32_t path_id) noexcept nogil
    cdef void issue_path_cids(self) noexcept nogil
    cdef void rotate_cid(self, Path* p) noexcept nogil
    cdef void reset_spin(self, Path* p) noexcept nogil
    cdef void on_established(self, Path* p) noexcept nogil
    cdef int open_paths(self) noexcept nogil
    cdef void log_path(self, str kind, uint32_t id, object a, object b, object c, object d)
    cdef void pend(self, uint64_t type, uint64_t path, uint64_t id, uint64_t a) noexcept nogil
    cdef void pend_rec(self, FrameRec* f) noexcept nogil
    cdef void challenge(self, Path* p) noexcept nogil
    cdef int make_level(self, Level** l) noexcept nogil
    cdef void drop_level(self, int level) noexcept nogil
    cdef int fail(self, uint64_t code, const char* text, uint64_t frame) noexcept nogil
    cdef void enter_close(self, object reason, uint64_t code, bint app, object text, uint64_t frame)
    cdef void enter_drain(self, object reason, bint reply)
    cdef void finish_drained(self, object reason)
    cdef void end(self, object reason)
    cdef void happened(self, int kind) noexcept nogil
    cdef uint32_t take_events(self) noexcept nogil
    cdef uint16_t path_mtu(self) noexcept nogil
    cdef void log_packet(self, bint sent, int level, uint32_t path_id, uint64_t pn, size_t size, const uint8_t* payload,
                         size_t n) noexcept nogil
    cdef void log_tuple(self, Path* p) noexcept nogil


cdef int load_config(object t, Config* c) except -1
cdef bytes addr_bytes(const UdpAddr* a)
cdef object path_stats(Path* p)
