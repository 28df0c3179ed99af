"""One direction of a path in virtual nanoseconds: policer, losses, a queue with a rate, outages, delay and jitter.

Whatever happens to a packet is decided when it comes, because the link's future is known: nothing here waits, reads a
clock or does IO, and one seed gives one run. Times are exact: what a division leaves over is carried on.
"""

cimport cython
from libc.math cimport frexp, ldexp
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from tests.lab.link import LinkConfig, LinkStats

cdef extern from *:
    """
    #define GOLDEN 0x9E3779B97F4A7C15ULL
    """
    const uint64_t GOLDEN

cdef enum:
    SECOND = 1000000000
    SWING_NS = 10000000
    ECT_MASK = 3
    ECT_CE = 3

CAUSES = ("policer", "loss", "burst", "queue", "outage")


# ---------------------------------------------------------------- chance
cdef inline uint64_t draw(Random* random) noexcept nogil:
    """SplitMix64."""
    cdef uint64_t z
    random.state += GOLDEN
    z = random.state
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef inline bint happens(Random* random, uint64_t chance) noexcept nogil:
    if chance == 0:
        return False
    return chance == <uint64_t>-1 or draw(random) < chance


cdef inline int64_t up_to(Random* random, int64_t most) noexcept nogil:
    """Evenly from 0 to `most`, which is below 2^36."""
    return <int64_t>(((draw(random) >> 36) * <uint64_t>(most + 1)) >> 28)


cdef uint64_t chance_of(double fraction):
    return <uint64_t>-1 if fraction >= 1 else <uint64_t>ldexp(fraction, 64)


# ---------------------------------------------------------------- what may drop a packet before the queue
cdef bint polices(LinkState* link, int64_t now, uint32_t size) noexcept nogil:
    """Whether the token bucket has too little for the packet."""
    cdef int64_t full = link.police_burst * SECOND
    cdef int64_t passed = now - link.filled_at
    link.filled_at = now
    if passed >= (full - link.tokens) // link.police_rate + 1:
        link.tokens = full
    else:
        link.tokens += passed * link.police_rate
    if link.tokens < <int64_t>size * SECOND:
        return True
    link.tokens -= <int64_t>size * SECOND
    return False


cdef bint bursts(LinkState* link) noexcept nogil:
    """A step of the chain; whether it takes the packet."""
    if link.in_burst:
        link.in_burst = not happens(&link.bursts, link.burst_ends)
    else:
        link.in_burst = happens(&link.bursts, link.burst_begins)
    return link.in_burst and happens(&link.bursts, link.burst_loses)


# ---------------------------------------------------------------- the queue
cdef void serve(LinkState* link, int64_t now) noexcept nogil:
    """Forget what has left the queue."""
    cdef Waiting* first
    while link.waiting:
        first = &link.ring[link.head]
        if first.leaves > now:
            break
        link.waiting_bytes -= first.size
        link.waiting -= 1
        link.head += 1
        if link.head == link.queue:
            link.head = 0


cdef int64_t transmit(LinkState* link, int64_t now, uint32_t size) noexcept nogil:
    """Send a packet behind all others; when its first bit leaves. `free_at` becomes when its last has left."""
    cdef int64_t at = link.free_at, first = -1, rate, until
    cdef int64_t work = <int64_t>size * SECOND
    if now > at:
        at = now
    else:
        work += link.remainder
    while True:
        while link.span + 1 < link.n_rates and link.began + link.rates[link.span + 1].start <= at:
            link.span += 1
        rate = link.rates[link.span].value
        until = -1
        if link.span + 1 < link.n_rates:
            until = link.began + link.rates[link.span + 1].start
        if rate == 0:
            at = until            # the last span has a rate
            continue
        if first < 0:
            first = at
        if until < 0 or work // rate <= until - at:
            link.remainder = work % rate
            link.free_at = at + work // rate
            return first
        work -= (until - at) * rate
        at = until


cdef int64_t swing(LinkState* link, int64_t at) noexcept nogil:
    """Jitter that keeps the order: it moves in a straight line to another value every few milliseconds."""
    cdef int64_t since = at - link.began if at > link.began else 0
    cdef int64_t step = since // SWING_NS, part = since % SWING_NS
    cdef Random here = link.wobble
    cdef int64_t before, behind
    here.state += <uint64_t>step * GOLDEN
    before = up_to(&here, link.jitter)
    behind = up_to(&here, link.jitter)  # what the next step begins with
    return before + <int64_t>(<double>(behind - before) * <double>part / SWING_NS)


cdef void enqueue(LinkState* link, uint32_t size) noexcept nogil:
    cdef uint32_t at = link.head + link.waiting
    if at >= link.queue:
        at -= link.queue
    link.ring[at].leaves = link.free_at
    link.ring[at].size = size
    link.waiting += 1
    link.waiting_bytes += size


cdef bint is_out(LinkState* link, int64_t at) noexcept nogil:
    cdef uint32_t i
    cdef bint out = False
    for i in range(link.n_outages):
        if link.began + link.outages[i].start > at:
            break
        out = link.outages[i].value != 0
    return out


# ---------------------------------------------------------------- counting
cdef inline uint32_t bin_of(int64_t delay) noexcept nogil:
    """Exact below 64 ns, then 32 bins to each power of two."""
    cdef int bits
    if delay < 64:
        return <uint32_t>delay
    frexp(<double>delay, &bits)
    return <uint32_t>(32 * (bits - 6) + (delay >> (bits - 6)))


cdef int64_t bin_edge(uint32_t index):
    """The largest delay of a bin."""
    if index < 64:
        return index
    cdef uint32_t shift = index // 32 - 1
    return ((<int64_t>(index % 32) + 33) << shift) - 1


cdef void count_arrival(LinkState* link, int64_t at, uint32_t size) noexcept nogil:
    cdef int64_t slot = (at - link.began) // SLOT_NS if at >= link.began else -1
    link.counts.delivered += 1
    link.counts.delivered_bytes += size
    if at < link.last_arrival:
        link.counts.overtaken += 1
    else:
        link.last_arrival = at
    if 0 <= slot < SLOTS:
        link.slots[slot] += size
        if slot >= link.n_slots:
            link.n_slots = <uint32_t>slot + 1


cdef inline int64_t drop(LinkState* link, int cause) noexcept nogil:
    link.counts.dropped[cause] += 1
    return -1


# ---------------------------------------------------------------- the whole way
cdef void link_begin(LinkState* link, int64_t now) noexcept nogil:
    link.began = now
    link.span = 0
    memset(&link.counts, 0, sizeof(LinkCounts))
    memset(link.delays, 0, DELAY_BINS * sizeof(uint32_t))
    memset(link.slots, 0, SLOTS * sizeof(uint64_t))
    link.n_slots = 0


cdef int64_t link_push(LinkState* link, int64_t now, uint32_t size, uint8_t* ecn) noexcept nogil:
    cdef int64_t first, leaves = now, arrives, waited = 0
    if link.began < 0:
        link_begin(link, now)
    link.counts.packets += 1
    link.counts.bytes += size
    if link.police_rate and polices(link, now, size):
        return drop(link, DROP_POLICER)
    if happens(&link.luck, link.loss):
        return drop(link, DROP_LOSS)
    if link.burst_begins and bursts(link):
        return drop(link, DROP_BURST)
    if link.n_rates:
        serve(link, now)
        if link.waiting >= link.queue or link.waiting_bytes + size > link.queue_bytes:
            return drop(link, DROP_QUEUE)
        if 0 <= link.ecn <= <int64_t>link.waiting and (ecn[0] & ECT_MASK) in (1, 2):
            ecn[0] |= ECT_CE
            link.counts.marked += 1
        first = transmit(link, now, size)
        waited = first - now
        leaves = link.free_at
        enqueue(link, size)
    link.delays[min(bin_of(waited), <uint32_t>DELAY_BINS - 1)] += 1
    if link.n_outages and is_out(link, leaves):
        return drop(link, DROP_OUTAGE)
    arrives = leaves + link.delay
    if link.jitter:
        if link.reorder:
            arrives += up_to(&link.wobble, link.jitter)
        else:
            arrives = max(arrives + swing(link, leaves), link.last_arrival)
    count_arrival(link, arrives, size)
    return arrives


# ---------------------------------------------------------------- for Python
cdef int64_t to_ns(double seconds):
    return <int64_t>(seconds * 1e9 + 0.5)


cdef int64_t to_rate(double mbits):
    return <int64_t>(mbits * 125000 + 0.5)


cdef Span* spans(list pairs) except? NULL:
    cdef Span* made = <Span*>calloc(len(pairs) or 1, sizeof(Span))
    if made == NULL:
        raise MemoryError
    for i, (start, value) in enumerate(pairs):
        made[i].start = start
        made[i].value = value
    return made


@cython.final
cdef class Link:
    """One direction of a path.

    Parameters
    ----------
    config : LinkConfig
    seed : int
        What is random derives from it.
    """

    def __cinit__(self, config not None, uint64_t seed=0):
        cdef LinkState* link = &self.state
        if not isinstance(config, LinkConfig):
            raise TypeError(f"a LinkConfig is needed, not {type(config).__name__}")
        self.config = config
        link.began = -1
        link.last_arrival = -1
        link.luck.state = seed
        link.bursts.state = seed ^ <uint64_t>0xA5A5A5A5A5A5A5A5
        link.wobble.state = seed ^ <uint64_t>0x5A5A5A5A5A5A5A5A
        self.configure()
        link.delays = <uint32_t*>calloc(DELAY_BINS, sizeof(uint32_t))
        link.slots = <uint64_t*>calloc(SLOTS, sizeof(uint64_t))
        if link.n_rates:
            link.ring = <Waiting*>calloc(link.queue, sizeof(Waiting))
        if link.delays == NULL or link.slots == NULL or (link.n_rates and link.ring == NULL):
            raise MemoryError

    cdef configure(self):
        cdef LinkState* link = &self.state
        config = self.config
        rates = [(to_ns(at), to_rate(rate)) for at, rate in config.schedule]
        link.rates = spans(rates)
        link.n_rates = len(rates)
        out = []
        if not config.outage_holds or not rates:
            for start, length in config.outages:
                out += [(to_ns(start), 1), (to_ns(start + length), 0)]
        link.outages = spans(out)
        link.n_outages = len(out)
        link.delay = to_ns(config.delay / 1e3)
        link.jitter = to_ns(config.jitter / 1e3)
        link.reorder = config.reorder
        link.loss = chance_of(config.loss)
        if config.burst_loss is not None:
            link.burst_begins = chance_of(config.burst_loss.begins)
            link.burst_ends = chance_of(1 / config.burst_loss.length)
            link.burst_loses = chance_of(config.burst_loss.within)
        link.queue = config.queue
        link.queue_bytes = (1 << 62) if config.queue_bytes is None else config.queue_bytes
        link.ecn = -1 if config.ecn is None else config.ecn
        if config.policer is not None:
            link.police_rate = to_rate(config.policer.rate)
            link.police_burst = config.policer.burst
            link.tokens = link.police_burst * SECOND

    def __dealloc__(self):
        free(self.state.rates)
        free(self.state.outages)
        free(self.state.ring)
        free(self.state.delays)
        free(self.state.slots)

    def begin(self, int64_t now_ns):
        """Let the times of outages and steps count from now, and count anew."""
        link_begin(&self.state, now_ns)

    def push(self, int64_t now_ns, uint32_t size, int ecn=0):
        """Send a packet.

        Parameters
        ----------
        now_ns : int
            Not before that of the call before.
        size : int
            Bytes of the IP packet, its header included.
        ecn : int
            The two bits of its header.

        Returns
        -------
        (int, int)
            When it arrives, in ns, or -1 when it is dropped; its ECN bits then.
        """
        cdef uint8_t bits = ecn & ECT_MASK
        cdef int64_t at = link_push(&self.state, now_ns, size, &bits)
        return at, bits

    def waiting(self, int64_t now_ns):
        """Packets in the queue, the one being sent included."""
        serve(&self.state, now_ns)
        return self.state.waiting

    def stats(self):
        """What was counted so far, as LinkStats."""
        cdef LinkCounts* counts = &self.state.counts
        return LinkStats(
            packets=counts.packets,
            bytes=counts.bytes,
            delivered=counts.delivered,
            delivered_bytes=counts.delivered_bytes,
            dropped={CAUSES[i]: counts.dropped[i] for i in range(DROP_CAUSES)},
            marked=counts.marked,
            overtaken=counts.overtaken,
            queue_delay=tuple(
                [(bin_edge(i) / 1e6, self.state.delays[i]) for i in range(DELAY_BINS) if self.state.delays[i]]),
            rates=tuple([self.state.slots[i] * 8e3 / SLOT_NS for i in range(self.state.n_slots)]),
        )
