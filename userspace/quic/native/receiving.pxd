"""Packets and frames that arrive."""

from libc.stdint cimport uint8_t, uint64_t

from .recovery cimport Recovery
from .space cimport Space

cdef enum Outcome:
    TAKEN = 0
    DROPPED = 1         # not authentic, malformed before that, or seen before
    TOO_EARLY = 2       # its keys do not exist yet


cdef class Receiving(Recovery):
    # A short-header packet, changed in place. Raises PeerError when the peer has broken the protocol, MemoryError.
    cdef int receive_packet(self, uint8_t* data, size_t size, object route, int ecn, double now) except -1
    # The frames of a packet that came along the path in use. newest: its number is the largest so far.
    cdef int receive_frames(
        self, Space space, const uint8_t* at, const uint8_t* end, uint64_t number, bint newest, double now
    ) except -1
    # Write an authentic packet down. Whether its number is the largest so far.
    cdef bint note_received(self, Space space, uint64_t number, size_t size, int ecn, double now) except -1
