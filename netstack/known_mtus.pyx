"""Read ``known_mtus.pxd`` first."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from .address cimport Address, same
from .mixing cimport mixed

cdef enum:
    SLOTS = 1024        # a power of two; 32 KiB, in stacks that have been told of any


cdef KnownMtus make_known_mtus(uint64_t seed):
    cdef KnownMtus known = KnownMtus.__new__(KnownMtus)
    known._seed = seed
    return known


cdef inline KnownMtu* _slot(KnownMtus self, const Address* remote) noexcept:
    return &self._slots[mixed(mixed(self._seed ^ remote.low) + remote.high) & (SLOTS - 1)]


cdef class KnownMtus:
    def __dealloc__(self):
        free(self._slots)

    cdef uint32_t find(self, const Address* remote, double now) noexcept:
        cdef KnownMtu* slot
        if self._slots == NULL:
            return 0
        slot = _slot(self, remote)
        if not slot.mtu or slot.until <= now or not same(&slot.remote, remote):
            return 0
        return slot.mtu

    cdef int set(self, const Address* remote, uint32_t mtu, double until) except -1:
        cdef KnownMtu* slot
        if self._slots == NULL:
            self._slots = <KnownMtu*>calloc(SLOTS, sizeof(KnownMtu))
            if self._slots == NULL:
                raise MemoryError
        slot = _slot(self, remote)
        slot.remote = remote[0]
        slot.mtu = mtu
        slot.until = until
        return 0
