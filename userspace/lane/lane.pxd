"""A stack and the DATAGRAMs of a session, joined."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from quicsocks.netstack.stack cimport Stack

from ..quic.native.port cimport DatagramPort


cdef class Lane(DatagramPort):
    cdef readonly Stack stack
    cdef readonly bint has_context      # each DATAGRAM begins with a Context ID, 0 for an IP packet (RFC 9484 §6)
    cdef uint8_t* _staged               # the next payload
    cdef size_t _staged_size            # 0: none
    cdef readonly uint32_t size         # octets of the largest DATAGRAM now
    cdef readonly uint64_t other_contexts       # DATAGRAMs of a context that nobody has agreed on
    cdef object _on_wake

    cdef int _stage(self, double now) except -1
