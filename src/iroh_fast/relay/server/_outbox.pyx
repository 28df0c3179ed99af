"""What waits for clients: frames in buffers from a common pool, and what of it was sent."""

cimport cython
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove

from iroh_fast._relay._frames cimport FT_S2C_BATCH, FT_S2C_DATAGRAM
from iroh_fast._relay._websocket cimport WS_BINARY, ws_put_head
from iroh_fast.relay.server._state cimport POOL_BYTES, POOL_CLASSES, READ_BYTES, SMALLEST_OUT, Client


@cython.final
cdef class Outbox:
    """Output buffers of the clients of one server."""

    def __dealloc__(self):
        cdef int k
        cdef size_t j
        for k in range(POOL_CLASSES):
            for j in range(self.pool_count[k]):
                free(self.pool[k][j])
            free(self.pool[k])

    cdef bint room(self, Client* c, size_t need) noexcept nogil:
        """Make room for `need` bytes at the end of the output of `c`; False without memory."""
        cdef size_t live, size
        cdef uint8_t* bigger
        cdef int k
        if c.out_cap - c.out_end >= need:
            return True
        live = c.out_end - c.out_bound
        if c.out_bound >= c.out_cap // 2 and live + need <= c.out_cap:
            memmove(c.out, c.out + c.out_bound, live)
        else:
            size = SMALLEST_OUT
            k = 0
            while size < live + need or (c.out == NULL and size < c.out_hint):
                size *= 2
                k += 1
            if k < POOL_CLASSES and self.pool_count[k]:
                self.pool_count[k] -= 1
                bigger = self.pool[k][self.pool_count[k]]
                self.pool_bytes -= size
            else:
                bigger = <uint8_t*>malloc(size)
                if bigger == NULL:
                    return False
            if c.out != NULL:
                memcpy(bigger, c.out + c.out_bound, live)
                self.recycle(c.out, c.out_cap)
            self.out_bytes += size
            c.out = bigger
            c.out_cap = size
        c.out_start -= c.out_bound
        c.out_end -= c.out_bound
        c.out_bound = 0
        return True

    cdef void recycle(self, uint8_t* memory, size_t size) noexcept nogil:
        cdef size_t s = SMALLEST_OUT
        cdef int k = 0
        self.out_bytes -= size
        while s < size:
            s *= 2
            k += 1
        if k < POOL_CLASSES and self.pool_bytes + size <= POOL_BYTES:
            if self.pool[k] == NULL:
                self.pool[k] = <uint8_t**>malloc((POOL_BYTES // s) * sizeof(uint8_t*))
            if self.pool[k] != NULL:
                self.pool[k][self.pool_count[k]] = memory
                self.pool_count[k] += 1
                self.pool_bytes += size
                return
        free(memory)

    cdef void drop_out(self, Client* c) noexcept nogil:
        """Let the output buffer go."""
        if c.out != NULL:
            c.out_hint = min(c.out_end, <size_t>READ_BYTES)
            self.recycle(c.out, c.out_cap)
            c.out = NULL
        c.out_bound = c.out_start = c.out_end = c.out_cap = 0
        c.packets = c.controls = 0
        c.contents = 0

    cdef void sent(self, Client* c, size_t n) noexcept nogil:
        """Account for `n` bytes that left the output buffer."""
        cdef uint8_t* p
        cdef size_t head, size, contents
        c.out_start += n
        if c.out_start == c.out_end:
            c.held_packets += c.packets
            c.held_contents += c.contents
            self.drop_out(c)
            return
        while True:
            # our own frames: final, not masked
            p = c.out + c.out_bound
            if p[1] < 126:
                head = 2
                size = p[1]
            elif p[1] == 126:
                head = 4
                size = <size_t>p[2] << 8 | p[3]
            else:
                head = 10
                size = <size_t>p[6] << 24 | <size_t>p[7] << 16 | <size_t>p[8] << 8 | p[9]
            if c.out_bound + head + size > c.out_start:
                return
            c.out_bound += head + size
            if p[0] == (0x80 | WS_BINARY) and (p[head] == FT_S2C_DATAGRAM or p[head] == FT_S2C_BATCH):
                contents = size - (36 if p[head] == FT_S2C_BATCH else 34)
                c.packets -= 1
                c.contents -= contents
                c.held_packets += 1
                c.held_contents += contents
            else:
                c.controls -= 1

    cdef void settle(self, Client* c) noexcept nogil:
        """The socket has taken everything that left the output buffer: now it counts as sent."""
        self.counters.send_packets_sent += c.held_packets
        self.counters.bytes_sent += c.held_contents
        c.held_packets = 0
        c.held_contents = 0

    cdef uint8_t* message(self, Client* c, int opcode, size_t size) noexcept nogil:
        """Append the head of a frame; where to put its payload, or NULL without memory."""
        cdef uint8_t* p
        cdef int head
        if not self.room(c, size + 10):
            return NULL
        p = c.out + c.out_end
        head = ws_put_head(p, opcode, size, 0)
        c.out_end += head + size
        return p + head
