"""The door to the sockets; ``batched`` has what Linux puts behind it. Read ``outlet.pxd`` first."""

from libc.stdint cimport uint8_t

from .path cimport Path


cdef class Outlet:
    cdef uint8_t* room(self, Path path, size_t size) except? NULL:
        return NULL

    cdef int commit(self, Path path, size_t size, int ecn) except -1:
        return 0
