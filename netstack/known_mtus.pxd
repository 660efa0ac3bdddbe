"""Paths whose MTU is known to be smaller than the link's, looked up for each packet and so without Python objects."""

from libc.stdint cimport uint32_t, uint64_t

from .address cimport Address

cdef struct KnownMtu:
    Address remote
    uint32_t mtu            # octets; 0: the slot is free
    double until            # s


cdef class KnownMtus:
    # A slot for each address, by a hash that routers and peers do not know: two that share one forget each other, and are
    # told again.
    cdef KnownMtu* _slots   # NULL until the first
    cdef uint64_t _seed

    cdef uint32_t find(self, const Address* remote, double now) noexcept    # 0: nothing is known
    cdef int set(self, const Address* remote, uint32_t mtu, double until) except -1

cdef KnownMtus make_known_mtus(uint64_t seed)
