"""What is left of a connection in TIME-WAIT, and an attempt that waits for the application's word."""

from libc.stdint cimport uint8_t, uint32_t

from ..host cimport Flow
from ..ip cimport Packet
from .core cimport Core
from .endpoint cimport Endpoint
from .header cimport Header


cdef class TimeWait(Endpoint):
    cdef uint32_t snd_nxt           # as on the wire
    cdef uint32_t rcv_nxt
    cdef uint32_t window            # as on the wire
    cdef uint32_t ts_offset
    cdef uint32_t ts_recent
    cdef double answered_at
    cdef bint stamping
    cdef bint ack_wanted


cdef TimeWait make_time_wait(Core core, bint ack_wanted)
