"""Read ``queue.pxd`` first."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from .blocks cimport BLOCK, give_block, take_block

cdef enum:
    HEADER = 8
cdef uint64_t SKIP = <uint64_t>0xffffffffffffffff     # Instead of a size: the ring goes on at its beginning.


cdef PacketQueue make_queue(size_t limit, uint32_t most):
    cdef PacketQueue queue = PacketQueue.__new__(PacketQueue)
    queue._limit = limit
    queue._most = most
    return queue


cdef class PacketQueue:
    def __dealloc__(self):
        self.clear()

    cdef uint8_t* room(self, size_t size) except? NULL:
        cdef size_t wanted = HEADER + ((size + 7) & ~<size_t>7), end
        if wanted > self._limit:
            return NULL
        while self.count >= self._most:
            self.dropped += 1
            self.pop()
        if self._ring == NULL:
            _allocate(self, BLOCK if wanted <= BLOCK else _power(wanted))
        while True:
            # Records are not cut in two: what is left at the end of the ring may have to be skipped.
            end = self._capacity - self._next
            if not self.count:
                self._first = self._next = self._used = 0
                end = self._capacity
            if wanted <= end:
                if self._used + wanted <= self._capacity:
                    break
            elif self._used + end + wanted <= self._capacity:
                (<uint64_t*>(self._ring + self._next))[0] = SKIP
                self._used += end
                self._next = 0
                break
            if self._capacity < self._limit:
                _grow(self)
            else:
                self.dropped += 1
                self.pop()
                if self._ring == NULL:
                    _allocate(self, self._limit)
        return self._ring + self._next + HEADER

    cdef void commit(self, size_t size) noexcept:
        cdef size_t taken = HEADER + ((size + 7) & ~<size_t>7)
        (<uint64_t*>(self._ring + self._next))[0] = size
        self._next += taken
        if self._next == self._capacity:
            self._next = 0
        self._used += taken
        self.count += 1
        assert self._used <= self._capacity

    cdef uint8_t* front(self, size_t* size) noexcept:
        if not self.count:
            return NULL
        _unskip(self)
        size[0] = <size_t>(<uint64_t*>(self._ring + self._first))[0]
        return self._ring + self._first + HEADER

    cdef void pop(self) noexcept:
        cdef size_t taken
        if not self.count:
            return
        _unskip(self)
        taken = HEADER + ((<size_t>(<uint64_t*>(self._ring + self._first))[0] + 7) & ~<size_t>7)
        self._first += taken
        if self._first == self._capacity:
            self._first = 0
        self._used -= taken
        self.count -= 1
        if not self.count:
            _release(self)

    cdef void clear(self) noexcept:
        self.count = 0
        _release(self)


cdef void _unskip(PacketQueue self) noexcept:
    if (<uint64_t*>(self._ring + self._first))[0] == SKIP:
        self._used -= self._capacity - self._first
        self._first = 0


cdef size_t _power(size_t size) noexcept:
    cdef size_t power = BLOCK
    while power < size:
        power *= 2
    return power


cdef int _allocate(PacketQueue self, size_t capacity) except -1:
    if capacity == BLOCK:
        self._ring = take_block()
    else:
        self._ring = <uint8_t*>malloc(capacity)
        if self._ring == NULL:
            raise MemoryError
    self._capacity = capacity
    self._first = self._next = self._used = 0
    return 0


cdef void _release(PacketQueue self) noexcept:
    if self._ring != NULL:
        if self._capacity == BLOCK:
            give_block(self._ring)
        else:
            free(self._ring)
    self._ring = NULL
    self._capacity = self._first = self._next = self._used = 0


cdef int _grow(PacketQueue self) except -1:
    # In order, from the beginning.
    cdef PacketQueue grown = make_queue(self._limit, self._most)
    cdef size_t size = 0
    cdef uint8_t* at
    cdef uint32_t count = self.count
    cdef uint64_t dropped = self.dropped
    _allocate(grown, self._capacity * 2)
    while self.count:
        at = self.front(&size)
        memcpy(grown._ring + grown._next, at - HEADER, HEADER + ((size + 7) & ~<size_t>7))
        grown.commit(size)
        self.pop()
    self._ring, grown._ring = grown._ring, NULL
    self._capacity, self._first, self._next, self._used = grown._capacity, grown._first, grown._next, grown._used
    grown._capacity = 0
    grown.count = 0
    self.count = count
    self.dropped = dropped
    return 0


cdef class PacketQueueFace(PacketQueue):
    """For tests and tools: the same, from Python."""

    def __init__(self, size_t limit, uint32_t most):
        self._limit = limit
        self._most = most

    def push(self, const uint8_t[::1] data not None):
        """Whether it was taken."""
        cdef uint8_t* at = self.room(<size_t>data.shape[0])
        if at == NULL:
            return False
        if data.shape[0]:
            memcpy(at, &data[0], <size_t>data.shape[0])
        self.commit(<size_t>data.shape[0])
        return True

    def take(self):
        """The oldest, or None."""
        cdef size_t size = 0
        cdef uint8_t* at = self.front(&size)
        if at == NULL:
            return None
        data = (<const char*>at)[:size]
        self.pop()
        return data

    def forget(self):
        self.clear()

    @property
    def holds_memory(self):
        return self._ring != NULL
