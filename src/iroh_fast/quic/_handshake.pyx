"""Keys and TLS of a connection.

Sources: RFC 9001, RFC 9000 §7, §17.2.5.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint64_t, int64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from iroh_fast._crypto cimport constant_time_equal, retry_integrity_tag
from iroh_fast._packet cimport *
from iroh_fast.quic._buffers cimport (
    sendbuf_init, sendbuf_write_copy, sendbuf_rewind, recvbuf_init, recvbuf_take, recvbuf_readable)
from iroh_fast.quic._congestion cimport mtud_peer_limit
from iroh_fast.quic._keys cimport (
    LEVEL_0RTT, LEVEL_1RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL, keys_drop, keys_install, keys_install_initial, keys_may_update,
    keys_update)
from iroh_fast.quic._paths cimport *
from iroh_fast.quic._recovery cimport *

from iroh_fast.quic._state cimport *
from iroh_fast.quic._loss cimport LossRecovery

import logging

from iroh_fast.errors import CloseReason
from iroh_fast.quic.parameters import ParameterError, TransportParameters

logger = logging.getLogger("iroh_fast.quic")

cdef int64_t MS = 1000000


cdef class SecuredConnection(LossRecovery):
    """Third room: the handshake and everything with a key."""

    cdef bint may_update_keys(self) noexcept nogil:
        """RFC 9001 §6.1: the handshake is confirmed and the peer has seen the present phase."""
        return self.handshake_confirmed and keys_may_update(&self.keys)

    cdef int update_keys(self) noexcept nogil:
        """Begin the next key phase; -1 when the connection failed."""
        if keys_update(&self.keys, self.now) < 0:
            return self.fail(INTERNAL_ERROR, b"key update failed", 0)
        self.phase_changed(False)
        return 0

    cdef void phase_changed(self, bint remote) noexcept nogil:
        if self.qlog is not None:
            with gil:
                self.qlog.key_phase(self.now, remote)

    cdef int discard_keys_later(self) noexcept nogil:
        """RFC 9001 §4.9.3, §6.5: old keys stay for packets that are still under way."""
        self.key_discard_at = self.now + 3 * self.pto_max()

    cdef int tls_feed(self, int level) noexcept:
        """Hand received CRYPTO bytes to TLS and act on what comes out. -1 when the connection failed."""
        cdef RecvBuf* rx
        cdef bytes data
        cdef Level* l
        try:
            while True:
                if level == LEVEL_1RTT:
                    rx = &self.data_crypto_rx
                else:
                    l = self.initial if level == LEVEL_INITIAL else self.handshake
                    if not l.live:
                        return 0
                    rx = &l.rx
                if not recvbuf_readable(rx):
                    return 0
                data = recvbuf_take(rx, 65536)
                self.tls.receive(level, data)
                self.tls_drain()
                if self.err:
                    return -1
        except Exception as e:
            description = getattr(e, "description", None)
            if description is None:
                logger.exception("connection %d: TLS failed", self.stable_id)
                self.close_text = "internal error"
                return self.fail(INTERNAL_ERROR, NULL, 0)
            # The alert may come with output (nothing but the close follows).
            self.close_text = e.reason
            return self.fail(0x100 + <uint64_t>description, NULL, 0)

    cdef void tls_drain(self):
        cdef object tls = self.tls
        cdef Level* l
        cdef bytes data
        for write, level, suite, secret in tls.take_secrets():
            self.install(write, level, suite, secret)
        for level, data in tls.take_output():
            if level == LEVEL_1RTT:
                sendbuf_write_copy(&self.data_crypto_tx, <const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))
            else:
                l = self.initial if level == LEVEL_INITIAL else self.handshake
                if l.live:
                    sendbuf_write_copy(&l.tx, <const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))
        if self.peer_parameters is None and tls.peer_transport_parameters is not None:
            try:
                self.apply_parameters(TransportParameters().decode(tls.peer_transport_parameters, self.is_client))
            except ParameterError as e:
                self.close_text = e.reason
                self.fail(TRANSPORT_PARAMETER_ERROR, NULL, 0)
                return
        if self.alpn is None and tls.alpn is not None:
            self.alpn = tls.alpn
            self.fire(W_ALPN)
        if tls.complete and not self.handshake_done and not self.err:
            self.on_complete()

    cdef void install(self, bint write, int level, int suite, bytes secret):
        if level == LEVEL_HANDSHAKE and not self.handshake.live and self.make_level(&self.handshake) < 0:
            self.fail(INTERNAL_ERROR, b"out of memory", 0)
            return
        if keys_install(&self.keys, level, write, suite, <const uint8_t*>PyBytes_AS_STRING(secret),
                        <size_t>PyBytes_GET_SIZE(secret)) < 0:
            self.fail(INTERNAL_ERROR, b"key derivation failed", 0)
            return
        if self.qlog is not None:
            self.qlog.key(self.now, write, level)

    cdef int apply_parameters(self, object tp) except -1:
        """Check and adopt the peer's transport parameters (RFC 9000 §7.3, §7.4)."""
        cdef Path* p = self.path(0)
        cdef bytes odcid = PyBytes_FromStringAndSize(<char*>self.odcid, self.odcid_len)
        cdef bytes scid = PyBytes_FromStringAndSize(<char*>self.dcid0, self.dcid0_len)
        if tp.initial_source_connection_id != scid:
            raise ParameterError("CID authentication failure")
        if self.is_client:
            if tp.original_destination_connection_id != odcid:
                raise ParameterError("CID authentication failure")
            retry = PyBytes_FromStringAndSize(<char*>self.retry_scid, self.retry_scid_len) if self.used_retry else None
            if tp.retry_source_connection_id != retry:
                raise ParameterError("CID authentication failure")
            if tp.stateless_reset_token is not None and p != NULL and p.cids.n_remote:
                memcpy(p.cids.remote[0].token, PyBytes_AS_STRING(tp.stateless_reset_token), 16)
                p.cids.remote[0].has_token = True
                self.watch_reset(p.cids)
        self.peer_parameters = tp
        if self.qlog is not None:
            self.qlog.parameters(self.now, False, tp)
        self.adopt_limits(tp)
        self.peer_ack_exponent = tp.ack_delay_exponent
        self.peer_max_ack_delay = <int64_t>tp.max_ack_delay_ms * MS
        self.peer_cid_limit = tp.active_connection_id_limit
        self.peer_ack_frequency = tp.min_ack_delay_us is not None
        if self.peer_ack_frequency:
            self.peer_min_ack_delay_us = tp.min_ack_delay_us
        self.peer_udp = tp.max_udp_payload_size if tp.max_udp_payload_size < 65527 else 65527
        if p != NULL:
            mtud_peer_limit(&p.r.mtud, <uint16_t>self.peer_udp)
        idle = <int64_t>tp.max_idle_timeout_ms * MS
        if idle and (self.idle_timeout == 0 or idle < self.idle_timeout):
            self.idle_timeout = idle
        role = tp.address_discovery
        self.send_observed = self.cfg.observed_send and role is not None and role >= 1
        self.receive_observed = self.cfg.observed_receive and role is not None and role != 1
        if self.send_observed and p != NULL:
            p.observed_due = True
        return 0

    cdef int adopt_limits(self, object tp) except -1:
        self.streams.set_peer_limits(tp.initial_max_data, tp.initial_max_stream_data_bidi_local,
                                     tp.initial_max_stream_data_bidi_remote, tp.initial_max_stream_data_uni,
                                     tp.initial_max_streams_bidi, tp.initial_max_streams_uni)
        self.peer_datagram = tp.max_datagram_frame_size
        return 0

    cdef void on_complete(self):
        """The TLS handshake is done on our side."""
        cdef Path* p = self.path(0)
        cdef object tls = self.tls
        if self.peer_parameters is None:
            self.close_text = "peer misbehaved: MissingQuicTransportParameters"
            self.fail(0x16d, NULL, 0)
            return
        if self.is_client and tls.early_data_offered:
            self.early_data_accepted = bool(tls.early_data_accepted)
            if not self.early_data_accepted:
                self.drop_0rtt(p)
            elif self.remembered_parameters is not None and not self.peer_parameters.accepts_zero_rtt_of(
                    self.remembered_parameters):
                self.close_text = "0-RTT accepted with incompatible transport parameters"
                self.fail(PROTOCOL_VIOLATION, NULL, 0)
                return
        elif not self.is_client:
            self.early_data_accepted = tls.early_data_accepted
        self.handshake_done = True
        self.state = ST_ESTABLISHED
        self.peer_id = tls.peer_public_key
        if self.is_client:
            # 0-RTT keys are of no use once 1-RTT keys exist (RFC 9001 §4.9.3).
            keys_drop(&self.keys, LEVEL_0RTT)
        if self.cfg.max_paths and self.peer_parameters.initial_max_path_id is not None:
            self.multipath = True
            self.local_max_path = self.cfg.max_paths - 1
            self.remote_max_path = self.peer_parameters.initial_max_path_id
            if p != NULL:
                p.idle_timeout = self.cfg.path_idle
            if p != NULL and p.cids.n_remote and p.cids.remote[p.cids.active].len == 0:
                self.fail(PROTOCOL_VIOLATION, b"multipath must not use zero-length CIDs", 0)
                return
        self.nat = self.multipath and self.cfg.max_nat > 0 and self.peer_parameters.n0_nat_traversal is not None
        if p != NULL:
            if self.is_client:
                p.r.validated = True
            self.on_established(p)
        self.issue_cids(0)
        self.issue_path_cids()
        if self.cfg.ack_frequency and self.peer_ack_frequency:
            self.pend(FT_ACK_FREQUENCY, 0, 0, 0)
        if not self.is_client:
            self.pend(FT_HANDSHAKE_DONE, 0, 0, 0)
            self.on_confirmed()
        self.fire(W_HANDSHAKE)

    cdef void drop_0rtt(self, Path* p):
        """Forget everything sent in 0-RTT packets."""
        cdef uint64_t pn
        cdef SentRec* r
        if p != NULL and p.sp.ring != NULL:
            for pn in range(p.sp.first, p.sp.last + 1):
                if not p.sp.outstanding:
                    break
                r = space_rec(&p.sp, pn)
                if r != NULL:
                    if r.size:
                        p.r.in_flight -= r.size
                    frame_recs_free(r.frames)
                    space_remove(&p.sp, pn)
        self.streams.reject_0rtt()
        self.adopt_limits(self.peer_parameters)

    cdef void on_confirmed(self):
        """Both sides have finished the handshake; its state can go."""
        cdef Path* p = self.path(0)
        self.handshake_confirmed = True
        self.peer_validated_us = True
        if p != NULL:
            if self.initial.live:
                self.drop_space(p, &self.initial.sp)
            if self.handshake.live:
                self.drop_space(p, &self.handshake.sp)
        self.drop_level(LEVEL_INITIAL)
        self.drop_level(LEVEL_HANDSHAKE)
        self.address_token = None
        self.remembered_parameters = None
        free(self.dial)
        self.dial = NULL
        self.n_dial = 0
        self.tls.release_handshake_state()
        self.fire(W_CONFIRMED)

    def parameters(self, bytes reset_token):
        """Our transport parameters, encoded."""
        cdef Config* c = &self.cfg
        tp = TransportParameters()
        if not self.is_client:
            tp.original_destination_connection_id = PyBytes_FromStringAndSize(<char*>self.odcid, self.odcid_len)
            tp.stateless_reset_token = reset_token
            if self.used_retry:
                tp.retry_source_connection_id = PyBytes_FromStringAndSize(<char*>self.retry_scid, self.retry_scid_len)
        tp.max_idle_timeout_ms = c.idle_timeout // MS
        tp.max_udp_payload_size = 1472 if c.mtu_bound <= 1472 else c.mtu_bound
        tp.initial_max_data = c.receive_window
        tp.initial_max_stream_data_bidi_local = c.stream_window
        tp.initial_max_stream_data_bidi_remote = c.stream_window
        tp.initial_max_stream_data_uni = c.stream_window
        tp.initial_max_streams_bidi = c.max_bidi
        tp.initial_max_streams_uni = c.max_uni
        tp.active_connection_id_limit = REMOTE_CIDS
        tp.initial_source_connection_id = PyBytes_FromStringAndSize(<char*>self.scid, CID_LEN)
        tp.max_datagram_frame_size = (65535 if c.datagram_rx > 65535 else c.datagram_rx) if c.datagrams else 0
        tp.min_ack_delay_us = 1000
        if c.max_paths:
            tp.initial_max_path_id = c.max_paths - 1
        if c.max_nat and c.max_paths:
            tp.n0_nat_traversal = c.max_nat
        if c.observed_send or c.observed_receive:
            tp.address_discovery = 2 if c.observed_send and c.observed_receive else 0 if c.observed_send else 1
        return tp.encode(not self.is_client, self.host_random)

    cdef void on_retry(self, const uint8_t* data, size_t n, const uint8_t* scid, uint8_t scid_len, const uint8_t* token,
                       size_t token_len) noexcept:
        """RFC 9000 §17.2.5: start over with the server's token and id, once."""
        cdef uint8_t tag[16]
        cdef Path* p = self.path(0)
        if self.got_first_packet or self.used_retry or n < 16 or token_len == 0:
            return
        if retry_integrity_tag(self.odcid, self.odcid_len, data, n - 16, tag) < 0 or not constant_time_equal(tag, data + n - 16, 16):
            return
        if scid_len == self.dcid0_len and memcmp(scid, self.dcid0, scid_len) == 0:
            return
        self.used_retry = True
        memcpy(self.retry_scid, scid, scid_len)
        self.retry_scid_len = scid_len
        memcpy(self.dcid0, scid, scid_len)
        self.dcid0_len = scid_len
        p.cids.n_remote = 1
        p.cids.active = 0
        memset(&p.cids.remote[0], 0, sizeof(RemoteCid))
        p.cids.remote[0].len = scid_len
        memcpy(p.cids.remote[0].cid, scid, scid_len)
        self.address_token = PyBytes_FromStringAndSize(<char*>token, token_len)
        if self.set_initial_keys(scid, scid_len) < 0:
            self.fail(INTERNAL_ERROR, b"key derivation failed", 0)
            return
        # Packet numbers go on; what was sent counts as never sent.
        self.forget_sent(p, &self.initial.sp)
        sendbuf_rewind(&self.initial.tx)
        self.forget_sent(p, &p.sp)
        self.streams.rewind_0rtt()
        p.pto_count = 0
        p.r.in_flight = 0

    cdef int set_initial_keys(self, const uint8_t* dcid, size_t n) noexcept nogil:
        if not self.initial.live and self.make_level(&self.initial) < 0:
            return -1
        return keys_install_initial(&self.keys, self.is_client, dcid, n)

    cdef void on_version_negotiation(self, const uint8_t* data, size_t n, LongHeader* h) noexcept:
        """RFC 9000 §6.2: only before any other packet, and only if our version is missing."""
        cdef size_t at = 7 + h.dcid_len + h.scid_len
        if self.got_first_packet or self.state != ST_HANDSHAKE:
            return
        if h.scid_len != self.dcid0_len or memcmp(h.scid, self.dcid0, h.scid_len) != 0:
            return
        if h.dcid_len != CID_LEN or memcmp(h.dcid, self.scid, CID_LEN) != 0:
            return
        while at + 4 <= n:
            if data[at] == 0 and data[at + 1] == 0 and data[at + 2] == 0 and data[at + 3] == 1:
                return
            at += 4
        self.finish_drained(CloseReason("version_mismatch", 0, b"", True))
