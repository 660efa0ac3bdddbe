"""What the session sees of a connection's application data."""

from libc.stdint cimport uint8_t, uint64_t

from .zero_rtt cimport ZeroRtt


cdef class Connection(ZeroRtt):
    cdef object on_failure      # (error): reading a packet has raised it

    # A packet from a socket, changed in place. Errors go to `on_failure`.
    cdef int arrive(self, uint8_t* data, size_t size, object route, int ecn, double now) except -1
    cdef uint64_t _peer_window(self, uint64_t number)
    cdef double idle_at(self)
