"""The key ring of one connection: every packet protection key it has.

A plain structure that knows nothing of packets' contents, paths or clocks. Each call that may fail says so: a packet whose
sealing or masking failed must not leave, one that does not open counts towards the integrity limit. Nothing else holds a key.
Sources: RFC 9001 §5 and §6, the nonce of the multipath draft.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcpy, memset

from iroh_fast._crypto cimport (
    aead_free, hp_free, initial_secrets, keys_from_secret, next_secret, SUITE_AES128_GCM, SUITE_CHACHA20_POLY1305)

# RFC 9001 §6.6 and §B.1: packets that one key may protect, and failures that one connection may see.
cdef uint64_t GCM_SEAL_LIMIT = <uint64_t>1 << 23
cdef uint64_t GCM_OPEN_LIMIT = <uint64_t>1 << 52
cdef uint64_t CHACHA_OPEN_LIMIT = <uint64_t>1 << 36
cdef uint64_t NO_LIMIT = <uint64_t>-1
cdef uint64_t UPDATE_MARGIN = 10000


cdef void free_level(LevelKeys* keys) noexcept nogil:
    aead_free(keys.rx)
    aead_free(keys.tx)
    hp_free(keys.rx_header)
    hp_free(keys.tx_header)
    memset(keys, 0, sizeof(LevelKeys))


cdef void wipe(uint8_t* secret, size_t n) noexcept nogil:
    """memset that the compiler may not leave out."""
    cdef volatile uint8_t* at = secret
    cdef size_t i
    for i in range(n):
        at[i] = 0


cdef void keys_init(KeyRing* ring) noexcept nogil:
    memset(ring, 0, sizeof(KeyRing))
    ring.first_pn = -1
    ring.seal_limit = ring.update_at = NO_LIMIT
    ring.open_limit = GCM_OPEN_LIMIT


cdef void keys_clear(KeyRing* ring) noexcept nogil:
    cdef int level
    for level in range(N_LEVELS):
        free_level(&ring.level[level])
    aead_free(ring.rx_previous)
    aead_free(ring.rx_next)
    aead_free(ring.tx_next)
    ring.rx_previous = ring.rx_next = ring.tx_next = NULL
    wipe(ring.rx_secret, sizeof(ring.rx_secret))
    wipe(ring.tx_secret, sizeof(ring.tx_secret))


# ---------------------------------------------------------------- install
cdef int keys_install_initial(KeyRing* ring, bint is_client, const uint8_t* dcid, size_t n) noexcept nogil:
    cdef uint8_t client[32]
    cdef uint8_t server[32]
    cdef LevelKeys* keys = &ring.level[LEVEL_INITIAL]
    free_level(keys)
    if initial_secrets(dcid, n, client, server) < 0:
        return KEYS_FAILED
    if (keys_from_secret(SUITE_AES128_GCM, &client[0] if is_client else &server[0], 32, &keys.tx, &keys.tx_header) < 0
            or keys_from_secret(SUITE_AES128_GCM, &server[0] if is_client else &client[0], 32, &keys.rx, &keys.rx_header) < 0):
        free_level(keys)
        return KEYS_FAILED
    return 0


cdef int keys_install(KeyRing* ring, int level, bint write, int suite, const uint8_t* secret, size_t n) noexcept nogil:
    cdef LevelKeys* keys = &ring.level[level]
    cdef Aead* aead = NULL
    cdef HeaderKey* header = NULL
    if n > sizeof(ring.rx_secret) or keys_from_secret(suite, secret, n, &aead, &header) < 0:
        return KEYS_FAILED
    if write:
        aead_free(keys.tx)
        hp_free(keys.tx_header)
        keys.tx = aead
        keys.tx_header = header
    else:
        aead_free(keys.rx)
        hp_free(keys.rx_header)
        keys.rx = aead
        keys.rx_header = header
    if level != LEVEL_1RTT:
        return 0
    ring.suite = suite
    ring.secret_len = n
    memcpy(&ring.tx_secret[0] if write else &ring.rx_secret[0], secret, n)
    if suite == SUITE_CHACHA20_POLY1305:
        ring.open_limit = CHACHA_OPEN_LIMIT
    else:
        ring.seal_limit = GCM_SEAL_LIMIT
        # INTEROP: iroh updates its keys after 10..999 packets; we update for the AEAD limit only.
        ring.update_at = GCM_SEAL_LIMIT - UPDATE_MARGIN
    if keys.rx == NULL or keys.tx == NULL:
        return 0
    return derive_next(ring)


cdef int derive_next(KeyRing* ring) noexcept nogil:
    """Have the keys of the next phase ready, so that the peer cannot tell by our time (RFC 9001 §6.3)."""
    cdef uint8_t rx[48]
    cdef uint8_t tx[48]
    cdef int rc = KEYS_FAILED
    if (next_secret(ring.suite, ring.rx_secret, ring.secret_len, rx) == 0
            and next_secret(ring.suite, ring.tx_secret, ring.secret_len, tx) == 0
            and keys_from_secret(ring.suite, rx, ring.secret_len, &ring.rx_next, NULL) == 0
            and keys_from_secret(ring.suite, tx, ring.secret_len, &ring.tx_next, NULL) == 0):
        memcpy(ring.rx_secret, rx, ring.secret_len)
        memcpy(ring.tx_secret, tx, ring.secret_len)
        rc = 0
    else:
        aead_free(ring.rx_next)
        aead_free(ring.tx_next)
        ring.rx_next = ring.tx_next = NULL
    wipe(rx, sizeof(rx))
    wipe(tx, sizeof(tx))
    return rc


cdef void keys_drop(KeyRing* ring, int level) noexcept nogil:
    free_level(&ring.level[level])


cdef void keys_look_ahead(KeyRing* ring, const uint8_t* first, uint32_t step, uint32_t count, size_t pn_offset,
                          uint8_t* masks) noexcept nogil:
    cdef const uint8_t* samples[MAX_MASKS]
    cdef uint32_t i
    ring.ahead_left = 0
    if count > MAX_MASKS:
        count = MAX_MASKS
    if count < AHEAD_LEAST or step < pn_offset + HEADER_SAMPLE or ring.level[LEVEL_1RTT].rx_header == NULL:
        return
    for i in range(count):
        samples[i] = first + <size_t>i * step + pn_offset + 4
    if hp_masks(ring.level[LEVEL_1RTT].rx_header, samples, <int>count, masks) < 0:
        return
    ring.ahead = first
    ring.ahead_masks = masks
    ring.ahead_step = step
    ring.ahead_left = count


cdef void keys_drop_previous(KeyRing* ring) noexcept nogil:
    aead_free(ring.rx_previous)
    ring.rx_previous = NULL


# ---------------------------------------------------------------- sending
# ---------------------------------------------------------------- key phases
cdef int keys_follow(KeyRing* ring, const Opened* packet, uint32_t path_id, int64_t largest, int64_t now) noexcept nogil:
    cdef int found = FOLLOW_ANSWERED
    if packet.phase == PHASE_NEXT:
        # RFC 9001 §6.2, §6.4: one update at a time, and none that goes back in packet numbers.
        if <int64_t>packet.pn <= largest or ring.unanswered:
            return KEYS_MISUSED
        if keys_update(ring, now) < 0:
            return KEYS_FAILED
        ring.unanswered = True
        found = FOLLOW_UPDATED
    elif not keys_phase_news(ring, packet):
        return FOLLOW_NOTHING
    ring.first_pn = <int64_t>packet.pn
    ring.first_path = path_id
    return found


cdef int keys_update(KeyRing* ring, int64_t now) noexcept nogil:
    cdef LevelKeys* keys = &ring.level[LEVEL_1RTT]
    if ring.rx_next == NULL or ring.tx_next == NULL:
        return KEYS_FAILED
    aead_free(ring.rx_previous)
    ring.rx_previous = keys.rx
    keys.rx = ring.rx_next
    aead_free(keys.tx)
    keys.tx = ring.tx_next
    ring.rx_next = ring.tx_next = NULL
    ring.phase = not ring.phase
    ring.since = now
    ring.unacked = True
    ring.first_pn = -1
    ring.sealed = 0
    return derive_next(ring)
