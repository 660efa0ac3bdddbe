"""Sets of integers as sorted, disjoint, half-open ranges: packet numbers received, octets acknowledged."""

from libc.stdint cimport uint64_t


cdef struct Range:
    uint64_t start
    uint64_t stop       # one past the last


cdef class RangeSet:
    cdef Range* items           # ascending; adjacent ranges are merged
    cdef readonly int count
    cdef int _capacity

    cdef int add(self, uint64_t start, uint64_t stop) except -1
    cdef int subtract(self, uint64_t start, uint64_t stop) except -1
    cdef bint contains(self, uint64_t value) noexcept
    cdef bint covers(self, uint64_t start, uint64_t stop) noexcept       # all of it
    cdef int first_reaching(self, uint64_t value) noexcept  # index of the first that does not end before value
    cdef void drop_first(self) noexcept        # forget the lowest range
    cdef void drop_below(self, uint64_t value) noexcept     # forget all that is below value
    cdef void clear(self) noexcept
