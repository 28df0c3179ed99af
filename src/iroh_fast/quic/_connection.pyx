"""One QUIC connection: the handle for the layers above.

Its parts are in `_core`, what happens to it when in the rooms of functions between.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free
from libc.string cimport memset

from iroh_fast._batch cimport UdpAddr, addr_from_tuple, addr_to_tuple
from iroh_fast.quic._closing cimport enter_close
from iroh_fast.quic._codes cimport (
    APPLICATION_ABANDON_PATH, ST_CLOSING, ST_DRAINED, ST_DRAINING, W_ACCEPT_BI, W_ACCEPT_UNI, W_ALPN, W_CLOSED, W_CONFIRMED,
    W_DATAGRAM, W_DATAGRAM_SPACE, W_DRAINED, W_FINISHED, W_HANDSHAKE, W_OPEN_BI, W_OPEN_UNI, W_PATHS)
from iroh_fast.quic._datagrams cimport datagrams_wait, queue_empty, queue_peek, queue_pop, queue_push
from iroh_fast.quic._first_flight cimport dial_expect, dial_more
from iroh_fast.quic._handshake cimport may_update_keys, update_keys
from iroh_fast.quic._keys cimport LEVEL_0RTT, keys_can_seal, keys_limit
from iroh_fast.quic._network cimport paths_move
from iroh_fast.quic._opening cimport OPEN_NO_CIDS, OPEN_NO_ID, open_path_to
from iroh_fast.quic._path_queries cimport find_path, last_open, path_mtu
from iroh_fast.quic._path_table cimport (
    abandon_path, controller_info, path_stats, read_path_log, record_path_log, set_path_status, try_again)
from iroh_fast.quic._paths cimport (
    CID_LEN, Path, PathStats, STATUS_AVAILABLE, STATUS_BACKUP, ip_known, path_cwnd, path_in_flight, path_ping,
    path_rtt, stats_add)
from iroh_fast.quic._streams cimport QuicStream
from iroh_fast.quic._time cimport ns_of
from iroh_fast.quic._timers cimport TIMER_KEYS, timer_clear
from iroh_fast.quic._traversal cimport peer_addresses, start_round, traversal_snapshot
from iroh_fast.quic._traversal_addresses cimport set_own_addresses
from iroh_fast.quic._traversal_state cimport addr_is_fit

from iroh_fast.errors import (
    CloseReason, ConfigError, DatagramDisabled, DatagramTooLarge, DatagramUnsupported, IrohError)
from iroh_fast.quic._counters import FRAME_NAMES

WAIT_HANDSHAKE = W_HANDSHAKE
WAIT_CONFIRMED = W_CONFIRMED
WAIT_ALPN = W_ALPN
WAIT_CLOSED = W_CLOSED
WAIT_DRAINED = W_DRAINED
WAIT_DATAGRAM = W_DATAGRAM
WAIT_DATAGRAM_SPACE = W_DATAGRAM_SPACE
WAIT_ACCEPT_BI = W_ACCEPT_BI
WAIT_ACCEPT_UNI = W_ACCEPT_UNI
WAIT_OPEN_BI = W_OPEN_BI
WAIT_OPEN_UNI = W_OPEN_UNI
WAIT_FINISHED = W_FINISHED
WAIT_PATHS = W_PATHS


STATE_NAMES = ("handshake", "established", "closing", "draining", "drained")

@cython.final
cdef class QuicConnection(Connection):
    """One connection of a sans-IO QUIC endpoint.

    Made by ``QuicEndpoint.connect`` and ``QuicIncoming.accept``. Methods act at
    once and never wait; `wait` gives a future for the next event of a kind.
    """

    @property
    def unconfirmed_streams(self):
        """Streams that were finished and are not wholly acknowledged; WAIT_FINISHED when there are none any more."""
        return self.streams.table.unconfirmed

    def poll_events(self):
        """What happened since the last call, for hosts without a driver.

        Returns
        -------
        tuple
            Bits ``1 << WAIT_...`` of the connection, and a list of (QuicStream, EV_... bits).
        """
        cdef list streams = []
        cdef uint32_t bits = 0
        while (stream := self.streams.next_event(&bits)) is not None:
            streams.append((stream, bits))
        return self.take_events(), streams

    def __repr__(self):
        side = "client" if self.is_client else "server"
        return f"<QuicConnection {self.stable_id} {side} {STATE_NAMES[self.state]}>"

    @property
    def handshake_confirmed(self):
        """Whether both sides know that TLS finished."""
        return self.handshake.confirmed

    @property
    def handshake_complete(self):
        """Whether TLS finished on our side."""
        return self.handshake.done

    @property
    def draining(self):
        """The peer knows that the connection is over: it closed it, or answered our closing."""
        return self.state >= ST_DRAINING

    @property
    def drained(self):
        """Whether nothing of the connection is left on the wire."""
        return self.state == ST_DRAINED

    @property
    def closing(self):
        """Whether the connection is over, drained or not."""
        return self.state >= ST_CLOSING

    @property
    def resumed(self):
        """Whether TLS resumed an earlier session."""
        return bool(self.tls.resumed)

    @property
    def has_0rtt(self):
        """Client: 0-RTT keys are available now."""
        return self.is_client and keys_can_seal(&self.keys, LEVEL_0RTT)

    @property
    def has_multipath(self):
        """Whether both sides negotiated multipath."""
        return self.agreed.multipath

    cpdef QuicStream open_stream(self, bint bidi):
        """A new stream, or None while the peer allows no more.

        Raises
        ------
        ConnectionLost
            The connection is over.
        """
        self.check()
        cdef QuicStream stream = self.streams.open(bidi)
        if stream is not None and not self.handshake.done:
            stream.is_0rtt = True
        return stream

    cpdef QuicStream accept_stream(self, bint bidi):
        """The peer's next stream in id order, or None."""
        cdef QuicStream stream = self.streams.accept(bidi)
        if stream is None:
            self.check()
        elif not self.handshake.done:
            stream.is_0rtt = True
        return stream

    cpdef bytes read_datagram(self):
        """The oldest received datagram, or None."""
        cdef uint32_t n
        cdef bytes out
        if queue_empty(&self.datagrams.rx):
            self.check()
            return None
        n = queue_peek(&self.datagrams.rx)
        out = PyBytes_FromStringAndSize(NULL, n)
        queue_pop(&self.datagrams.rx, <uint8_t*>PyBytes_AS_STRING(out))
        return out

    def send_datagram(self, data, bint drop_oldest=True):
        """Queue one datagram (copied); False when the buffer is full and nothing may be dropped."""
        return self.queue_buffer(data, drop_oldest)

    cdef bint queue_buffer(self, object data, bint drop_oldest) except -1:
        cdef Py_buffer view
        if type(data) is bytes:
            return self.queue_datagram(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), drop_oldest)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self.queue_datagram(<const uint8_t*>view.buf, view.len, drop_oldest)
        finally:
            PyBuffer_Release(&view)

    cdef bint queue_datagram(self, const uint8_t* data, Py_ssize_t n, bint drop_oldest) except -1:
        cdef int64_t limit = self.max_datagram()
        self.check()
        if limit < 0:
            if not self.cfg.datagrams:
                raise DatagramDisabled()
            raise DatagramUnsupported()
        if n > limit:
            raise DatagramTooLarge(n, limit)
        if queue_push(&self.datagrams.tx, data, <uint32_t>n, drop_oldest) < 0:
            if <uint64_t>n > self.cfg.datagram_tx:
                raise DatagramTooLarge(n, self.cfg.datagram_tx)
            datagrams_wait(&self.datagrams)
            return False
        self.host.wake(self)
        return True

    cdef int64_t max_datagram(self) noexcept nogil:
        """Bytes of the largest datagram, -1 when there are none."""
        cdef int64_t room, dcid = CID_LEN
        cdef Path* path = self.paths.first
        if not self.cfg.datagrams or self.agreed.peer_datagram == 0:
            return -1
        while path != NULL:
            if path.cids.active >= 0 and path.cids.remote[path.cids.active].len > dcid:
                dcid = path.cids.remote[path.cids.active].len
            path = path.next
        room = path_mtu(self) - (1 + dcid + 4 + 16)
        if room > <int64_t>self.agreed.peer_datagram:
            room = <int64_t>self.agreed.peer_datagram
        return room - 9 if room > 9 else 0

    @property
    def max_datagram_size(self):
        """Largest datagram that fits now, or None when either side has datagrams off."""
        cdef int64_t limit = self.max_datagram()
        return None if limit < 0 else limit

    @property
    def datagram_send_buffer_space(self):
        """Bytes that may be queued before old datagrams are dropped."""
        return self.cfg.datagram_tx - self.datagrams.tx.bytes

    def close(self, uint64_t code=0, bytes reason=b""):
        """Close with an application code; queued data is abandoned. Later calls do nothing."""
        cdef int64_t now = self.host.clock_ns()
        if self.state >= ST_CLOSING:
            return
        if now:
            self.now = now
        enter_close(self, CloseReason("locally_closed"), code, True, reason, 0)

    def abandon_handle(self):
        """The last handle is gone."""
        self.close(0, b"")

    def ping(self):
        """Send a PING on every path."""
        cdef Path* path = self.paths.first
        while path != NULL:
            if not path.abandoned:
                path_ping(path)
            path = path.next
        self.host.wake(self)

    def force_key_update(self):
        """Enter the next key phase now (tests); IrohError when the last one is still under way."""
        if not may_update_keys(self):
            raise IrohError("a key update is not possible now")
        update_keys(self)
        timer_clear(&self.timers, TIMER_KEYS)

    def lower_key_limits(self, *, update_at=None, seal=None, open=None):
        """Use keys for fewer packets than RFC 9001 §6.6 allows (tests; call it after the handshake).

        Parameters
        ----------
        update_at : packets sealed under one key after which we begin the next phase
        seal : packets that one key may seal
        open : packets that may fail to open, on the whole connection
        """
        keys_limit(&self.keys, update_at or 0, seal or 0, open or 0)

    def network_changed(self, keep=None):
        """Addresses of this machine may have changed: ask every path at once, with a fresh id.

        Parameters
        ----------
        keep : callable(local, remote) -> bool, None for all
            Whether the way of a path may still be there; `local` is None where it is not known. A path that is not kept is
            abandoned, and on the side that dialed a new one is opened to the same address with the same status. It goes on
            all the same while there is nothing else: on the side that accepted, or when ids for a new one ran out.
        """
        cdef Path* path = self.paths.first
        cdef uint32_t lost[256]       # as many as there can be
        cdef int n = 0
        cdef int64_t now = self.host.clock_ns()
        ways = []
        while path != NULL and keep is not None:
            if not path.abandoned:
                ways.append((path.id, addr_to_tuple(&path.route.local) if ip_known(&path.route.local) else None,
                             addr_to_tuple(&path.route.remote)))
            path = path.next
        for id, local, remote in ways:
            if n < 256 and not keep(local, remote):
                lost[n] = id
                n += 1
        if self.state >= ST_CLOSING:
            return
        if now:
            self.now = now
        paths_move(self, lost, n)
        self.host.wake(self)

    def path_works_again(self, path_id=None):
        """A path may carry packets again after an outage (a relay came back): send on it now, not at the next probe timeout.

        Addresses and connection ids stay. None: every path; the id of no open path does nothing.
        """
        cdef Path* path = self.paths.first
        while path != NULL:
            if not path.abandoned and (path_id is None or path.id == path_id):
                try_again(self, path)
            path = path.next
        self.host.wake(self)

    def set_max_concurrent(self, bidi=None, uni=None):
        """Allow the peer other numbers of concurrent streams."""
        cdef int i
        for i, value in enumerate((bidi, uni)):
            if value is None:
                continue
            self.streams.set_concurrent(i, value)
        self.host.wake(self)

    def set_receive_window(self, uint64_t window):
        """Change how much unread data the whole connection may hold."""
        self.streams.set_receive_window(window)
        self.host.wake(self)

    def path_ids(self):
        """Ids of the paths that are not abandoned."""
        cdef Path* path = self.paths.first
        cdef list out = []
        while path != NULL:
            if not path.abandoned:
                out.append(path.id)
            path = path.next
        return out

    def path_remote(self, uint32_t id):
        """Where a path leads to, or None when there is no such path."""
        cdef Path* path = find_path(self, id)
        return None if path == NULL else addr_to_tuple(&path.route.remote)

    def path_states(self):
        """Of each path that is not abandoned: (id, remote, validated, RTT in seconds, available, announced)."""
        cdef Path* path = self.paths.first
        cdef list out = []
        while path != NULL:
            if not path.abandoned:
                out.append((path.id, addr_to_tuple(&path.route.remote), path.route.validated != 0, path_rtt(path) / 1e9,
                            path.status != STATUS_BACKUP, path.status_seq > 0))
            path = path.next
        return out

    def path_rtt(self, uint32_t id):
        """Round-trip time of a path in seconds, None when it is gone."""
        cdef Path* path = find_path(self, id)
        return None if path == NULL else path_rtt(path) / 1e9

    def path_silent(self, uint32_t id):
        """Whether probes on a path stay unanswered, so that data avoid it; False when it is gone."""
        cdef Path* path = find_path(self, id)
        return path != NULL and path.silent and not path.abandoned

    def path_info(self, uint32_t id):
        """A snapshot of one path, or None."""
        cdef Path* path = find_path(self, id)
        if path == NULL:
            return None
        return {
            "id": path.id, "remote": addr_to_tuple(&path.route.remote),
            "local": addr_to_tuple(&path.route.local) if ip_known(&path.route.local) else None,
            "status": "backup" if path.status == STATUS_BACKUP else "available", "validated": path.route.validated, "announced": path.status_seq > 0,
            "rtt": path_rtt(path) / 1e9, "cwnd": path_cwnd(path), "mtu": path.route.mtud.current, "in_flight": path_in_flight(path),
            "controller": controller_info(path), "stats": path_stats(path)}

    def path_events(self):
        """Take the events of paths since the last call (at most 64, then a "lagged" entry)."""
        return [] if self.path_log is None else read_path_log(self)

    def record_paths(self, bint on):
        """Whether to keep events for `path_events`, as at first. Off: those that wait are forgotten."""
        record_path_log(self, on)

    def dial_more(self, remotes):
        """Client: take in further addresses while the handshake runs, as those of ``QuicEndpoint.connect``.

        Known ones, and what is beyond 64 of them, are left out; once an address has proven itself all are. How many were taken.
        """
        cdef int64_t now = self.host.clock_ns()
        if now:
            self.now = now
        taken = dial_more(self, list(remotes))
        if taken:
            self.host.wake(self)
        return taken

    def expect_addresses(self, bint more):
        """Client: whether `dial_more` will be called. Until then an attempt whose addresses cannot be reached goes on."""
        dial_expect(self, more)

    def open_path(self, remote, local=None, bint backup=False):
        """Client: start another path. Its id; IrohError when ids or connection ids ran out."""
        cdef UdpAddr there, here
        cdef int64_t id
        cdef int64_t now = self.host.clock_ns()
        self.check()
        if now:
            self.now = now
        if not self.is_client:
            raise ConfigError("only the side that dialed opens paths")
        if not self.agreed.multipath or not self.handshake.confirmed:
            raise IrohError("multipath is not available on this connection")
        addr_from_tuple(remote, &there)
        memset(&here, 0, sizeof(UdpAddr))
        if local is not None:
            addr_from_tuple(local, &here)
        id = open_path_to(self, &there, &here, STATUS_BACKUP if backup else STATUS_AVAILABLE)
        self.host.wake(self)
        if id == OPEN_NO_ID:
            raise IrohError("the peer allows no further path")
        if id == OPEN_NO_CIDS:
            raise IrohError("the peer has given no connection id for another path")
        if id < 0:
            raise MemoryError
        return id

    # ------------------------------------------------------------- NAT traversal
    @property
    def has_nat_traversal(self):
        """Whether both sides negotiated NAT traversal, which needs multipath."""
        return self.agreed.nat

    def set_nat_addresses(self, addrs):
        """Our own addresses that the peer may try, most useful first: all there are from now on.

        A server tells the peer at once what came and went, a client with its next round. Does nothing where NAT traversal was
        not negotiated. What nobody can be reached at (port 0, multicast, link-local, ...) and what is beyond the number that
        the peer takes is left out.
        """
        cdef UdpAddr given[255]       # more than a peer can allow
        cdef int n = 0
        cdef int64_t now = self.host.clock_ns()
        if now:
            self.now = now
        if not self.agreed.nat or self.state >= ST_CLOSING:
            return
        for addr in addrs:
            if n == 255:
                break
            addr_from_tuple(addr, &given[n])
            given[n].scope = 0
            if addr_is_fit(&given[n]):
                n += 1
        set_own_addresses(self, given, n)
        self.host.wake(self)

    def nat_addresses(self):
        """The peer's addresses: of a server those it announces, of a client those of the present round."""
        return peer_addresses(self)

    def start_nat_round(self):
        """Client: announce our addresses and probe those of the server. False: nothing to announce, or not now."""
        cdef int64_t now = self.host.clock_ns()
        if now:
            self.now = now
        if not start_round(self):
            return False
        self.host.wake(self)
        return True

    def nat_state(self):
        """What NAT traversal did: the round, our addresses, those of the peer with what became of their probes, and counts."""
        return traversal_snapshot(self)

    def close_path(self, uint32_t id, uint64_t code=APPLICATION_ABANDON_PATH):
        """Abandon a path; IrohError for the last open one."""
        cdef Path* path = find_path(self, id)
        if path == NULL or path.abandoned:
            return
        if last_open(self, path):
            raise IrohError("the last open path cannot be closed")
        abandon_path(self, path, code)
        self.host.wake(self)

    def set_path_status(self, uint32_t id, bint available):
        """Whether data may use the path (True) or only when no available one works."""
        cdef Path* path = find_path(self, id)
        cdef int status = STATUS_AVAILABLE if available else STATUS_BACKUP
        if path != NULL and not path.abandoned:
            if path.status != status:
                self.happened(W_PATHS)    # for those who watch: data may take another path now
            set_path_status(self, path, status)
            self.host.wake(self)

    def set_path_max_idle(self, uint32_t id, seconds):
        """Idle timeout of one path in seconds; None for none."""
        cdef Path* path = find_path(self, id)
        if path != NULL:
            path.idle_timeout = ns_of(seconds)
            self.host.wake(self)

    def stats(self):
        """Counters over all paths there ever were, and the windows now."""
        cdef Path* path = self.paths.first
        cdef PathStats total
        cdef int i
        memset(&total, 0, sizeof(PathStats))
        if self.paths.done != NULL:
            stats_add(&total, self.paths.done)
        while path != NULL:
            stats_add(&total, &path.stats)
            path = path.next
        return {
            "udp_tx": {"datagrams": total.tx_datagrams, "bytes": total.tx_bytes},
            "udp_rx": {"datagrams": total.rx_datagrams, "bytes": total.rx_bytes},
            "frame_tx": {name: total.tx_frames[i] for i, name in enumerate(FRAME_NAMES)},
            "frame_rx": {name: total.rx_frames[i] for i, name in enumerate(FRAME_NAMES)},
            "lost_packets": total.lost_packets, "lost_bytes": total.lost_bytes, **self.streams.windows()}
