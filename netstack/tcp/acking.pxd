"""Acknowledgements: what one says is delivered, and what follows from it."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from .header cimport Header
from .mtu cimport PathMtu


cdef class Acking(PathMtu):
    # An acceptable one (RFC 5961 §5). offset: of the segment, in the peer's stream.
    cdef int acknowledge(self, const Header* header, int64_t ack, int64_t offset, double now) except -1
    cdef int window_told(self, const Header* header, int64_t ack, int64_t offset, double now) except -1
    cdef int schedule_persist(self, double now) except -1
