"""What the session sees of a connection's application data."""

from libc.stdint cimport uint64_t

from .sending cimport Sending


cdef class Connection(Sending):
    cdef uint64_t _peer_window(self, uint64_t number)
    cdef double idle_at(self)
