"""The receiving half of a stream. Read ``receive_buffer.pxd`` first."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from libc.stdint cimport uint8_t, uint64_t

from .blocks cimport Blocks
from .ranges cimport RangeSet

cdef enum:
    MOST_GAPS = 10000
    # Three times as many as lost packets can make in the largest window; more is an attack (RFC 9000 §21.7).

cdef uint64_t UNKNOWN = <uint64_t>0xffffffffffffffff


cdef class ReceiveBuffer:
    def __cinit__(self):
        self.blocks = Blocks()
        self.received = RangeSet()
        self.final = UNKNOWN

    cdef int receive(self, uint64_t offset, const uint8_t* data, size_t size, bint fin) except -1:
        cdef uint64_t stop = offset + size
        if stop > self.final or (fin and (stop < self.highest or self.final != UNKNOWN and stop != self.final)):
            return FINAL_SIZE_CHANGED
        if fin:
            self.final = stop
        if stop > self.highest:
            self.highest = stop
        if stop <= self.ready or not size:
            return 0
        if offset < self.ready:
            data += self.ready - offset
            offset = self.ready
        if offset == self.ready and not self.received.count:
            self.blocks.write(offset, data, <size_t>(stop - offset))
            self.ready = stop
            assert _agrees(self)
            return 0
        _fill(self, offset, data, stop)
        self.received.add(offset, stop)
        if self.received.count > MOST_GAPS:
            return TOO_MANY_GAPS
        if self.received.items[0].start <= self.ready:
            self.ready = self.received.items[0].stop
            self.received.drop_first()
        assert _agrees(self)
        return 0

    cdef int set_final(self, uint64_t size) except -1:
        if size < self.highest or (self.final != UNKNOWN and size != self.final):
            return FINAL_SIZE_CHANGED
        self.final = size
        return 0

    cdef uint64_t available(self) noexcept:
        return self.ready - self.taken

    cdef bytes take(self, size_t most):
        cdef uint64_t size = self.ready - self.taken
        cdef bytes out
        if size > most:
            size = most
        out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
        self.blocks.read(self.taken, <uint8_t*>PyBytes_AS_STRING(out), <size_t>size)
        self.skip(<size_t>size)
        return out

    cdef uint8_t* peek(self, size_t* size) noexcept:
        cdef uint8_t* at = self.blocks.at(self.taken, size)
        if size[0] > self.ready - self.taken:
            size[0] = <size_t>(self.ready - self.taken)
        return at

    cdef void skip(self, size_t size) noexcept:
        assert size <= self.ready - self.taken
        self.taken += size
        self.blocks.drop_below(self.taken)
        if self.taken == self.ready and not self.received.count:
            self.blocks.trim()

    cdef bint at_end(self) noexcept:
        return self.taken == self.final

    cdef void clear(self) noexcept:
        self.blocks.clear()
        self.received.clear()
        # What is to come is not wanted either: it counts as taken as soon as it has arrived.
        self.taken = self.ready


cdef inline bint _agrees(ReceiveBuffer self) noexcept:
    # What has arrived out of order stands above what is ready, with a gap, and below the highest.
    if not self.taken <= self.ready <= self.highest <= self.final:
        return False
    return not self.received.count or (
        self.received.items[0].start > self.ready and self.received.items[self.received.count - 1].stop <= self.highest
    )


cdef int _fill(ReceiveBuffer self, uint64_t offset, const uint8_t* data, uint64_t stop) except -1:
    # Only the gaps: octets that came before stay as they are (RFC 9000 §2.2).
    cdef int index
    cdef uint64_t end
    for index in range(self.received.first_reaching(offset), self.received.count):
        if self.received.items[index].stop <= offset:
            continue
        if self.received.items[index].start >= stop:
            break
        end = self.received.items[index].start
        if end > offset:
            self.blocks.write(offset, data, <size_t>(end - offset))
        end = self.received.items[index].stop
        if end >= stop:
            return 0
        data += end - offset
        offset = end
    if stop > offset:
        self.blocks.write(offset, data, <size_t>(stop - offset))
    return 0


cdef class ReceiveBufferFace(ReceiveBuffer):
    """For tests and tools: the same, from Python."""

    def receive_octets(self, uint64_t offset, const uint8_t[::1] data not None, bint fin):
        cdef const uint8_t* at = &data[0] if data.shape[0] else NULL
        return self.receive(offset, at, <size_t>data.shape[0], fin)

    def set_final_size(self, uint64_t size):
        return self.set_final(size)

    def take_octets(self, size_t most):
        return self.take(most)

    def peek_and_skip(self):
        """What stands in one piece at the front, and is taken."""
        cdef size_t size = 0
        cdef uint8_t* at
        if not self.available():
            return b""
        at = self.peek(&size)
        out = (<const char*>at)[:size]
        self.skip(size)
        return out

    @property
    def octets_available(self):
        return self.available()

    @property
    def is_at_end(self):
        return bool(self.at_end())

    @property
    def blocks_held(self):
        return self.blocks.held

    def forget(self):
        self.clear()
