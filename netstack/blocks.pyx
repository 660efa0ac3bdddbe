"""Octets by their offset. Read ``blocks.pxd`` first. Blocks that are given back are kept for the next stream, some."""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

cdef enum:
    FIRST_SLOTS = 4
    MOST_SPARE = 256    # blocks, 4 MiB: what streams that come and go in one second may need

cdef uint8_t* _spare[MOST_SPARE]
cdef int _spare_count = 0


cdef class Blocks:
    def __dealloc__(self):
        self.clear()

    cdef int write(self, uint64_t offset, const uint8_t* data, size_t size) except -1:
        cdef size_t piece
        cdef uint8_t* at
        while size:
            at = self.room(offset, &piece)
            if piece > size:
                piece = size
            memcpy(at, data, piece)
            offset += piece
            data += piece
            size -= piece
        return 0

    cdef void read(self, uint64_t offset, uint8_t* out, size_t size) noexcept:
        cdef size_t piece
        cdef uint8_t* at
        while size:
            at = self.at(offset, &piece)
            assert at != NULL, "octets that were never written, or have been dropped"
            if piece > size:
                piece = size
            memcpy(out, at, piece)
            offset += piece
            out += piece
            size -= piece

    cdef uint8_t* at(self, uint64_t offset, size_t* contiguous) noexcept:
        cdef uint8_t* block
        cdef size_t within = <size_t>(offset % BLOCK)
        contiguous[0] = BLOCK - within
        if offset < self.base or offset // BLOCK >= self.base // BLOCK + self._slots:
            return NULL
        block = self._ring[(offset // BLOCK) % self._slots]
        return block + within if block != NULL else NULL

    cdef uint8_t* room(self, uint64_t offset, size_t* contiguous) except NULL:
        cdef size_t within = <size_t>(offset % BLOCK), slot
        assert offset >= self.base, "octets that have been dropped"
        if offset // BLOCK >= self.base // BLOCK + self._slots:
            _widen(self, <size_t>(offset // BLOCK - self.base // BLOCK + 1))
        slot = <size_t>((offset // BLOCK) % self._slots)
        if self._ring[slot] == NULL:
            self._ring[slot] = take_block()
            self.held += 1
        assert self.held <= self._slots
        contiguous[0] = BLOCK - within
        return self._ring[slot] + within

    cdef void drop_above(self, uint64_t offset) noexcept:
        cdef uint64_t index = (offset + BLOCK - 1) // BLOCK
        cdef uint64_t last = self.base // BLOCK + self._slots
        cdef size_t slot
        while index < last:
            slot = <size_t>(index % self._slots)
            if self._ring[slot] != NULL:
                give_block(self._ring[slot])
                self._ring[slot] = NULL
                self.held -= 1
            index += 1

    cdef void drop_below(self, uint64_t offset) noexcept:
        cdef uint64_t index = self.base // BLOCK
        cdef uint64_t last = offset // BLOCK
        cdef size_t slot
        if offset <= self.base:
            return
        self.base = offset
        if not self.held:
            return
        if last - index > self._slots:
            last = index + self._slots
        while index < last and self.held:
            slot = <size_t>(index % self._slots)
            if self._ring[slot] != NULL:
                give_block(self._ring[slot])
                self._ring[slot] = NULL
                self.held -= 1
            index += 1

    cdef void trim(self) noexcept:
        # Nothing is buffered: an idle stream holds no memory.
        cdef size_t slot
        for slot in range(self._slots):
            if self._ring[slot] != NULL:
                give_block(self._ring[slot])
        free(self._ring)
        self._ring = NULL
        self._slots = 0
        self.held = 0

    cdef void clear(self) noexcept:
        self.trim()


cdef int _widen(Blocks self, size_t needed) except -1:
    cdef size_t slots = self._slots if self._slots else FIRST_SLOTS
    cdef size_t slot
    cdef uint64_t index
    cdef uint8_t** ring
    while slots < needed:
        slots *= 2
    ring = <uint8_t**>calloc(slots, sizeof(uint8_t*))
    if ring == NULL:
        raise MemoryError
    for slot in range(self._slots):
        index = self.base // BLOCK + slot
        ring[index % slots] = self._ring[index % self._slots]
    free(self._ring)
    self._ring = ring
    self._slots = slots
    return 0


cdef uint8_t* take_block() except NULL:
    global _spare_count
    cdef uint8_t* block
    if _spare_count:
        _spare_count -= 1
        return _spare[_spare_count]
    block = <uint8_t*>malloc(BLOCK)
    if block == NULL:
        raise MemoryError
    return block


cdef void give_block(uint8_t* block) noexcept:
    global _spare_count
    assert 0 <= _spare_count <= MOST_SPARE
    if _spare_count < MOST_SPARE:
        _spare[_spare_count] = block
        _spare_count += 1
    else:
        free(block)
