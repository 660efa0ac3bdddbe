"""Read ``endpoint.pxd`` first."""

from libc.stdint cimport uint32_t, uint64_t

from ..host cimport Flow, Report, Transport
from ..ip cimport Packet
from .header cimport Header


cdef class Owner(Transport):
    cdef int forget(self, Endpoint endpoint) except -1:
        return 0

    cdef int rest(self, Endpoint endpoint) except -1:
        return 0

    cdef int settled(self, Endpoint endpoint, bint established) except -1:
        return 0

    cdef uint64_t window_for(self, uint64_t wanted) noexcept:
        return wanted

    cdef uint64_t high_water(self) noexcept:
        return 0

    cdef int recycle(self, Endpoint rest, const Packet* packet, Header* header, uint32_t least, double now) except -1:
        return 0

    cdef object accept_attempt(self, Endpoint attempt, Header* syn):
        return None

    cdef int tell_attempt(self, Endpoint attempt) except -1:
        return 0

    cdef int reset_stranger(self, const Packet* packet, const Header* header) except -1:
        return 0


cdef class Endpoint(Flow):
    cdef int arrived(self, const Packet* packet, Header* header, double now) except -1:
        return 0

    cdef bint reported(self, const Report* report, uint32_t sequence, double now) except -1:
        return False
