"""Where a connection puts its packets, when they are not to become Python objects."""

from libc.stdint cimport uint8_t

from .path cimport Path


cdef class Outlet:
    # Room for a packet of at most size octets that goes along path. NULL: nothing more can be taken now.
    cdef uint8_t* room(self, Path path, size_t size) except? NULL
    # What stands in the last room is a packet of size octets, to be sent along path, which need not be the same.
    cdef int commit(self, Path path, size_t size, int ecn) except -1


cdef class MemoryOutlet(Outlet):
    # For carriers that are no sockets, simulated ones above all: keeps what it takes until it is fetched.
    cdef uint8_t* _room
    cdef list _taken
