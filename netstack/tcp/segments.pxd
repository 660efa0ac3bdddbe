"""The scoreboard: segments that have been sent and are not acknowledged by number, in order of sequence, and those of them
that are in flight also in the order in which they left (RFC 6675 §3, RFC 8985 §5.2)."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..congestion cimport PacketSample
from ..ranges cimport RangeSet

cdef enum Mark:
    SACKED = 1
    LOST = 2            # believed lost, and not sent again since
    RESENT = 4          # more than once
    FINAL = 8           # its last number is the FIN's
    PROBE = 16          # of the path's MTU: its loss is no congestion (RFC 4821 §7.5)
    ONCE_LOST = 32      # was believed lost, whatever became of it

cdef enum:
    MOST_SEGMENTS = 65536
    # Kept at once, 7 MiB: no more are sent then. 88 MB of full segments, or as many small ones as anybody needs.

cdef struct Segment:
    PacketSample sample     # sent_at: of the last time; size: as below, as the controller knows it
    int64_t offset
    uint32_t size           # sequence numbers, the FIN's with it
    uint32_t stamp          # TS value that it left with the last time
    uint64_t order          # of its last departure, among all
    uint64_t earlier        # numbers of its neighbours in the list of those in flight
    uint64_t later
    uint16_t times          # sent
    uint8_t marks


cdef class Segments:
    # Numbers are given in order of sequence and never again but by `split`.
    cdef Segment* _ring
    cdef uint64_t _mask
    cdef RangeSet sacked            # offsets of segments that are marked so
    cdef readonly uint64_t first    # number of the oldest
    cdef readonly uint64_t next
    cdef readonly uint64_t oldest   # in flight: head of the list, NO_SEGMENT: none
    cdef readonly uint64_t newest
    cdef readonly uint64_t departures
    cdef readonly uint64_t in_flight    # octets: sent, neither SACKed nor lost
    cdef readonly uint64_t sacked_count # segments
    cdef readonly uint64_t lost_count   # segments to be sent again
    cdef uint64_t _lost_from            # no lost one has a lower number

    # Behind all others, to be followed by `depart`. The pointer is good until the next call of either.
    cdef Segment* add(self, int64_t offset, uint32_t size) except NULL
    cdef Segment* get(self, uint64_t number) noexcept
    # It leaves, for the first time or again: to the end of the list.
    cdef void depart(self, uint64_t number, double now, uint32_t stamp) noexcept
    cdef uint64_t find(self, int64_t offset) noexcept       # the first that begins there or later; `next`: none
    cdef uint64_t holding(self, int64_t offset) noexcept    # the one with this offset in it; `next`: none
    # What happens to one. Each is to be in a state in which it can.
    cdef int mark_sacked(self, uint64_t number) except -1
    cdef void mark_lost(self, uint64_t number) noexcept
    cdef void drop_first(self) noexcept
    cdef void cut_first(self, int64_t offset) noexcept      # all of it below offset is acknowledged
    cdef uint64_t first_lost(self) noexcept                 # NO_SEGMENT: there is none
    # A timeout was a mistake: what is lost and has not been sent again is in flight, as it was.
    cdef void restore_lost(self) noexcept
    # The peer has let go of what it had (RFC 2018 §8): nothing is SACKed, all that was is lost.
    cdef void forget_sacked(self) noexcept
    # No segment is larger from now on, of those that begin at or above offset.
    cdef int split(self, uint32_t most) except -1
    cdef void clear(self) noexcept


cdef uint64_t NO_SEGMENT
