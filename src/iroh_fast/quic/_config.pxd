"""What a connection needs of its QuicTransportConfig, as C values."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, int64_t


# Shared by the connections made with the same configuration; nobody changes it.
cdef struct Config:
    size_t users
    int64_t idle_timeout, keep_alive, path_idle, path_keep_alive, initial_rtt
    uint64_t max_bidi, max_uni, stream_window, receive_window
    uint64_t max_stream_window, max_growth       # what windows of streams may become: each, and all together beyond the first
    uint64_t send_window          # 0: follows the congestion windows, up to the next
    uint64_t max_send_window
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


# Read a QuicTransportConfig; the caller is its first user.
cdef Config* config_new(object transport) except NULL
cdef inline Config* config_share(Config* config) noexcept:
    config.users += 1
    return config
# The last user frees it; NULL is let through.
cdef void config_release(Config* config) noexcept
