"""Waiting for what the core reports of connections and streams.

The core reports what happened as event bits and knows no event loop; the driver takes the events after each turn
(`deliver`) and wakes whoever waits for them, in the queues of `_waiters`.

``wait(conn, WAIT_...)``
    The next event of that kind. It is over at once when the connection has ended.
``take(conn, kind)`` and ``wait(conn, kind, subject)``
    For WAIT_ACCEPT_*, WAIT_OPEN_*, WAIT_DATAGRAM and WAIT_DATAGRAM_SPACE (`subject` is the datagram): `take` gives
    what is there unless others wait for it, None otherwise; after `wait` it is there, or the connection ended::

        while (stream := take(conn, WAIT_ACCEPT_BI)) is None:
            await wait(conn, WAIT_ACCEPT_BI)
``wait_read``, ``wait_write``, ``wait_stopped``, ``wait_reset``
    The next event of a stream, or the end of its connection.
``on_paths(conn, call)``
    Calls ``call(conn)`` on the loop soon after the paths of a connection changed, and at its end.

All of them must be called on the thread of the event loop.
"""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t

from iroh_fast.aio._waiters cimport Handoff, Home, WaitQueue, Waiter, over, running_home
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._codes cimport (
    N_WAITS, ST_DRAINED, W_ACCEPT_BI, W_ACCEPT_UNI, W_DATAGRAM, W_DATAGRAM_SPACE, W_DRAINED, W_OPEN_BI, W_OPEN_UNI,
    W_PATHS)
from iroh_fast.quic._stream cimport EV_READ, EV_RESET, EV_STOP, EV_WRITE
from iroh_fast.quic._streams cimport QuicStream

cdef uint32_t TAKEN = (1 << W_ACCEPT_BI | 1 << W_ACCEPT_UNI | 1 << W_OPEN_BI | 1 << W_OPEN_UNI | 1 << W_DATAGRAM
                       | 1 << W_DATAGRAM_SPACE)


# ---------------------------------------------------------------- connections
@cython.final
cdef class ConnectionWaiters:
    """In the slot of a connection: who waits for its events."""
    cdef WaitQueue queues         # of the kinds that somebody waited for
    cdef Home home
    cdef object path_listener

    def __cinit__(self):
        self.home = running_home()

    cdef PyObject* find(self, int kind) noexcept:  # hot
        """The queue of a kind, NULL when there is none; without counting references on the way."""
        cdef PyObject* at = <PyObject*>self.queues
        while at != <PyObject*>None and (<WaitQueue>at).kind < kind:
            at = <PyObject*>(<WaitQueue>at).other
        return at if at != <PyObject*>None and (<WaitQueue>at).kind == kind else NULL

    cdef WaitQueue queue(self, int kind):
        cdef PyObject* known = self.find(kind)
        cdef WaitQueue queue, before = None
        if known != NULL:
            return <WaitQueue>known
        queue = Handoff.__new__(Handoff) if TAKEN >> kind & 1 else WaitQueue.__new__(WaitQueue)
        queue.home = self.home
        queue.kind = kind
        queue.other = self.queues
        while queue.other is not None and queue.other.kind < kind:
            before = queue.other
            queue.other = before.other
        if before is None:
            self.queues = queue
        else:
            before.other = queue
        return queue

    cdef void drop(self, WaitQueue queue):
        """Nobody waits in it any more: most connections never need it again."""
        cdef WaitQueue before = self.queues
        if before is queue:
            self.queues = queue.other
            return
        while before.other is not queue:
            before = before.other
        before.other = queue.other

    cdef void tell(self, QuicConnection conn, uint32_t events):
        cdef WaitQueue queue = self.queues, following
        while queue is not None:
            following = queue.other
            if events >> queue.kind & 1 and queue.first is not None:
                if TAKEN >> queue.kind & 1:
                    serve(conn, queue.kind, queue)
                else:
                    queue.wake_all()
                    self.drop(queue)
            queue = following
        if events >> W_PATHS & 1 and self.path_listener is not None:
            try:
                self.home.call_soon(self.path_listener, conn)
            except RuntimeError:      # the loop is closed
                pass
            if conn.close_reason is not None:
                self.path_listener = None


cdef ConnectionWaiters waiters_of(QuicConnection conn):
    if conn.waiters is None:
        conn.waiters = ConnectionWaiters()
    return <ConnectionWaiters>conn.waiters


cdef object attempt(QuicConnection conn, int kind, object subject):
    if kind == W_ACCEPT_BI or kind == W_ACCEPT_UNI:
        return conn.accept_stream(kind == W_ACCEPT_BI)
    if kind == W_OPEN_BI or kind == W_OPEN_UNI:
        return conn.open_stream(kind == W_OPEN_BI)
    if kind == W_DATAGRAM:
        return conn.read_datagram()
    return True if conn.queue_buffer(subject, False) else None


cdef void serve(QuicConnection conn, int kind, WaitQueue queue):
    """Hand out what there is, to the oldest calls."""
    cdef Waiter waiter
    while (waiter := queue.head()) is not None:
        try:
            value = attempt(conn, kind, waiter.subject)
        except Exception as error:
            if conn.close_reason is None:
                waiter.error = error
                queue.hand(None)
                continue
            break
        if value is None:
            break
        queue.hand(value)
    if conn.close_reason is not None:
        queue.wake_all()


def take(QuicConnection conn, int kind, subject=None):  # hot
    """What a WAIT_* kind is about, without waiting; None: wait for it."""
    cdef PyObject* known
    cdef Handoff queue
    if not 0 <= kind < N_WAITS or not TAKEN >> kind & 1:
        raise ValueError("nothing to take")
    if conn.waiters is not None:
        known = (<ConnectionWaiters>conn.waiters).find(kind)
        if known != NULL and ((<Handoff>known).spare is not None or (<Handoff>known).first is not None):
            queue = <Handoff>known
            if queue.spare:
                return queue.spare.popleft()
            if queue.head() is not None and conn.close_reason is None:
                return None           # others came first
    return attempt(conn, kind, subject)


def wait(QuicConnection conn, int kind, subject=None):
    """The next event of a WAIT_* kind, see the module; at once when the connection is over."""
    if not 0 <= kind < N_WAITS:
        raise ValueError("nothing to wait for")
    if conn.close_reason is not None if kind != W_DRAINED else conn.state == ST_DRAINED:
        return over()
    cdef Waiter waiter = waiters_of(conn).queue(kind).join(subject)
    waiter.leaves = True
    return waiter


def on_paths(QuicConnection conn, call):
    """Have ``call(conn)`` called soon after each change of the paths, and at the end; None: no more."""
    if call is not None or conn.waiters is not None:
        waiters_of(conn).path_listener = call


# ---------------------------------------------------------------- streams
@cython.final
cdef class RoomQueue(WaitQueue):
    """Writers of a stream: room that one was given and does not use goes to the next stream."""

    cdef void gave_up(self, Waiter waiter):
        (<QuicStream>waiter.subject).give_up_writing()

    cdef void returned(self, Waiter waiter):
        (<QuicStream>waiter.subject).give_up_writing()


@cython.final
cdef class StreamWaiters(WaitQueue):
    """In the slot of a stream: who waits for its events. It is itself the queue of its readers."""
    cdef WaitQueue write

    cdef WaitQueue rare(self, int event):
        """The queue of an event for which few wait; made when one does, in the list of `other`."""
        cdef WaitQueue queue = self.other
        while queue is not None and queue.kind != event:
            queue = queue.other
        if queue is None:
            queue = WaitQueue.__new__(WaitQueue)
            queue.home = self.home
            queue.kind = event
            queue.other = self.other
            self.other = queue
        return queue

    cdef void tell(self, uint32_t events):
        cdef WaitQueue queue
        if events & EV_READ and self.first is not None:
            self.wake_all()
        if events & EV_WRITE and self.write is not None:
            while self.write.hand(None):
                pass
        if events & (EV_STOP | EV_RESET):
            queue = self.other
            while queue is not None:
                if events & <uint32_t>queue.kind:
                    queue.wake_all()
                queue = queue.other


cdef inline StreamWaiters stream_waiters(QuicStream stream):
    cdef StreamWaiters waiters
    if stream.waiters is None:
        waiters = StreamWaiters.__new__(StreamWaiters)
        waiters.home = home_of(stream)
        stream.waiters = waiters
    return <StreamWaiters>stream.waiters


cdef Home home_of(QuicStream stream):
    cdef QuicConnection conn = <QuicConnection>stream.connection
    return running_home() if conn.waiters is None else (<ConnectionWaiters>conn.waiters).home


def wait_read(QuicStream stream):  # hot
    """Data, end or reset arrived, or the connection ended."""
    if stream.over():
        return over()
    return stream_waiters(stream).join(None)


def wait_write(QuicStream stream):
    """Room to write again, stopped, or the connection ended."""
    cdef StreamWaiters waiters
    if stream.over():
        return over()
    waiters = stream_waiters(stream)
    if waiters.write is None:
        waiters.write = RoomQueue.__new__(RoomQueue)
        waiters.write.home = home_of(stream)
    return waiters.write.join(stream)


def wait_stopped(QuicStream stream):
    """Stopped by the peer, everything acknowledged, or the connection ended."""
    return over() if stream.over() else stream_waiters(stream).rare(EV_STOP).join(None)


def wait_reset(QuicStream stream):
    """FIN or RESET_STREAM arrived, or the connection ended."""
    return over() if stream.over() else stream_waiters(stream).rare(EV_RESET).join(None)


# ---------------------------------------------------------------- the driver's side
cdef void deliver(QuicConnection conn):  # hot
    cdef uint32_t events = 0
    cdef QuicStream stream
    if conn.streams.table.reported.head != NULL:
        while (stream := conn.streams.next_event(&events)) is not None:
            if stream.waiters is not None:
                (<StreamWaiters>stream.waiters).tell(events)
    events = conn.take_events()
    if events and conn.waiters is not None:
        (<ConnectionWaiters>conn.waiters).tell(conn, events)
