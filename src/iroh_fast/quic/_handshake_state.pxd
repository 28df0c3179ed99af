"""The state of a handshake: its levels, the ids its packets carry, the addresses that are dialed.

Beside it stand `tls`, `alpn`, `peer_id`, `early_data_accepted`, `early_datagrams`, `address_token` and `on_address_token`
of the connection: structures hold no Python objects.
"""

from libc.stdint cimport uint8_t, uint64_t, int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._keys cimport KeyRing, LEVEL_HANDSHAKE, LEVEL_INITIAL
from iroh_fast.quic._parameters cimport Parameters
from iroh_fast.quic._receive_buffer cimport RecvBuf
from iroh_fast.quic._send_buffer cimport SendBuf
from iroh_fast.quic._space cimport PnSpace


cdef struct Stage:                # Initial or Handshake, until its keys are discarded
    bint live
    PnSpace space
    SendBuf tx
    RecvBuf rx


cdef struct HandshakeId:
    uint8_t bytes[20]
    uint8_t len


cdef struct Handshake:
    int64_t until                 # when a handshake that is not complete is given up
    bint done, confirmed
    bint heard                    # a packet of the peer authenticated
    bint retried                  # a Retry was sent or followed
    bint peer_validated_us        # the peer knows our address
    bint settled                  # a Handshake packet came: the address it came from stays
    bint theirs_known
    HandshakeId original          # destination of the client's first packet
    HandshakeId theirs            # the peer's id during the handshake
    HandshakeId retry             # the source id of a Retry
    HandshakeId first             # server: what the client's Initials are addressed to
    uint8_t ours[8]
    UdpAddr* dial                 # candidate addresses while dialing
    int* dial_errors              # why nothing leaves to each; else minus the errors that may pass. In the memory of `dial`
    int n_dial
    uint8_t dial_from             # the candidates from here on are new: until the next timeout flights go to them
    uint8_t dial_expects          # more may come: that none of those known can be reached is not the end
    Stage* initial                # a level that is never live while there is none
    Stage* handshake
    SendBuf crypto_tx             # CRYPTO data of 1-RTT packets
    RecvBuf crypto_rx
    Parameters* peer_parameters   # until the handshake is confirmed
    Parameters* remembered        # of the server, under which 0-RTT is sent


cdef void handshake_init(Handshake* handshake) noexcept nogil
cdef void handshake_free(Handshake* handshake, KeyRing* keys) noexcept nogil
# Both sides have finished: what is of no use any more goes.
cdef void handshake_release(Handshake* handshake, KeyRing* keys) noexcept nogil

cdef inline Stage** level_place(Handshake* handshake, int level) noexcept nogil:
    return &handshake.initial if level == LEVEL_INITIAL else &handshake.handshake

# Initial or Handshake.
cdef inline Stage* level_at(const Handshake* handshake, int level) noexcept nogil:
    return handshake.initial if level == LEVEL_INITIAL else handshake.handshake

# Start a level. 0, or -1 out of memory.
cdef int level_begin(Handshake* handshake, int level, uint64_t random) noexcept nogil
# End one. Keys, packets and buffers of the handshake are a third of an idle connection.
cdef void level_end(Handshake* handshake, KeyRing* keys, int level) noexcept nogil

# Our CRYPTO data of a level, and the peer's; NULL where the level is over.
cdef inline SendBuf* crypto_out(Handshake* handshake, int level) noexcept nogil:
    cdef Stage* stage
    if level != LEVEL_INITIAL and level != LEVEL_HANDSHAKE:
        return &handshake.crypto_tx
    stage = level_at(handshake, level)
    return &stage.tx if stage.live else NULL

cdef inline RecvBuf* crypto_in(Handshake* handshake, int level) noexcept nogil:
    cdef Stage* stage
    if level != LEVEL_INITIAL and level != LEVEL_HANDSHAKE:
        return &handshake.crypto_rx
    stage = level_at(handshake, level)
    return &stage.rx if stage.live else NULL

# The peer has shown that it knows our address.
cdef inline void handshake_validated(Handshake* handshake) noexcept nogil:
    handshake.peer_validated_us = True

cdef void id_set(HandshakeId* id, const uint8_t* bytes, size_t n) noexcept nogil
cdef bint id_equals(const HandshakeId* id, const uint8_t* bytes, size_t n) noexcept nogil
