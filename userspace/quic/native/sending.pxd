"""Packets and frames that leave."""

from libc.stdint cimport uint8_t, uint64_t

from .control cimport Control
from .path cimport Path

cdef enum:
    ROOM = 65536        # octets that a datagram may take while it is made


cdef class Sending(Control):
    # Make the next datagram at out, which has ROOM octets. Its size, or 0 when nothing is to be sent now: then
    # `pacing_at` says whether that is for want of time. `departing` is where it goes.
    cdef Path departing
    cdef Py_ssize_t build(self, uint8_t* out, double now) except -1
    cdef bint has_work(self) noexcept
    cdef double sending_timer(self) noexcept
