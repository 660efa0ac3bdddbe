"""The door to the sockets; ``batched`` has what Linux puts behind it. Read ``outlet.pxd`` first."""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc

from .path cimport Path

cdef enum:
    LARGEST = 65536
    # Octets: no UDP datagram is larger.


cdef class Outlet:
    cdef uint8_t* room(self, Path path, size_t size) except? NULL:
        return NULL

    cdef int commit(self, Path path, size_t size, int ecn) except -1:
        return 0

    def add_cid(self, bytes cid not None, connection):
        """What arrives with this connection ID is for connection: of interest to outlets that receive, too."""

    def drop_cid(self, bytes cid not None):
        """Not any more."""


cdef class MemoryOutlet(Outlet):
    def __cinit__(self):
        self._room = <uint8_t*>malloc(LARGEST)
        if self._room == NULL:
            raise MemoryError
        self._taken = []

    def __dealloc__(self):
        free(self._room)

    cdef uint8_t* room(self, Path path, size_t size) except? NULL:
        return self._room if size <= LARGEST else NULL

    cdef int commit(self, Path path, size_t size, int ecn) except -1:
        self._taken.append(((<const char*>self._room)[:size], path.route, ecn))
        return 0

    def take(self):
        """What connections have sent since the last call, in order: (datagram, route, ECN codepoint)."""
        taken, self._taken = self._taken, []
        return taken
