"""Octets of a stream by their offset, in blocks that exist only where there are octets."""

from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    BLOCK = 16384       # octets of a block; a power of two


cdef class Blocks:
    # A window over a stream's octets: blocks are made on the first write into them, and given back below `base`.
    cdef uint8_t** _ring         # block of offset o: _ring[(o // BLOCK) % _slots]
    cdef size_t _slots
    cdef readonly uint64_t base  # everything below has been dropped
    cdef readonly size_t held    # blocks in memory

    # Copy in. Raises MemoryError. offset >= base.
    cdef int write(self, uint64_t offset, const uint8_t* data, size_t size) except -1
    # Copy out; the octets must have been written.
    cdef void read(self, uint64_t offset, uint8_t* out, size_t size) noexcept
    # Where the octets at offset stand in memory, and how many follow there without a gap of addresses (to the end of
    # the block). NULL when the block does not exist.
    cdef uint8_t* at(self, uint64_t offset, size_t* contiguous) noexcept
    # The same, made when it does not exist, for writing into (recv). Raises MemoryError.
    cdef uint8_t* room(self, uint64_t offset, size_t* contiguous) except NULL
    # Give back what was made for writing at or above offset, in whole blocks.
    cdef void drop_above(self, uint64_t offset) noexcept
    # Forget all below offset, give blocks back.
    cdef void drop_below(self, uint64_t offset) noexcept
    cdef void trim(self) noexcept       # give all blocks back; base stays
    cdef void clear(self) noexcept


# A block for other uses. Raises MemoryError.
cdef uint8_t* take_block() except NULL
cdef void give_block(uint8_t* block) noexcept
