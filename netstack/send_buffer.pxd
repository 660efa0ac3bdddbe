"""The sending half of a stream: what was written, sent, acknowledged and lost, QUIC's (RFC 9000 §2.2, §3.1) or TCP's."""

from libc.stdint cimport uint8_t, uint64_t

from .blocks cimport Blocks
from .ranges cimport RangeSet


cdef class SendBuffer:
    cdef Blocks blocks
    cdef RangeSet acked         # above `floor`
    cdef RangeSet lost          # to be sent again
    cdef readonly uint64_t floor    # all below is acknowledged
    cdef readonly uint64_t sent     # all below has been sent at least once
    cdef readonly uint64_t end      # octets written
    cdef readonly bint finished     # no more will be written: the final size is `end`
    cdef readonly bint fin_sent     # a frame with FIN is under way or acknowledged
    cdef readonly bint fin_acked

    cdef int write(self, const uint8_t* data, size_t size) except -1
    # The next piece to send of at most `most` octets, nothing new at or above `limit` (flow control): lost octets first.
    # Whether there is one (a FIN alone is a piece of no octets). Nothing changes until `on_sent`.
    cdef bint next(self, uint64_t limit, size_t most, uint64_t* offset, size_t* size, bint* fin) noexcept
    cdef bint has_work(self, uint64_t limit) noexcept
    cdef int on_sent(self, uint64_t offset, size_t size, bint fin) except -1
    cdef int on_acked(self, uint64_t offset, size_t size, bint fin) except -1
    cdef int on_lost(self, uint64_t offset, size_t size, bint fin) except -1
    cdef bint complete(self) noexcept   # all octets and the FIN acknowledged
    cdef void finish(self) noexcept     # no more will be written
    cdef void clear(self) noexcept      # after a reset: nothing is kept
