"""Objects by 64-bit numbers, found without making a Python object: connection IDs, stream IDs."""

from libc.stdint cimport uint64_t


cdef struct Slot:
    uint64_t key
    void* value         # NULL: free


cdef class Table:
    # Open addressing with linear probing over at most half of the slots. A reference is held to every value.
    cdef Slot* _slots
    cdef size_t _mask
    cdef uint64_t _seed
    cdef readonly size_t size

    cdef void* get(self, uint64_t key) noexcept             # borrowed; NULL: none
    cdef int set(self, uint64_t key, object value) except -1
    cdef object pop(self, uint64_t key)                     # None: there was none
    cdef void clear(self) noexcept
