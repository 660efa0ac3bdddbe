"""The receiving half of a stream: octets put in order, QUIC's (RFC 9000 §2.2, §3.2) or TCP's."""

from libc.stdint cimport uint8_t, uint64_t

from .blocks cimport Blocks
from .ranges cimport RangeSet

cdef enum Arrival:
    ARRIVED = 0
    FINAL_SIZE_CHANGED = 1      # sizes disagree (RFC 9000 §4.5)
    TOO_MANY_GAPS = 2           # of octets that wait for those before them


cdef class ReceiveBuffer:
    cdef Blocks blocks
    cdef RangeSet received          # above `ready`
    cdef readonly uint64_t taken    # octets handed on
    cdef readonly uint64_t ready    # all below has arrived
    cdef readonly uint64_t highest  # one past the highest octet that has arrived
    cdef readonly uint64_t final    # the final size, UNKNOWN before it is known

    # An Arrival; when it is not ARRIVED, the peer is at fault. Raises MemoryError. Octets seen again are dropped: what came
    # first stays.
    cdef int receive(self, uint64_t offset, const uint8_t* data, size_t size, bint fin) except -1
    # RESET_STREAM's final size. ARRIVED or FINAL_SIZE_CHANGED.
    cdef int set_final(self, uint64_t size) except -1
    # Octets that may be handed on now.
    cdef uint64_t available(self) noexcept
    # All of them as bytes (at most `most`), and taken.
    cdef bytes take(self, size_t most)
    # The same without an object: where they stand; then skip.
    cdef uint8_t* peek(self, size_t* size) noexcept
    cdef void skip(self, size_t size) noexcept
    cdef bint at_end(self) noexcept     # everything up to the final size was taken
    cdef void clear(self) noexcept      # nothing is kept, sizes are
