"""Paths and connection IDs of one connection."""

from libc.stdint cimport int8_t, uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcmp, memcpy

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._mtud cimport Mtud
from iroh_fast.quic._recovery_state cimport Flight, Recovery, flight_has_room
from iroh_fast.quic._rtt cimport rtt_get, rtt_pto_base
from iroh_fast.quic._timers cimport TIMER_CHALLENGE, Timers, timer_is_set


cdef enum:
    CID_LEN = 8                   # of the ids we issue
    MAX_CID_LEN = 20
    REMOTE_CIDS = 5               # active_connection_id_limit that we advertise, per path
    LOCAL_CIDS = 8                # ids we keep active per path at most
    UNOPENED_CIDS = 2             # of a path that is not open: one to open it with, one to change to
    MAX_BUDGETS = 32              # unproven addresses that are not a path's, per connection
    MAX_OFF_PATH = 32             # probing packets that wait for other addresses
    MAX_CHALLENGES = 4            # unanswered PATH_CHALLENGE values remembered per path

    MAX_RETIRED = 64              # ids that the peer retired and that are still routed, but for the newest
    MAX_DRAINING = 32             # abandoned paths that still listen for late packets

    PROBE_SHARE = 4               # an MTU probe may exceed the window by this part of it

    STATUS_AVAILABLE = 0
    STATUS_BACKUP = 1


cdef struct RemoteCid:
    uint64_t seq
    uint8_t cid[20]
    uint8_t token[16]
    uint8_t len
    uint8_t has_token


cdef struct LocalCid:
    uint64_t seq
    uint64_t value                # the 8 bytes, as loaded


# Ids of one path id, whether or not the path is open. Most path ids never open: their ids fit into the structure, which
# must not be moved.
cdef struct CidSet:
    CidSet* next
    uint32_t path_id
    uint8_t n_local, n_remote
    int8_t active                 # index into remote, -1: none
    LocalCid* local               # `few_local`, or memory for LOCAL_CIDS
    RemoteCid* remote             # `few_remote`, or memory for REMOTE_CIDS
    uint64_t next_seq             # of the next id we issue
    uint64_t sent                 # ids below this number were written to a packet
    uint64_t retire_prior_to
    uint64_t given_up             # one above the highest sequence number of the peer that we retired by ourselves
    LocalCid few_local[2]         # UNOPENED_CIDS
    RemoteCid few_remote[2]


cdef struct RetiredCid:           # of ours: the peer retired it, it is still routed for a while
    uint64_t value
    int64_t until


# Path ids, as ascending half-open intervals that do not touch: as many as there are gaps between abandoned paths.
cdef struct IdRange:
    uint64_t start
    uint64_t end


cdef struct IdRanges:
    IdRange* ranges
    int n, cap


cdef struct OffPath:              # a probing packet for an address that is not the path's
    uint32_t path_id
    UdpAddr remote
    UdpAddr local
    uint8_t data[8]
    bint challenge                # PATH_CHALLENGE instead of PATH_RESPONSE


cdef struct AddressBudget:        # datagram bytes of an address that is neither proven nor a path's
    UdpAddr remote
    uint64_t received, sent
    int64_t used_at


# What belongs to the present 4-tuple of a path.
cdef struct Route:
    UdpAddr remote
    UdpAddr local                 # ip all zero: unknown
    bint validated
    bint ecn
    Flight flight
    Mtud mtud
    uint64_t sent, received       # datagram bytes, for the amplification limit


cdef struct PathStats:
    uint64_t tx_datagrams, tx_bytes, rx_datagrams, rx_bytes
    uint64_t lost_packets, lost_bytes, congestion_events, spurious
    uint64_t tx_frames[38]
    uint64_t rx_frames[38]


cdef struct Path:
    uint32_t id
    Path* next                    # ascending id
    Timers timers
    Recovery recovery
    Route route
    Route* previous               # before an unconfirmed migration
    CidSet* cids
    # validation
    bint challenge_due
    uint8_t challenges[4][8]
    int64_t challenge_sent[4]     # 0: unused
    uint32_t challenge_route[4]   # generation it was sent for
    int challenge_lost
    bint proves_mtu               # the last challenge left in a datagram of full size
    bint carries_full             # a datagram of full size was answered
    bint response_due
    uint8_t response[8]
    bint established
    # what to send here and only here
    bint ping_due, immediate_ack_due, observed_due
    bint silent                   # probes stay unanswered: data avoid the path while another one works
    int64_t silent_since          # when the first packet left that was not answered
    bint spin                     # of the next packet
    # status
    int status, remote_status
    bint status_due               # the present status was not sent yet
    bint status_queued            # a frame waits that will tell it
    uint64_t status_seq
    int64_t remote_status_seq     # -1: none yet
    # end of life
    bint abandoned, abandon_received
    bint abandon_due              # PATH_ABANDON waits to be sent
    uint64_t abandon_code
    # time of activity
    int64_t last_rx, last_tx, idle_from
    bint permit_idle_reset
    int64_t idle_timeout          # 0: none
    int64_t observed_seq          # of reports received, -1
    UdpAddr observed              # our address as last reported
    PathStats stats


# The paths of a connection, their ids and limits. Its fields are touched in `_path_table`, `_cids`, `_validation` and the
# rows of `_control` about paths; everybody may walk along `first`.
cdef struct PathTable:
    Path* first                   # ascending id
    Path* last_found
    CidSet* cids
    uint32_t local_max, remote_max, sent_max      # path ids that we allow, the peer allows, the peer knows of
    int64_t max_used
    uint64_t issued               # path ids below this have had their connection ids
    IdRanges abandoned
    int n_draining                # abandoned paths that are not forgotten yet
    uint32_t generation           # of the newest route
    OffPath* off_path
    int n_off_path
    AddressBudget* budgets
    int n_budgets
    RetiredCid* retired           # oldest first
    int n_retired
    bint spinning                 # the spin bit shows the round trip; else it is random per id
    uint64_t observed_seq         # of the next OBSERVED_ADDRESS that we send
    uint64_t log_lost             # path events that found the log full
    PathStats* done               # of discarded paths, NULL while there are none


cdef void paths_free(PathTable* paths) noexcept nogil
# The id of ours that the handshake uses is the first of path 0; as a number. MemoryError.
cdef uint64_t paths_first_id(PathTable* paths, const uint8_t* id8) except? 0

# The largest path id that we allow, which the peer is told now.
cdef inline uint32_t paths_tell_max(PathTable* paths) noexcept nogil:
    paths.sent_max = paths.local_max
    return paths.sent_max

# The number of the next OBSERVED_ADDRESS.
cdef inline uint64_t paths_next_report(PathTable* paths) noexcept nogil:
    paths.observed_seq += 1
    return paths.observed_seq - 1


# 1 added, 0 it was there, -1 out of memory.
cdef int ids_add(IdRanges* ids, uint32_t id) noexcept nogil
cdef bint ids_have(const IdRanges* ids, uint32_t id) noexcept nogil
# One above the highest id; 0 when there is none.
cdef inline uint64_t ids_end(const IdRanges* ids) noexcept nogil:
    return ids.ranges[ids.n - 1].end if ids.n else 0

# Whether a PATH_CHALLENGE waits to be sent, or for its answer.
cdef inline bint path_challenging(const Path* path) noexcept nogil:
    return path.challenge_due or timer_is_set(&path.timers, TIMER_CHALLENGE)

# An authentic packet came on the path.
cdef inline void path_heard(Path* path, int64_t now) noexcept nogil:
    path.last_rx = path.idle_from = now
    path.permit_idle_reset = True

# A datagram came from the address that the path leads to.
cdef inline void path_received(Path* path, uint64_t size) noexcept nogil:
    path.route.received += size
    path.stats.rx_datagrams += 1
    path.stats.rx_bytes += size

# Datagrams left on the path.
cdef inline void path_sent(Path* path, uint64_t size, int datagrams, int64_t now) noexcept nogil:
    path.route.sent += size
    path.stats.tx_bytes += size
    path.stats.tx_datagrams += datagrams
    path.last_tx = now

# A datagram left with its number, for an address that is not its own.
cdef inline void path_sent_elsewhere(Path* path, uint64_t size) noexcept nogil:
    path.stats.tx_bytes += size
    path.stats.tx_datagrams += 1

# ... and ask for an acknowledgement: the first one since the peer was heard puts off the idle timeout (RFC 9000 §10.1).
cdef inline void path_asked(Path* path, int64_t now) noexcept nogil:
    if path.permit_idle_reset:
        path.permit_idle_reset = False
        path.idle_from = now

# A probe is due, if only to ask whether the peer may send (RFC 9002 §6.2.2.1).
cdef inline void path_probed(Path* path, int64_t now) noexcept nogil:
    path.last_tx = now

cdef inline void path_spin(Path* path, bint bit) noexcept nogil:
    path.spin = bit

# Something is to be sent here and only here.
cdef inline void path_ping(Path* path) noexcept nogil:
    path.ping_due = True

cdef inline void path_report(Path* path) noexcept nogil:
    """Tell the peer which address we see it at."""
    if not path.abandoned:
        path.observed_due = True

cdef inline int64_t path_rtt(const Path* path) noexcept nogil:
    return rtt_get(&path.route.flight.rtt)

# The probe timeout without the peer's ack delay.
cdef inline int64_t path_pto(const Path* path) noexcept nogil:
    return rtt_pto_base(&path.route.flight.rtt)

cdef inline uint64_t path_cwnd(const Path* path) noexcept nogil:
    return path.route.flight.cc.cwnd

cdef inline uint64_t path_in_flight(const Path* path) noexcept nogil:
    return path.route.flight.in_flight

# Which 4-tuple of the path is in use: packets and challenges remember theirs.
cdef inline uint32_t path_generation(const Path* path) noexcept nogil:
    return path.route.flight.generation

# Probe timeouts in a row.
cdef inline int path_timeouts(const Path* path) noexcept nogil:
    return path.recovery.pto_count

# Whether probes wait to be sent, which no window holds back.
cdef inline bint path_probing(const Path* path) noexcept nogil:
    return path.recovery.space.loss_probes > 0

# Whether the path may be asked how large its packets can be.
cdef inline bint path_may_probe(const Path* path) noexcept nogil:
    return (path.route.validated and not path.abandoned and not timer_is_set(&path.timers, TIMER_CHALLENGE)
            and path.cids.active >= 0)

# The largest MTU probe that may leave now. Data that fill the window never leave room for one: a small part of the window
# may be in flight on top of it, once a round trip while a search goes on.
cdef inline uint64_t path_probe_room(const Path* path) noexcept nogil:
    cdef uint64_t cwnd = path.route.flight.cc.cwnd, in_flight = path.route.flight.in_flight, room
    room = cwnd - in_flight - 1 if in_flight + 1 < cwnd else 0
    return room if room > cwnd // PROBE_SHARE else cwnd // PROBE_SHARE if in_flight <= cwnd else 0

cdef Path* path_new(uint32_t id) noexcept nogil
cdef void path_free(Path* path) noexcept nogil
# Add counters up.
cdef void stats_add(PathStats* total, const PathStats* stats) noexcept nogil
cdef CidSet* cidset_new(uint32_t path_id) noexcept nogil
cdef void cidset_free(CidSet* ids) noexcept nogil

cdef inline bint same_ip(const UdpAddr* a, const UdpAddr* b) noexcept nogil:
    return memcmp(a.ip, b.ip, 16) == 0

cdef inline bint same_addr(const UdpAddr* a, const UdpAddr* b) noexcept nogil:
    return a.port == b.port and memcmp(a.ip, b.ip, 16) == 0

cdef inline bint ip_known(const UdpAddr* a) noexcept nogil:
    cdef uint64_t x[2]
    memcpy(x, a.ip, 16)
    return (x[0] | x[1]) != 0

# Peer's NEW_CONNECTION_ID. 0 stored, 1 duplicate or stale, 2 must be retired at once, -1 CONNECTION_ID_LIMIT_ERROR,
# -2 contradicts an earlier frame, -3 out of memory. `n_retired` ids moved to `retired` because of retire_prior_to.
cdef int remote_cid_add(CidSet* ids, uint64_t seq, uint64_t retire_prior_to, const uint8_t* cid, uint8_t n,
                        const uint8_t* token, uint64_t* retired, int* n_retired) noexcept nogil
# The id of the handshake, which is the only one so far.
cdef void remote_cid_first(CidSet* ids, const uint8_t* cid, size_t n) noexcept nogil
# The stateless reset token of the handshake's id.
cdef inline void remote_cid_token(CidSet* ids, const uint8_t* token16) noexcept nogil:
    memcpy(ids.remote[0].token, token16, 16)
    ids.remote[0].has_token = True

# The id with this number is told to the peer now.
cdef inline void local_cid_sent(CidSet* ids, uint64_t seq) noexcept nogil:
    if ids.sent <= seq:
        ids.sent = seq + 1

# Move to another id. The old one's sequence number goes to `retired`. False: no other id.
cdef bint remote_cid_rotate(CidSet* ids, uint64_t* retired) noexcept nogil
# Place for one more of ours, at the end of those there are; NULL: out of memory.
cdef LocalCid* local_cid_add(CidSet* ids) noexcept nogil
cdef LocalCid* local_cid_find(CidSet* ids, uint64_t seq) noexcept nogil
cdef void local_cid_remove(CidSet* ids, LocalCid* local) noexcept nogil
