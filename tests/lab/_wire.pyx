"""The packet loop between two TUN devices: reads from either, asks the model of that direction, writes to the other.

One thread, no Python object per packet. Packets are read as soon as the kernel has them and written when they are due,
both at most `SLACK_NS` late on a machine that has time. Linux alone.
"""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close, read, write

from tests.lab._link cimport Link, link_begin, link_push

import os

cdef extern from "native/clock.h" nogil:
    int64_t clock_now_ns()

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <poll.h>
    #include <sched.h>
    #include <string.h>
    #include <sys/ioctl.h>
    #include <sys/prctl.h>
    #include <time.h>
    #include <unistd.h>
    #include <net/if.h>
    #include <linux/if_tun.h>

    /* A TUN device of the namespace that the calling thread is in: plain IP packets, no offload, so that the
       kernel cuts large segments before they come here. */
    static int open_tun(const char *name) {
        struct ifreq request;
        int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0) return -1;
        memset(&request, 0, sizeof request);
        request.ifr_flags = IFF_TUN | IFF_NO_PI;
        strncpy(request.ifr_name, name, IFNAMSIZ - 1);
        if (ioctl(fd, TUNSETIFF, &request) < 0) {
            close(fd);
            return -1;
        }
        return fd;
    }

    static int enter_network(int fd) { return setns(fd, CLONE_NEWNET); }

    /* Timers of normal processes may come 50 us late, as a favour to others. */
    static void exact_timers(void) { prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); }

    static int wait_for(struct pollfd *fds, int count, int64_t ns) {
        struct timespec t;
        if (ns < 0) return ppoll(fds, count, NULL, NULL);
        t.tv_sec = ns / 1000000000;
        t.tv_nsec = ns % 1000000000;
        return ppoll(fds, count, &t, NULL);
    }
    """
    cdef struct pollfd:
        int fd
        short events
        short revents
    int POLLIN
    int open_tun_device "open_tun"(const char*)
    int enter_network_of "enter_network"(int)
    void exact_timers() nogil
    int wait_for(pollfd*, int, int64_t) nogil

cdef enum:
    SLACK_NS = 50000
    READS = 32                    # before deliveries get their turn
    MOST = 1 << 20                # packets on their way in one direction
    LARGEST = 65536
    LATE_BINS = 64                # powers of the square root of two, from a microsecond

cdef struct Packet:
    uint32_t size
    uint8_t data[1]

cdef struct Due:
    int64_t at
    uint64_t order
    Packet* packet

cdef struct Lane:                 # one direction
    int source
    int sink
    Due* heap
    uint32_t count
    uint32_t room
    uint64_t order
    uint64_t failed               # could not be kept or written
    int64_t late_most
    uint64_t late[LATE_BINS]


# ---------------------------------------------------------------- packets on their way, soonest first
cdef inline bint sooner(const Due* a, const Due* b) noexcept nogil:
    return a.at < b.at or (a.at == b.at and a.order < b.order)


cdef bint put(Lane* lane, int64_t at, Packet* packet) noexcept nogil:
    """Keep a packet until then; false when there is no room."""
    cdef Due* grown
    cdef uint32_t i, parent
    cdef Due due
    if lane.count == lane.room:
        if lane.room >= MOST:
            return False
        grown = <Due*>realloc(lane.heap, 2 * lane.room * sizeof(Due))
        if grown == NULL:
            return False
        lane.heap = grown
        lane.room *= 2
    due.at, due.order, due.packet = at, lane.order, packet
    lane.order += 1
    i = lane.count
    lane.count += 1
    while i:
        parent = (i - 1) // 2
        if not sooner(&due, &lane.heap[parent]):
            break
        lane.heap[i] = lane.heap[parent]
        i = parent
    lane.heap[i] = due
    return True


cdef Packet* take(Lane* lane) noexcept nogil:
    """The packet that is due first."""
    cdef Packet* packet = lane.heap[0].packet
    cdef Due last
    cdef uint32_t i = 0, child
    lane.count -= 1
    last = lane.heap[lane.count]
    while True:
        child = 2 * i + 1
        if child >= lane.count:
            break
        if child + 1 < lane.count and sooner(&lane.heap[child + 1], &lane.heap[child]):
            child += 1
        if not sooner(&lane.heap[child], &last):
            break
        lane.heap[i] = lane.heap[child]
        i = child
    lane.heap[i] = last
    return packet


# ---------------------------------------------------------------- IP headers
cdef inline bint is_multicast(const uint8_t* ip, uint32_t size) noexcept nogil:
    """What the kernel says to its neighbourhood by itself; also what is no IP packet."""
    if size >= 20 and ip[0] >> 4 == 4:
        return ip[16] >= 224
    if size >= 40 and ip[0] >> 4 == 6:
        return ip[24] == 0xff
    return True


cdef inline uint8_t get_ecn(const uint8_t* ip) noexcept nogil:
    return ip[1] & 3 if ip[0] >> 4 == 4 else (ip[1] >> 4) & 3


cdef void set_ecn(uint8_t* ip, uint8_t ecn) noexcept nogil:
    """Change the two bits, and the checksum of IPv4 with them (RFC 1624)."""
    cdef uint32_t before, behind, total
    if ip[0] >> 4 == 6:
        ip[1] = <uint8_t>((ip[1] & 0xcf) | (ecn << 4))
        return
    before = (<uint32_t>ip[0] << 8) | ip[1]
    ip[1] = <uint8_t>((ip[1] & 0xfc) | ecn)
    behind = (<uint32_t>ip[0] << 8) | ip[1]
    total = (~((<uint32_t>ip[10] << 8) | ip[11]) & 0xffff) + (~before & 0xffff) + behind
    total = (total & 0xffff) + (total >> 16)
    total = (total & 0xffff) + (total >> 16)
    ip[10] = <uint8_t>((~total >> 8) & 0xff)
    ip[11] = <uint8_t>(~total & 0xff)


# ---------------------------------------------------------------- one direction
cdef void receive(Lane* lane, Link link, uint8_t* buffer) noexcept nogil:
    """Read what the source has, up to a limit."""
    cdef Packet* packet
    cdef Py_ssize_t size
    cdef int64_t at
    cdef uint8_t before, ecn
    for _ in range(READS):
        size = read(lane.source, buffer, LARGEST)
        if size <= 0:
            break
        if is_multicast(buffer, <uint32_t>size):
            continue
        before = ecn = get_ecn(buffer)
        at = link_push(&link.state, clock_now_ns(), <uint32_t>size, &ecn)
        if at < 0:
            continue
        if ecn != before:
            set_ecn(buffer, ecn)
        packet = <Packet*>malloc(sizeof(Packet) + size)
        if packet == NULL:
            lane.failed += 1
            continue
        packet.size = <uint32_t>size
        memcpy(packet.data, buffer, size)
        if not put(lane, at, packet):
            free(packet)
            lane.failed += 1


cdef void deliver(Lane* lane) noexcept nogil:
    """Write what is due."""
    cdef int64_t now = clock_now_ns()
    cdef Packet* packet
    while lane.count and lane.heap[0].at <= now:
        count_late(lane, now - lane.heap[0].at)
        packet = take(lane)
        if write(lane.sink, packet.data, packet.size) != <Py_ssize_t>packet.size:
            lane.failed += 1
        free(packet)
        now = clock_now_ns()


cdef void count_late(Lane* lane, int64_t late) noexcept nogil:
    cdef uint64_t squared = min(<uint64_t>late // 1000, <uint64_t>0x7fffffff)
    cdef uint32_t index = 0
    if late > lane.late_most:
        lane.late_most = late
    squared *= squared
    while squared and index < LATE_BINS - 1:
        squared >>= 1
        index += 1
    lane.late[index] += 1


# ---------------------------------------------------------------- both
cdef int64_t until_due(const Lane* lanes, int64_t now) noexcept nogil:
    """Time until something is due, or -1 while nothing is on its way."""
    cdef int64_t wait = -1, here
    for i in range(2):
        if lanes[i].count:
            here = max(lanes[i].heap[0].at - now, <int64_t>0)
            wait = here if wait < 0 else min(wait, here)
    return wait


cdef void carry(Lane* lanes, Link there, Link back, int control, uint8_t* buffer) noexcept nogil:
    cdef pollfd fds[3]
    cdef int64_t turn = 0, now
    fds[0].fd, fds[1].fd, fds[2].fd = lanes[0].source, lanes[1].source, control
    fds[0].events = fds[1].events = fds[2].events = <short>POLLIN
    fds[0].revents = fds[1].revents = fds[2].revents = 0
    while not fds[2].revents:
        now = clock_now_ns()
        if now < turn + SLACK_NS:     # packets come together what would else be a wake-up each
            wait_for(&fds[2], 1, turn + SLACK_NS - now)
            now = clock_now_ns()
        if wait_for(fds, 3, until_due(lanes, now)) < 0:
            fds[0].revents = fds[1].revents = fds[2].revents = 0
        turn = clock_now_ns()
        deliver(&lanes[0])
        deliver(&lanes[1])
        if fds[0].revents:
            receive(&lanes[0], there, buffer)
        if fds[1].revents:
            receive(&lanes[1], back, buffer)


# ---------------------------------------------------------------- for Python
def enter_network(int fd):
    """Put the calling thread into the network namespace that the descriptor stands for."""
    if enter_network_of(fd) < 0:
        raise OSError(errno, os.strerror(errno))


def open_tun(str name not None):
    """Make a TUN device in the namespace of the calling thread; its descriptor."""
    cdef int fd = open_tun_device(name.encode())
    if fd < 0:
        raise OSError(errno, os.strerror(errno), "/dev/net/tun")
    return fd


@cython.final
cdef class Wire:
    """Carries packets between two TUN devices.

    Parameters
    ----------
    left, right : int
        Descriptors of the devices; it closes them at its end.
    control : int
        A descriptor that ends `run` when it can be read.
    there, back : Link
        From left to right, and from right to left.
    """

    cdef Lane lanes[2]
    cdef readonly Link there, back
    cdef int control
    cdef bint owned               # the devices: not where the arguments were refused
    cdef uint8_t* buffer

    def __cinit__(self, int left, int right, int control, Link there not None, Link back not None):
        self.control = control
        self.there, self.back = there, back
        self.lanes[0].source = self.lanes[1].sink = left
        self.lanes[0].sink = self.lanes[1].source = right
        self.owned = True
        self.buffer = <uint8_t*>malloc(LARGEST)
        for i in range(2):
            self.lanes[i].room = 256
            self.lanes[i].heap = <Due*>calloc(256, sizeof(Due))
            if self.buffer == NULL or self.lanes[i].heap == NULL:
                raise MemoryError

    def __dealloc__(self):
        for i in range(2):
            while self.lanes[i].heap != NULL and self.lanes[i].count:
                free(take(&self.lanes[i]))
            free(self.lanes[i].heap)
        free(self.buffer)
        if self.owned:
            close(self.lanes[0].source)
            close(self.lanes[0].sink)

    def run(self):
        """Carry packets until the control descriptor can be read."""
        with nogil:
            exact_timers()
            carry(self.lanes, self.there, self.back, self.control, self.buffer)

    def begin(self):
        """Make now the time that outages and steps count from, and count anew."""
        cdef int64_t now = clock_now_ns()
        link_begin(&self.there.state, now)
        link_begin(&self.back.state, now)
        for i in range(2):
            self.lanes[i].failed = self.lanes[i].late_most = 0
            memset(self.lanes[i].late, 0, sizeof(self.lanes[i].late))

    def change(self, Link there not None, Link back not None):
        """Be another link from now on; what is on its way stays so."""
        self.there, self.back = there, back

    @property
    def failed(self):
        """Packets that could not be kept or written."""
        return self.lanes[0].failed + self.lanes[1].failed

    def late_ms(self, double fraction):
        """Milliseconds that this fraction of the packets was written too late at most."""
        cdef uint64_t total = 0, seen = 0
        cdef double most = max(self.lanes[0].late_most, self.lanes[1].late_most) / 1e6
        for i in range(LATE_BINS):
            total += self.lanes[0].late[i] + self.lanes[1].late[i]
        for i in range(LATE_BINS):
            seen += self.lanes[0].late[i] + self.lanes[1].late[i]
            if seen >= fraction * total:
                return min(2 ** (i / 2.0) / 1000, most)
        return most
