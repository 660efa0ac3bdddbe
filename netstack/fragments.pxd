"""Fragments: datagrams put together again (RFC 791 §3.2, RFC 8200 §4.5, RFC 5722), and cut to size."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .ip cimport Packet

cdef enum Piece:
    WAITING = 0     # for the other fragments
    WHOLE = 1       # the packet is whole now
    REFUSED = 2     # dropped, with all its datagram's others


cdef class Reassembler:
    cdef dict _partials             # key -> _Partial, oldest first
    cdef size_t _held               # octets
    cdef double _due                # when the first may have waited for too long
    cdef object _whole              # the datagram given out last, which `Packet` points into
    cdef readonly uint64_t reassembled
    cdef readonly uint64_t refused
    cdef readonly uint64_t timed_out

    # WHOLE: packet is the datagram now, until the next call.
    cdef Piece add(self, Packet* packet, double now) except *
    cdef double next_due(self) noexcept
    # Drop what has waited for too long. The first fragments of those dropped, as (octets, version), for Time Exceeded.
    cdef list expire(self, double now)

# Octets of payload of the fragment of a packet that begins at offset when fragments, headers included, may have mtu.
cdef size_t fragment_size(size_t header, size_t rest, size_t mtu) noexcept
# Write the fragment with the payload octets [offset, offset + size) of a packet whose header (HEADER4 or HEADER6 octets)
# and payload stand at packet; id names the datagram. Octets written: for IPv6, 8 more than header and payload.
cdef size_t write_fragment(
    uint8_t* out, const uint8_t* packet, size_t offset, size_t size, bint more, uint32_t id
) noexcept
