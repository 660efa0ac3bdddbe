"""What is done about losses: fast recovery, retransmission timeouts, and taking back what was a mistake."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from .header cimport Header
from .rack cimport Rack


cdef class Repairing(Rack):
    cdef uint64_t congestion_window(self) noexcept      # octets that may be in flight
    cdef uint64_t pipe(self) noexcept                   # octets believed to be
    cdef int enter_recovery(self, uint64_t pipe) except -1
    cdef int leave(self) except -1                      # RECOVERY or LOSS is over
    # How far the state goes on after the segments of an ACK have been marked; within an update of the controller.
    cdef int progress(self, const Header* header, int64_t ack, bint advanced, uint64_t pipe, double now) except -1
    # PRR (RFC 9937), behind the update. safe: no further loss was found, and numbers were acknowledged.
    cdef int reduce_rate(self, bint safe) except -1
    cdef int on_retransmission_timer(self, double now) except -1
    cdef int undo(self, double now) except -1
