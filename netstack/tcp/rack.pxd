"""Which segments are lost: RACK and the tail loss probe (RFC 8985), or duplicate acknowledgements (RFC 5681, RFC 6582)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from .core cimport Core
from .header cimport Header
from .segments cimport Segment


cdef class Rack(Core):
    # Of the acknowledgement that is being processed.
    cdef uint64_t _delivered            # octets newly acknowledged or SACKed
    cdef uint64_t _newly_lost           # segments
    cdef bint _original_delivered       # of what was in flight at the timeout, sent once
    cdef bint _resent_acked             # by number
    cdef uint32_t _resent_stamp         # the earliest of theirs
    cdef bint _timed                    # there is a round trip of a segment sent once
    cdef double _timed_sent_at          # s, the latest-sent one
    cdef bint _newly_sacked
    cdef uint32_t _probe_passed           # octets of an MTU probe that has arrived, 0: none
    cdef bint _told_duplicate           # a D-SACK
    cdef int64_t _duplicate_stop

    # A segment is known to have arrived that was not before.
    cdef int on_delivered(self, Segment* segment, const Header* header, double now) except -1
    cdef void on_duplicate_told(self) noexcept          # a D-SACK
    # What is lost by now is marked, and the controller told: within one of its updates.
    cdef int detect_lost(self, double now) except -1
    cdef int lose(self, uint64_t number, double now) except -1
    cdef double reordering_window(self) noexcept        # s
    cdef int schedule_tail_probe(self, double now) except -1
    cdef int on_tail_timer(self, double now) except -1
    # RFC 8985 §7.4.2: whether a probe has repaired a loss, which is congestion like another.
    cdef bint tail_loss_repaired(self, int64_t ack, bint duplicate) noexcept
