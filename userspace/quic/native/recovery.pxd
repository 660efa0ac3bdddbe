"""Acknowledgements and loss of a packet number space (RFC 9002)."""

from libc.stdint cimport uint64_t

from .core cimport Core
from .space cimport Space


cdef class Recovery(Core):
    # Of the ACK frame that is being read.
    cdef bint _newly_acked
    cdef bint _eliciting_acked
    cdef uint64_t _marked_acked
    cdef double _newest_sent_at

    cdef int begin_ack(self, Space space, uint64_t largest, double now) except -1
    # The packets from low to high, highest range first. False: nothing of what is below can be of interest.
    cdef bint ack_range(self, Space space, uint64_t low, uint64_t high, double now) except -1
    # delay: the peer's, s. counted: whether it has said how many packets in all came with ECT(0), ECT(1) and CE.
    cdef int end_ack(
        self, Space space, uint64_t largest, double delay, bint counted, uint64_t ect0, uint64_t ect1, uint64_t marks,
        double now
    ) except -1
    cdef double recovery_timer(self, Space space) noexcept
    cdef int on_recovery_timer(self, Space space, double now) except -1
    cdef int send_oldest_again(self, Space space) except -1
    # Everything outstanding is lost, without a word to congestion control: Retry, or a new path.
    cdef int requeue_all(self, Space space) except -1
