"""NewReno (RFC 9002 §7, RFC 6582) and CUBIC (RFC 9438) with HyStart++ (RFC 9406): controllers that loss slows down."""

from libc.stdint cimport uint32_t, uint64_t

from .congestion cimport Controller


cdef struct Undo:
    # What to return to when a reduction turns out to have been a mistake.
    bint valid
    uint64_t window
    uint64_t threshold
    double recovery_began
    double w_max
    double k
    double epoch
    double w_est
    double w_est_until
    bint epoch_begun


cdef class LossBased(Controller):
    cdef double _beta               # what a congestion event leaves of the window
    cdef uint64_t _threshold        # octets: slow start ends here
    cdef double _last_sent          # s, the newest packet. Clocks are coarse: an ACK and what it lets go share a time
    cdef double _recovery_began     # s: losses of packets sent up to then are part of the same event
    cdef uint64_t _acked            # octets, in the update under way
    cdef double _newest_acked       # s, when it was sent; of the update
    cdef double _newest_lost
    cdef double _newest_ever        # s: the same, of all updates before
    cdef uint64_t _lost_packets     # of the last event, less those that were not lost after all
    cdef uint64_t _lost_now
    cdef Undo _undo

    # A round ends with the first acknowledgement of a packet sent after the last one at its beginning.
    cdef double _round_began        # s, when that was sent
    cdef uint64_t _most             # octets in flight, in this round
    cdef uint64_t _former_most      # in the round before

    # HyStart++.
    cdef double _round_rtt          # s, the least of the round
    cdef double _former_round_rtt
    cdef int _round_samples
    cdef int _slow_rounds           # left in Conservative Slow Start, 0: not in it
    cdef double _baseline_rtt

    cdef bint _is_filled(self) noexcept                 # whether the window is what holds the sender back
    cdef void _reduce(self, double now) noexcept        # the window, at a congestion event
    cdef void _grow(self, double now) noexcept          # in congestion avoidance, by what was acknowledged
    cdef void _restore(self) noexcept


cdef class NewReno(LossBased):
    cdef uint64_t _counted          # octets acknowledged towards the next packet


cdef class Cubic(LossBased):
    cdef double _w_max              # octets
    cdef double _k                  # s
    cdef bint _epoch_begun          # whether this congestion avoidance stage has begun
    cdef double _epoch              # s, when; moved on by the time in which the window was not filled
    cdef double _w_est              # octets
    cdef double _w_est_until        # octets: from here on W_est grows as fast as Reno's
    cdef double _fraction           # octets, less than 1: what the window is short of its true value
    cdef double _updated            # s
