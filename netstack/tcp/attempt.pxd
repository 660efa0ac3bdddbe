"""A SYN that waits for the application's word (``Tcp.on_attempt``)."""

from libc.stdint cimport uint8_t

from ..ip cimport Packet
from .endpoint cimport Endpoint
from .header cimport Header

cdef enum:
    KEPT = 128      # octets of the SYN: all headers, and what an ICMP error quotes of it


cdef class Attempt(Endpoint):
    cdef Header _header             # without data
    cdef Packet _packet             # its copy
    cdef uint8_t _copy[128]
    cdef readonly bint over
    cdef bint _told
    cdef public object on_gone

    cdef int keep(self, const Packet* packet, const Header* header, double now) except -1
