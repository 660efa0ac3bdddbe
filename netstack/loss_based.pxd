"""NewReno (RFC 9002 §7, RFC 6582) and CUBIC (RFC 9438) with HyStart++ (RFC 9406): controllers that loss slows down."""

from libc.stdint cimport uint32_t, uint64_t

from .congestion cimport Controller


cdef struct Undo:
    # What to return to when a reduction turns out to have been a mistake.
    bint valid
    uint64_t window
    uint64_t threshold
    double w_max
    double k
    double epoch
    double w_est
    uint64_t w_est_until


cdef class LossBased(Controller):
    cdef uint64_t _threshold        # octets: slow start ends here
    cdef double _recovery_began     # s: losses of packets sent before are part of the same event
    cdef uint64_t _acked            # octets, in the update under way
    cdef uint64_t _in_flight        # octets, when it began
    cdef double _newest_acked       # s, when it was sent
    cdef double _newest_lost
    cdef uint64_t _lost_packets     # of the last event, less those that were not lost after all
    cdef uint64_t _lost_now
    cdef Undo _undo

    # HyStart++.
    cdef double _round_began        # s: an acknowledgement of what was sent later ends the round
    cdef double _round_rtt          # s, the least of the round
    cdef double _former_round_rtt
    cdef int _round_samples
    cdef int _slow_rounds           # left in Conservative Slow Start, 0: not in it
    cdef double _baseline_rtt

    cdef void _reduce(self, double now) noexcept        # the window, at a congestion event
    cdef void _grow(self, double now) noexcept          # in congestion avoidance, by what was acknowledged
    cdef void _restore(self) noexcept


cdef class NewReno(LossBased):
    cdef uint64_t _counted          # octets acknowledged towards the next packet


cdef class Cubic(LossBased):
    cdef double _w_max              # octets
    cdef double _k                  # s
    cdef double _epoch              # s, -1: none
    cdef double _w_est              # octets
    cdef uint64_t _w_est_until      # octets: from here on W_est grows as fast as Reno's
    cdef double _updated            # s
