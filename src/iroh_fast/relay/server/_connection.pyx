"""One WebSocket connection of a client of a relay server: the protocol of its transport."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from iroh_fast._relay._websocket cimport WS_BINARY, WS_CLOSE, WS_PING, WS_PONG
from iroh_fast.relay.server._bucket cimport bucket_fill, bucket_take
from iroh_fast.relay.server._forward cimport Forwarder
from iroh_fast.relay.server._port cimport Port
from iroh_fast.relay.server._state cimport (
    CLOSE_AWAY, CLOSE_NORMAL, CLOSE_POLICY, CLOSE_PROTOCOL, CLOSE_TOO_BIG, EARLY_BYTES, EARLY_MESSAGES, HANDOVER_BYTES,
    HANDSHAKE_HELD, HANDSHAKE_MESSAGE, HEADROOM, PAUSE_ACCESS, PAUSE_RATE, PING_MAX_TIMEOUT_MS, ST_CLOSING,
    ST_HANDSHAKE, ST_LOST, ST_OPEN, Client)

import asyncio
import logging
import os

from ..._relay import WsProtocolError, WsReader, build_message

logger = logging.getLogger("iroh_fast.relay.server")



_WHY = {
    CLOSE_NORMAL: "it closed the connection",
    CLOSE_AWAY: "this server closed the connection",
    CLOSE_PROTOCOL: "it broke the protocol",
    CLOSE_POLICY: "it may not stay",
    CLOSE_TOO_BIG: "it sent a message that is too big",
}


cdef class RelayConnection(Port):
    """One WebSocket connection of a client, from the 101 to its end.

    Parameters
    ----------
    forwarder : Forwarder
    version : int
        Protocol version, 1 or 2.
    owner : object
        Gets ``handshake_message(connection, payload)`` for each binary message before
        registration, and ``connection_closed(connection, why)`` once.

    Attributes
    ----------
    connection_id : int or None
        Set by `Forwarder.register`.
    context : object
        For the owner; let go at registration.
    """

    cdef Forwarder forwarder
    cdef object owner
    cdef object reader            # during the handshake
    cdef object resume            # timer that ends a pause
    cdef public object context
    cdef bint told                # connection_closed was called
    cdef uint32_t early_messages, early_bytes    # before registration

    def __cinit__(self, Forwarder forwarder not None, int version, owner, *_):
        memset(&self.c, 0, sizeof(Client))
        self.c.obj = <void*>self
        self.c.fd = -1
        self.c.rtt_ms = -1
        self.c.version = <uint8_t>version
        self.forwarder = forwarder
        self.owner = owner
        self.reader = WsReader("server", HANDSHAKE_MESSAGE)

    def __dealloc__(self):
        free(self.c.spill)
        free(self.c.parts)
        if self.c.out != NULL:
            self.forwarder.outbox.drop_out(&self.c)

    # --- what Python sees

    @property
    def version(self):
        return self.c.version

    @property
    def is_open(self):
        """Registered, and not yet closing."""
        return self.c.state == ST_OPEN

    @property
    def is_waiting(self):
        """Neither registered nor closing yet."""
        return self.c.state == ST_HANDSHAKE and self.transport is not None

    @property
    def is_active(self):
        """Gets the datagrams of its key."""
        return self.c.peer != NULL and self.c.peer.active == &self.c

    @property
    def queued(self):
        """Datagrams and bytes that wait for the client."""
        return self.c.packets, self.c.out_end - self.c.out_start

    def attach(self, transport, plain_socket=None):
        """Take over a transport, whose protocol this has to be.

        `plain_socket` is the socket if nothing but the transport is between it and the client.
        """
        self.transport = transport
        if plain_socket is None:
            # TLS transports pause when the limit is reached, others when it is exceeded.
            transport.set_write_buffer_limits(high=1, low=0)
        else:
            # Paused whenever it holds anything: else a direct send would overtake that.
            transport.set_write_buffer_limits(high=0)
            if os.name != "nt":
                self.c.fd = plain_socket.fileno()
        self.start_bucket()

    def send_handshake(self, payload):
        """Send a binary message before registration."""
        self.transport.write(build_message(WS_BINARY, payload))

    def pause(self):
        """Stop reading: the client's message is being judged."""
        self.set_pause(PAUSE_ACCESS)

    def admit(self, key, connection_id):
        """Register under `key` and go on with what was received meanwhile."""
        self.forwarder.register(self, key, connection_id)
        self.endpoint_id = bytes(key)
        self.context = None
        reader, self.reader = self.reader, None
        rest = reader.take_rest()
        if rest:
            self.received_bytes(rest)
        self.clear_pause(PAUSE_ACCESS)

    def close(self, int code=CLOSE_AWAY):
        """End the connection with a close frame and what is queued, or at once if it is stuck."""
        self.fail(code)

    def abort(self):
        """End the connection at once."""
        self.fail(0)

    def drop(self):
        """End the connection without a close frame, after what was written is sent."""
        if self.c.state == ST_HANDSHAKE and self.transport is not None:
            self.c.state = ST_CLOSING
            self.c.fd = -1
            self.end()
            self.transport.close()
            self.forwarder.loop.call_later(self.forwarder.write_timeout_ms / 1000.0, self._abort_late)

    # --- protocol

    def connection_made(self, transport):
        pass

    def get_buffer(self, sizehint):
        if self.c.state == ST_HANDSHAKE:
            return self.forwarder.tiny_view
        if self.c.limited:
            return self.forwarder.small_view
        return self.forwarder.view

    def buffer_updated(self, Py_ssize_t nbytes):
        cdef Forwarder f = self.forwarder
        cdef Client* c = &self.c
        cdef uint8_t* p = f.scratch.data + HEADROOM
        cdef int64_t now, until
        if nbytes <= 0 or c.state >= ST_CLOSING:
            return
        now = f.now_ms()
        c.heard = now
        f.counters.read_events += 1
        if c.limited:
            until = bucket_take(&c.bucket, nbytes, now)
            if until:
                self.limit(nbytes, until - now)
        if c.state == ST_HANDSHAKE:
            self.handshake(PyBytes_FromStringAndSize(<const char*>p, nbytes))
            return
        if c.spill_len:
            p -= c.spill_len
            memcpy(p, c.spill, c.spill_len)
            nbytes += c.spill_len
            c.spill_len = 0
        self.received(p, nbytes)

    def eof_received(self):
        # Nobody waits for what is queued. TLS transports would take writes until they are closed.
        self.fail(0)
        return False

    def pause_writing(self):
        self.c.blocked = 1
        self.c.transport_held = self.transport.get_write_buffer_size()
        self.c.stall_due = self.forwarder.now_ms() + self.forwarder.write_timeout_ms
        self.forwarder.stalled.add(self)

    def resume_writing(self):
        self.c.blocked = 0
        self.forwarder.outbox.settle(&self.c)
        self.forwarder.stalled.discard(self)
        self.forwarder.flush(&self.c)
        self.forwarder.flush_dirty()

    def connection_lost(self, exc):
        self.c.fd = -1
        self.end()
        self.c.state = ST_LOST
        if self.resume is not None:
            self.resume.cancel()
            self.resume = None
        self.forwarder.stalled.discard(self)
        self.forwarder.outbox.drop_out(&self.c)
        self.transport = None
        self.reader = None
        self.context = None

    # --- parts

    cdef int received(self, uint8_t* p, size_t n) except -1:
        """Handle bytes that lie in memory we may change."""
        cdef Forwarder f = self.forwarder
        cdef Client* c = &self.c
        cdef size_t used = 0
        cdef int code
        if n >= 16384:
            with nogil:
                code = f.parse(c, p, n, &used)
        else:
            code = f.parse(c, p, n, &used)
        if code:
            self.fail(code)
        elif used < n and c.state == ST_OPEN:
            self.keep(p + used, n - used)
        elif c.spill_cap > 4096:
            # Idle clients should hold next to nothing.
            free(c.spill)
            c.spill = NULL
            c.spill_cap = 0
        f.flush_dirty()
        return 0

    cdef int keep(self, const uint8_t* p, size_t n) except -1:
        """Put an incomplete frame aside; the parser has limited its size."""
        cdef uint8_t* bigger
        cdef uint32_t cap = 64
        if n > HEADROOM:
            raise RuntimeError("incomplete frame beyond the limit")
        if n > self.c.spill_cap:
            while cap < n:
                cap *= 2
            bigger = <uint8_t*>malloc(cap)
            if bigger == NULL:
                raise MemoryError
            free(self.c.spill)
            self.c.spill = bigger
            self.c.spill_cap = cap
        memcpy(self.c.spill, p, n)
        self.c.spill_len = <uint32_t>n
        return 0

    cdef int received_bytes(self, bytes data) except -1:
        cdef uint8_t* p
        cdef size_t n = PyBytes_GET_SIZE(data)
        p = <uint8_t*>malloc(n)
        if p == NULL:
            raise MemoryError
        try:
            memcpy(p, <const uint8_t*>PyBytes_AS_STRING(data), n)
            self.received(p, n)
        finally:
            free(p)
        return 0

    cdef int handshake(self, bytes data) except -1:
        """Before registration: whole messages go to the owner, one at a time."""
        self.early_bytes += <uint32_t>len(data)
        if self.early_bytes > EARLY_BYTES and not self.c.pause & PAUSE_ACCESS:
            self.flood()
            return 0
        self.reader.feed(data)
        if self.c.pause & PAUSE_ACCESS:
            # Some transports deliver a little more after pause_reading.
            if self.reader.buffered > HANDSHAKE_HELD:
                self.fail(CLOSE_PROTOCOL)
            return 0
        try:
            while self.c.state == ST_HANDSHAKE and not self.c.pause & PAUSE_ACCESS:
                message = self.reader.next_message()
                if message is None:
                    return 0
                opcode, payload = message
                self.early_messages += 1
                if self.early_messages > EARLY_MESSAGES:
                    self.flood()
                    return 0
                if opcode == WS_BINARY:
                    self.owner.handshake_message(self, payload)
                elif opcode == WS_PING:
                    self.transport.write(build_message(WS_PONG, payload))
                elif opcode == WS_CLOSE:
                    self.fail(CLOSE_NORMAL)
        except WsProtocolError as err:
            self.fail(err.code)
        return 0

    cdef void flood(self) noexcept:
        """End a client that sends more than one that only has to prove its key."""
        self.forwarder.counters.handshake_floods += 1
        self.why = "it sent too much before it was let in"
        self.fail(CLOSE_POLICY)

    cdef int set_pause(self, int why) except -1:
        if not self.c.pause and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
        self.c.pause |= why
        return 0

    cdef int clear_pause(self, int why) except -1:
        cdef int before = self.c.pause
        self.c.pause &= ~why
        if before and not self.c.pause and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
        return 0

    cdef int start_bucket(self) except -1:
        cdef Forwarder f = self.forwarder
        self.c.limited = f.rate_max > 0
        if self.c.limited:
            bucket_fill(&self.c.bucket, f.rate_max, f.rate_refill, f.now_ms())
        if self.resume is not None:
            self.resume.cancel()
            self.resume = None
        self.clear_pause(PAUSE_RATE)
        return 0

    cdef int limit(self, Py_ssize_t nbytes, int64_t wait_ms) except -1:
        cdef Forwarder f = self.forwarder
        f.counters.bytes_rx_ratelimited += nbytes
        if not self.c.rate_limited:
            self.c.rate_limited = 1
            f.counters.conns_rx_ratelimited += 1
        if not self.c.notified and self.c.state == ST_OPEN:
            self.c.notified = 1
            f.notice(&self.c, 2, None)
        self.set_pause(PAUSE_RATE)
        if self.resume is not None:
            self.resume.cancel()
        self.resume = f.loop.call_later(max(wait_ms, 1) / 1000.0, self._resume_reading)
        return 0

    def _resume_reading(self):
        self.resume = None
        self.c.heard = self.forwarder.now_ms()  # it could not be heard
        if self.c.ping_deadline:
            self.c.ping_deadline = self.c.heard + PING_MAX_TIMEOUT_MS
        self.clear_pause(PAUSE_RATE)

    cdef void hand_over(self) noexcept:
        """Give output to the transport until it has no room."""
        cdef Client* c = &self.c
        cdef size_t n
        try:
            while not c.blocked and c.out_start != c.out_end and self.transport is not None:
                n = c.out_end - c.out_start
                if c.fd >= 0 and n > HANDOVER_BYTES:
                    n = HANDOVER_BYTES
                elif n > 4 * HANDOVER_BYTES:
                    n = 4 * HANDOVER_BYTES
                data = PyBytes_FromStringAndSize(<const char*>c.out + c.out_start, n)
                self.forwarder.outbox.sent(c, n)
                self.transport.write(data)
                if not c.blocked:
                    self.forwarder.outbox.settle(c)
        except Exception:
            logger.exception("writing to a client failed")
            self.fail(0)

    cdef int check_stall(self, int64_t now) except -1:
        cdef size_t held
        if self.c.stall_due > now or self.transport is None:
            return 0
        held = self.transport.get_write_buffer_size()
        if held < self.c.transport_held and self.c.state == ST_OPEN:
            self.c.transport_held = held
            self.c.stall_due = now + self.forwarder.write_timeout_ms
            return 0
        if self.c.state == ST_OPEN:
            self.why = "it read nothing"
            self.forwarder.counters.write_timeouts += 1
            self.forwarder.counters.send_packets_dropped += self.c.packets + self.c.held_packets
        self.fail(0)
        return 0

    cdef void end(self) noexcept:
        """Leave the registry and tell the owner, once."""
        if self.told:
            return
        self.told = True
        try:
            if self.c.peer != NULL:
                self.forwarder.unregister(&self.c)
                del self.forwarder.clients[self.connection_id]
            self.owner.connection_closed(self, self.why or "the connection was lost")
        except Exception:
            logger.exception("end of a connection")
        self.owner = None

    cdef void fail(self, int code) noexcept:
        """Begin the end: with a close frame, or for 0 and when the client does not read, at once."""
        cdef Client* c = &self.c
        if c.state == ST_LOST:
            return
        if self.why is None:
            self.why = _WHY.get(code)
        try:
            if c.state == ST_CLOSING:
                if code == 0 and self.transport is not None:
                    self.transport.abort()
                return
            if code and not c.blocked:
                self.forwarder.flush(c)
                if c.state >= ST_CLOSING:
                    return
            c.state = ST_CLOSING
            c.fd = -1
            self.end()
            if self.transport is None:
                return
            if code == 0 or c.blocked:
                self.transport.abort()
                return
            try:
                self.transport.write(build_message(WS_CLOSE, code.to_bytes(2, "big")))
                self.transport.close()
            except RuntimeError:
                # uvloop: the TLS session of a client that is gone cannot be ended in good order.
                self.transport.abort()
                return
            # A client that does not read must not keep the socket for ever.
            self.forwarder.loop.call_later(self.forwarder.write_timeout_ms / 1000.0, self._abort_late)
        except Exception:
            logger.exception("closing a connection")

    def _abort_late(self):
        if self.transport is not None:
            self.transport.abort()


class RelayProtocol(RelayConnection, asyncio.BufferedProtocol):
    """`RelayConnection` in the form event loops look for."""

    __slots__ = ()
