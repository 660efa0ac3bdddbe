"""Delivery-rate samples (draft-ietf-ccwg-bbr §4.1): how fast the network delivers, seen from the sender."""

from libc.stdint cimport uint32_t, uint64_t

from .congestion cimport Controller, PacketSample


cdef struct RateSample:
    # Of one update, from the newest packet that it acknowledges.
    bint valid                  # whether it acknowledges any that was sampled
    bint app_limited
    double rtt                  # s, -1: not known
    double rate                 # octets per second, 0: not known
    double sent_at              # s, the newest packet
    uint64_t prior_delivered    # octets delivered when the packet was sent
    uint64_t prior_lost
    uint64_t delivered          # octets from then to now
    uint64_t lost
    uint64_t in_flight          # octets, with that packet
    uint64_t prior_in_flight    # octets, before the update
    uint64_t newly_acked        # octets
    uint64_t newly_lost
    double send_elapsed         # s
    double ack_elapsed


cdef class DeliveryRate(Controller):
    cdef RateSample _rs
    cdef uint64_t _delivered        # octets, ever
    cdef uint64_t _lost             # octets, ever
    cdef double _delivered_at       # s
    cdef double _first_sent_at      # s, when the packet was sent that was acknowledged last
    cdef uint64_t _app_limited      # octets delivered at the end of the application-limited phase, 0: not in one
    cdef bint _filled               # whether the window was full, in this round
    cdef bint _former_filled        # in the round before

    cdef void _generate(self) noexcept      # the sample, at the end of an update
