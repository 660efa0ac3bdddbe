"""Packets and frames that arrive."""

from libc.stdint cimport uint8_t, uint64_t

from .recovery cimport Recovery

cdef enum:
    MIN_ACK_DELAY_US = 1000
    # What our min_ack_delay says, as handshaker_parameters has it.

cdef enum Outcome:
    TAKEN = 0
    DROPPED = 1         # not authentic, malformed before that, or seen before
    TOO_EARLY = 2       # its keys do not exist yet


cdef class Receiving(Recovery):
    # A short-header packet, changed in place. Raises PeerError when the peer has broken the protocol, MemoryError.
    cdef int receive_packet(self, uint8_t* data, size_t size, object route, int ecn, double now) except -1
    cdef int receive_frames(self, const uint8_t* at, const uint8_t* end, object route, double now) except -1
