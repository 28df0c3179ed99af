"""What a connection needs of its QuicTransportConfig, as C values."""

from libc.stdlib cimport calloc, free

from iroh_fast.quic._controllers cimport CC_BBR, CC_CUBIC, CC_NEW_RENO
from iroh_fast.quic._time cimport ns_from_seconds, ns_of

from iroh_fast.quic.config import MAX_STREAM_RECEIVE_WINDOW, STREAM_RECEIVE_WINDOW

cdef enum:
    MAX_PATHS = 256               # each id has connection ids from the start, and packets look along the paths


cdef Config* config_new(object transport) except NULL:
    cdef Config* config = <Config*>calloc(1, sizeof(Config))
    if config == NULL:
        raise MemoryError
    config.users = 1
    try:
        load(transport, config)
    except BaseException:
        free(config)
        raise
    return config


cdef void config_release(Config* config) noexcept:
    if config != NULL:
        config.users -= 1
        if config.users == 0:
            free(config)


cdef int load_stream_window(object window, object most, Config* c) except -1:
    """A window that was asked for is fixed, unless it was said how large it may become."""
    if most is None:
        most = MAX_STREAM_RECEIVE_WINDOW if window is None else window
    c.max_stream_window = most
    c.stream_window = min(STREAM_RECEIVE_WINDOW, most) if window is None else window
    return 0


cdef int load(object t, Config* c) except -1:
    cdef object m = t.mtu_discovery, af = t.ack_frequency
    c.idle_timeout = ns_of(t.max_idle_timeout)
    c.keep_alive = ns_of(t.keep_alive_interval)
    c.path_idle = ns_of(t.default_path_max_idle_timeout)
    c.path_keep_alive = ns_of(t.default_path_keep_alive_interval)
    c.initial_rtt = ns_from_seconds(t.initial_rtt) or 1
    c.max_bidi = t.max_concurrent_bidi_streams
    c.max_uni = t.max_concurrent_uni_streams
    c.receive_window = t.receive_window
    c.send_window = t.send_window or 0
    c.max_send_window = t.max_send_window
    c.max_growth = t.receive_window_growth
    load_stream_window(t.stream_receive_window, t.max_stream_receive_window, c)
    c.fair = t.send_fairness
    c.spin = t.allow_spin
    c.mtud = m is not None
    c.pad_to_mtu = t.pad_to_mtu
    c.gso = t.enable_segmentation_offload
    c.observed_send = t.send_observed_address_reports
    c.observed_receive = t.receive_observed_address_reports
    c.packet_threshold = t.packet_threshold
    c.time_threshold = t.time_threshold
    c.persistent_threshold = t.persistent_congestion_threshold
    c.initial_mtu = t.initial_mtu
    c.min_mtu = t.min_mtu
    if m is not None:
        c.mtu_bound = m.upper_bound
        c.mtu_interval = ns_of(m.interval)
        c.mtu_cooldown = ns_of(m.black_hole_cooldown)
        c.mtu_min_change = m.minimum_change
    else:
        c.mtu_bound = c.initial_mtu
    c.crypto_buffer = t.crypto_buffer_size
    c.datagrams = t.datagram_receive_buffer_size is not None
    c.datagram_rx = t.datagram_receive_buffer_size or 0
    c.datagram_tx = t.datagram_send_buffer_size
    c.cc = {"bbr": CC_BBR, "newreno": CC_NEW_RENO}.get(t.congestion_controller, CC_CUBIC)
    c.max_paths = min(t.max_concurrent_multipath_paths or 0, MAX_PATHS)
    c.max_nat = t.max_remote_nat_traversal_addresses or 0
    if af is not None:
        c.ack_frequency = True
        c.af_threshold = af.ack_eliciting_threshold
        c.af_reorder = af.reordering_threshold
        c.af_max_delay = ns_of(af.max_ack_delay)
    return 0
