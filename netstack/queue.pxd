"""A bounded queue of packets in one piece of memory, which gives up the oldest for the newest."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef class PacketQueue:
    # A ring of records: their size, then their octets, at multiples of 8. No memory is held while it is empty.
    cdef uint8_t* _ring
    cdef size_t _capacity
    cdef size_t _limit          # octets of the ring at most
    cdef size_t _first          # where the oldest record stands
    cdef size_t _next           # where the next will
    cdef size_t _used           # octets between them, in ring order
    cdef uint32_t _most         # packets
    cdef readonly uint32_t count
    cdef readonly uint64_t dropped

    # Room for a packet of at most size octets; the oldest go for it when they must. Fill it, then `commit` its size. NULL:
    # it is larger than the whole ring may be. Raises MemoryError.
    cdef uint8_t* room(self, size_t size) except? NULL
    cdef void commit(self, size_t size) noexcept
    cdef uint8_t* front(self, size_t* size) noexcept        # the oldest; NULL: empty
    cdef void pop(self) noexcept
    cdef void clear(self) noexcept

# limit: octets, a power of two of at least 16384. most: packets.
cdef PacketQueue make_queue(size_t limit, uint32_t most)
