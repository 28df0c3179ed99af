"""The key ring of one connection: every packet protection key it has (RFC 9001)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._crypto cimport AEAD_FAILED, AEAD_FORGED, Aead, HeaderKey, aead_open, aead_seal, hp_masks
from iroh_fast._packet._varint cimport pn_expand


cdef enum:
    # encryption levels, as in quic.tls
    LEVEL_INITIAL = 0
    LEVEL_0RTT = 1
    LEVEL_HANDSHAKE = 2
    LEVEL_1RTT = 3
    N_LEVELS = 4

    MAX_MASKS = 64                # packets whose headers are protected in one call
    AHEAD_LEAST = 4               # packets from which on it pays to make their masks together
    HEADER_SAMPLE = 4 + 16        # bytes after the packet number's place that removing header protection needs

    # what a call gives instead of 0
    KEYS_FAILED = -1              # no key, no memory, or the packet does not authenticate
    KEYS_LIMIT = -2               # the key or the connection protected as much as it may (RFC 9001 §6.6)
    KEYS_MISUSED = -3             # the peer's key update breaks the rules (KEY_UPDATE_ERROR)

    # which 1-RTT key opened a packet
    PHASE_PREVIOUS = -1
    PHASE_PRESENT = 0
    PHASE_NEXT = 1

    # what `keys_follow` found
    FOLLOW_NOTHING = 0
    FOLLOW_ANSWERED = 1           # first packet of the phase that we began: the previous keys may be timed out
    FOLLOW_UPDATED = 2            # the peer began a phase, and we follow


cdef struct LevelKeys:
    Aead* rx
    Aead* tx
    HeaderKey* rx_header
    HeaderKey* tx_header


cdef struct KeyRing:
    LevelKeys level[4]            # 0-RTT has one direction only
    Aead* rx_previous             # NULL once it is timed out
    Aead* rx_next
    Aead* tx_next
    int suite                     # of 1-RTT
    size_t secret_len
    uint8_t rx_secret[48]         # that the next keys came from
    uint8_t tx_secret[48]
    bint phase                    # the bit of the present 1-RTT keys
    bint unanswered               # the peer began this phase and has had nothing from us in it
    bint unacked                  # nothing we sent in this phase was acknowledged yet
    int64_t since                 # when this phase began
    int64_t first_pn              # first number received in this phase, on path `first_path`; -1: none yet
    uint32_t first_path
    uint64_t sealed               # packets under the present 1-RTT key
    uint64_t seal_limit
    uint64_t update_at            # packets after which we begin the next phase ourselves
    uint64_t failed_opens         # under all keys
    uint64_t open_limit
    # masks made ahead, see `keys_look_ahead`: of the packet at `ahead` and so many behind it
    const uint8_t* ahead
    const uint8_t* ahead_masks
    uint32_t ahead_step
    uint32_t ahead_left


# One received packet between the steps of removing its protection.
cdef struct Opened:
    uint64_t pn
    uint8_t* payload
    size_t size                   # of the plaintext
    int pn_len
    int phase                     # PHASE_*


cdef void keys_init(KeyRing* ring) noexcept nogil
cdef void keys_clear(KeyRing* ring) noexcept nogil

cdef inline void keys_limit(KeyRing* ring, uint64_t update_at, uint64_t seal, uint64_t open) noexcept nogil:
    """Use keys for other numbers of packets than RFC 9001 §6.6 allows; 0 leaves a limit as it is."""
    ring.update_at = update_at if update_at else ring.update_at
    ring.seal_limit = seal if seal else ring.seal_limit
    ring.open_limit = open if open else ring.open_limit


cdef inline bint keys_can_seal(const KeyRing* ring, int level) noexcept nogil:
    return ring.level[level].tx != NULL

cdef inline bint keys_can_open(const KeyRing* ring, int level) noexcept nogil:
    return ring.level[level].rx != NULL

# Both directions of the Initial level, in place of earlier ones (a Retry changes them). 0, KEYS_FAILED.
cdef int keys_install_initial(KeyRing* ring, bint is_client, const uint8_t* dcid, size_t n) noexcept nogil
# One direction of another level. 0, KEYS_FAILED: nothing has changed.
cdef int keys_install(KeyRing* ring, int level, bint write, int suite, const uint8_t* secret, size_t n) noexcept nogil
cdef void keys_drop(KeyRing* ring, int level) noexcept nogil

# --- one packet; at hand for the callers' loops, and their levels are constants there
# Encrypt `payload` in place, `n` bytes, and append the tag. 0, KEYS_FAILED, KEYS_LIMIT: the packet must not leave.
cdef inline int keys_seal(KeyRing* ring, int level, uint32_t path_id, uint64_t pn, const uint8_t* header, size_t header_len,
                   uint8_t* payload, size_t n) noexcept nogil:  # hot
    cdef Aead* key = ring.level[level].tx
    if key == NULL:
        return KEYS_FAILED
    if level != LEVEL_1RTT:
        return KEYS_FAILED if aead_seal(key, 0, pn, header, header_len, payload, n) < 0 else 0
    if ring.sealed >= ring.seal_limit:
        return KEYS_LIMIT
    if aead_seal(key, path_id, pn, header, header_len, payload, n) < 0:
        return KEYS_FAILED
    ring.sealed += 1
    ring.unanswered = False
    return 0

# Header protection masks, 16 bytes each, of up to MAX_MASKS sealed packets of one level. 0, KEYS_FAILED.
cdef inline int keys_masks(KeyRing* ring, int level, const uint8_t** samples, int n, uint8_t* masks) noexcept nogil:
    cdef HeaderKey* key = ring.level[level].tx_header
    if key == NULL or hp_masks(key, samples, n, masks) < 0:
        return KEYS_FAILED
    return 0

# Make the masks of `count` short packets that follow each other in memory, `step` bytes apart, in one call, as far as
# `masks` (MAX_MASKS * 16 bytes) has room. Both stay where they are until keys_look_back.
cdef void keys_look_ahead(KeyRing* ring, const uint8_t* first, uint32_t step, uint32_t count, size_t pn_offset,
                          uint8_t* masks) noexcept nogil
cdef inline void keys_look_back(KeyRing* ring) noexcept nogil:
    ring.ahead_left = 0

# Remove header protection: first byte, packet number. `expected`: one above the largest number received. 0, KEYS_FAILED.
cdef inline int keys_unmask(KeyRing* ring, int level, uint8_t* packet, size_t n, size_t pn_offset, uint64_t expected,
                     Opened* out) noexcept nogil:  # hot
    cdef HeaderKey* key = ring.level[level].rx_header
    cdef const uint8_t* sample = packet + pn_offset + 4
    cdef uint8_t own[16]
    cdef const uint8_t* mask = own
    cdef uint8_t* at = packet + pn_offset
    cdef uint64_t truncated = 0
    cdef int i
    if key == NULL or n < pn_offset + HEADER_SAMPLE:
        return KEYS_FAILED
    if level == LEVEL_1RTT and ring.ahead_left and packet == ring.ahead:
        mask = ring.ahead_masks
        ring.ahead += ring.ahead_step
        ring.ahead_masks += 16
        ring.ahead_left -= 1
    elif hp_masks(key, &sample, 1, own) < 0:
        return KEYS_FAILED
    packet[0] ^= mask[0] & (0x1f if level == LEVEL_1RTT else 0x0f)
    out.pn_len = (packet[0] & 3) + 1
    for i in range(out.pn_len):
        at[i] ^= mask[1 + i]
        truncated = (truncated << 8) | at[i]
    out.pn = pn_expand(truncated, out.pn_len, expected)
    out.payload = at + out.pn_len
    return 0

cdef inline Aead* opening_key(KeyRing* ring, int level, uint32_t path_id, const uint8_t* packet, Opened* out) noexcept nogil:
    """The key that a packet's phase bit and number ask for."""
    out.phase = PHASE_PRESENT
    if level != LEVEL_1RTT or ((packet[0] & 4) != 0) == ring.phase:
        return ring.level[level].rx
    if ring.rx_previous != NULL and (
            ring.first_pn < 0 or path_id != ring.first_path or <int64_t>out.pn < ring.first_pn):
        out.phase = PHASE_PREVIOUS
        return ring.rx_previous
    out.phase = PHASE_NEXT
    return ring.rx_next

# Decrypt an unmasked packet in place. 0, KEYS_FAILED, KEYS_LIMIT.
cdef inline int keys_open(KeyRing* ring, int level, uint32_t path_id, uint8_t* packet, size_t n, size_t pn_offset,
                   Opened* out) noexcept nogil:  # hot
    cdef size_t header = pn_offset + out.pn_len
    cdef Aead* key = opening_key(ring, level, path_id, packet, out)
    cdef Py_ssize_t size = AEAD_FORGED
    if key != NULL:
        size = aead_open(key, path_id, out.pn, packet, header, packet + header, n - header)
    if size == AEAD_FAILED:
        return KEYS_FAILED            # our fault, not the packet's: it counts as lost
    if size < 0:
        ring.failed_opens += 1
        return KEYS_LIMIT if ring.failed_opens > ring.open_limit else KEYS_FAILED
    out.size = <size_t>size
    return 0

# --- key phases of 1-RTT
# Whether an opened packet says anything about key phases. Most do not.
cdef inline bint keys_phase_news(const KeyRing* ring, const Opened* packet) noexcept nogil:
    return packet.phase == PHASE_NEXT or (
        ring.first_pn < 0 and ring.rx_previous != NULL and packet.phase == PHASE_PRESENT)

# Act on it. `largest`: number received before on that path. FOLLOW_*, KEYS_FAILED, KEYS_MISUSED.
cdef int keys_follow(KeyRing* ring, const Opened* packet, uint32_t path_id, int64_t largest, int64_t now) noexcept nogil
# Begin the next phase. 0, KEYS_FAILED: there are no keys for it, or none for the one after.
cdef int keys_update(KeyRing* ring, int64_t now) noexcept nogil
# RFC 9001 §6.1: whether the peer has seen the present phase and nobody needs the keys before it.
cdef inline bint keys_may_update(const KeyRing* ring) noexcept nogil:
    return ring.rx_previous == NULL and not ring.unacked

cdef inline bint keys_update_wanted(const KeyRing* ring) noexcept nogil:
    return ring.sealed >= ring.update_at and keys_may_update(ring)

# A packet that was sent at `sent_at` under the given phase bit was acknowledged.
cdef inline void keys_acked(KeyRing* ring, int64_t sent_at, bint phase) noexcept nogil:
    if ring.unacked and sent_at >= ring.since and phase == ring.phase:
        ring.unacked = False

cdef inline bint keys_has_previous(const KeyRing* ring) noexcept nogil:
    return ring.rx_previous != NULL
cdef void keys_drop_previous(KeyRing* ring) noexcept nogil
