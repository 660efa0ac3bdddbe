"""A connection as applications see it."""

from libc.stdint cimport uint32_t, uint64_t

from .header cimport Header
from .sending cimport Sending


cdef class Pump:
    """Moves octets between a connection and a socket, in place."""
    cdef Connection _connection     # None: parted
    cdef int _descriptor
    cdef object _on_full
    cdef object _on_error
    cdef bint _full                 # the socket takes no more: `write` is to be called when it does
    cdef bint _many                 # the last read filled all that it was given
    cdef readonly uint64_t sent     # octets read from the socket
    cdef readonly uint64_t received # octets written to it
    cdef readonly double active_at  # s, when the last octet passed


cdef class Connection(Sending):
    cdef object _handler
    cdef object _on_accept          # of the listener, until it is told
    cdef Pump _pump                 # None: octets go to the handler
    cdef bint established
    cdef bint silent                # nothing more is told
    cdef bint connected_told
    cdef bint receive_over          # the handler has heard the last of it
    cdef bint send_told
    cdef bint lost                  # `ended` is to be told
    cdef object _ended
    cdef bint paused
    cdef uint64_t resume_below
    cdef uint64_t past_pause

    cdef int open_to(self, uint32_t iss, double now) except -1              # its SYN is to leave
    cdef int answer(self, const Header* syn, uint32_t iss, double now) except -1     # its SYN-ACK
