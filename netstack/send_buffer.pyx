"""The sending half of a stream. Read ``send_buffer.pxd`` first."""

from libc.stdint cimport uint8_t, uint64_t

from .blocks cimport Blocks
from .ranges cimport RangeSet


cdef class SendBuffer:
    def __cinit__(self):
        self.blocks = Blocks()
        self.acked = RangeSet()
        self.lost = RangeSet()

    cdef int write(self, const uint8_t* data, size_t size) except -1:
        assert not self.finished
        self.blocks.write(self.end, data, size)
        self.end += size
        return 0

    cdef void finish(self) noexcept:
        self.finished = True

    cdef bint next(self, uint64_t limit, size_t most, uint64_t* offset, size_t* size, bint* fin) noexcept:
        cdef uint64_t end
        if self.lost.count:
            offset[0] = self.lost.items[0].start
            end = self.lost.items[0].stop
        else:
            offset[0] = self.sent
            end = self.end if self.end < limit else limit
            if end < self.sent:
                end = self.sent
        if end - offset[0] > most:
            end = offset[0] + most
        size[0] = <size_t>(end - offset[0])
        fin[0] = self.finished and end == self.end and not self.fin_acked
        return size[0] > 0 or (fin[0] and not self.fin_sent)

    cdef bint has_work(self, uint64_t limit) noexcept:
        if self.lost.count or (self.sent < self.end and self.sent < limit):
            return True
        return self.finished and not self.fin_sent and self.sent == self.end

    cdef int on_sent(self, uint64_t offset, size_t size, bint fin) except -1:
        assert offset <= self.sent and offset + size <= self.end and (not fin or self.finished)
        if self.lost.count:
            self.lost.subtract(offset, offset + size)
        if offset + size > self.sent:
            self.sent = offset + size
        if fin:
            self.fin_sent = True
        assert _agrees(self)
        return 0

    cdef int on_acked(self, uint64_t offset, size_t size, bint fin) except -1:
        cdef uint64_t stop = offset + size
        assert stop <= self.sent and (not fin or self.finished)
        if fin:
            self.fin_acked = self.fin_sent = True
        if stop <= self.floor:
            return 0
        if self.lost.count:
            self.lost.subtract(offset, stop)
        if offset > self.floor:
            return self.acked.add(offset, stop)
        self.floor = stop
        if self.acked.count:
            self.acked.drop_below(stop)
            if self.acked.count and self.acked.items[0].start <= stop:
                self.floor = self.acked.items[0].stop
                self.acked.drop_first()
        self.blocks.drop_below(self.floor)
        if self.floor == self.end:
            self.blocks.trim()
        assert _agrees(self)
        return 0

    cdef int on_lost(self, uint64_t offset, size_t size, bint fin) except -1:
        cdef int index
        cdef uint64_t stop = offset + size
        assert stop <= self.sent and (not fin or self.finished)
        if fin and not self.fin_acked:
            self.fin_sent = False
        if offset < self.floor:
            offset = self.floor
        if offset >= stop:
            return 0
        self.lost.add(offset, stop)
        for index in range(self.acked.first_reaching(offset), self.acked.count):
            if self.acked.items[index].start >= stop:
                break
            self.lost.subtract(self.acked.items[index].start, self.acked.items[index].stop)
        assert _agrees(self)
        return 0

    cdef bint complete(self) noexcept:
        return self.fin_acked and self.floor == self.end

    cdef void clear(self) noexcept:
        self.blocks.clear()
        self.acked.clear()
        self.lost.clear()


cdef inline bint _agrees(SendBuffer self) noexcept:
    # What is acknowledged and what is lost has been sent, and stands above what is acknowledged without a gap.
    if not self.floor <= self.sent <= self.end:
        return False
    if self.acked.count and (
        self.acked.items[0].start <= self.floor or self.acked.items[self.acked.count - 1].stop > self.sent
    ):
        return False
    if self.lost.count and (
        self.lost.items[0].start < self.floor or self.lost.items[self.lost.count - 1].stop > self.sent
    ):
        return False
    return self.finished or not self.fin_sent


cdef class SendBufferFace(SendBuffer):
    """For tests and tools: the same, from Python."""

    def write_octets(self, const uint8_t[::1] data not None):
        if data.shape[0]:
            self.write(&data[0], <size_t>data.shape[0])

    def finish_writing(self):
        self.finish()

    def next_piece(self, uint64_t limit, size_t most):
        """(offset, octets, fin) or None."""
        cdef uint64_t offset = 0
        cdef size_t size = 0
        cdef bint fin = False
        if not self.next(limit, most, &offset, &size, &fin):
            return None
        out = bytearray(size)
        if size:
            self.blocks.read(offset, out, size)
        return offset, bytes(out), bool(fin)

    def wants_to_send(self, uint64_t limit):
        return bool(self.has_work(limit))

    def was_sent(self, uint64_t offset, size_t size, bint fin):
        self.on_sent(offset, size, fin)

    def was_acked(self, uint64_t offset, size_t size, bint fin):
        self.on_acked(offset, size, fin)

    def was_lost(self, uint64_t offset, size_t size, bint fin):
        self.on_lost(offset, size, fin)

    def forget(self):
        self.clear()

    @property
    def is_complete(self):
        return bool(self.complete())

    @property
    def blocks_held(self):
        return self.blocks.held
