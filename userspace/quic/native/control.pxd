"""Frames that carry neither streams nor DATAGRAMs: acknowledgements, limits, connection IDs, paths, the handshake's rest."""

from libc.stdint cimport uint8_t, uint64_t

from .receiving cimport Receiving
from .space cimport Space


cdef class Control(Receiving):
    # Put frames between at and end. Returns where they end.
    cdef uint8_t* put_ack(self, Space space, uint8_t* at, uint8_t* end, double now) except NULL
    # What is due, as far as there is room. expand: the datagram has to be as large as every path must carry.
    cdef uint8_t* put_control(
        self, Space space, uint8_t* at, uint8_t* end, double now, bint* expand
    ) except NULL

# PATH_CHALLENGE or PATH_RESPONSE, 9 octets.
cdef uint8_t* put_path_frame(uint8_t* at, uint8_t kind, uint64_t data) noexcept
