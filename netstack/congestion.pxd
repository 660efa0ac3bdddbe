"""Congestion control: what a controller is told, and what it answers. For the transport and for TCP."""

from libc.stdint cimport uint32_t, uint64_t

from .rtt cimport RttEstimator


cdef struct PacketSample:
    # What is remembered of a sent packet for delivery-rate samples (draft-ietf-ccwg-bbr §4.1.2); the caller keeps it
    # with the packet, fills sent_at and size, and otherwise leaves it alone.
    double sent_at           # s
    double delivered_at      # s, when `delivered` last moved
    double first_sent_at     # s, when the packet was sent whose acknowledgement moved it
    uint64_t delivered       # octets acknowledged when this packet was sent
    uint64_t lost            # octets lost when this packet was sent
    uint64_t in_flight       # octets in flight with this packet
    uint32_t size            # octets
    bint app_limited


cdef class Controller:
    cdef readonly RttEstimator rtt         # the caller's, already updated when end_update is called
    cdef readonly uint64_t window          # octets that may be in flight
    cdef readonly double pacing_rate       # octets per second; 0: not known, the pacer takes what the window gives
    cdef readonly uint32_t mss             # octets of a full-sized packet
    cdef readonly str name

    # Sending. in_flight: octets in flight before this packet.
    cdef void on_sent(self, PacketSample* packet, uint64_t in_flight, double now) noexcept
    # The sender had nothing more to send although the window was open.
    cdef void on_app_limited(self, uint64_t in_flight) noexcept
    # One ACK, or one loss timeout: begin, each packet newly acknowledged or lost, end. in_flight: before, after.
    cdef void begin_update(self, uint64_t in_flight, double now) noexcept
    cdef void on_acked(self, const PacketSample* packet, double now) noexcept
    cdef void on_lost(self, const PacketSample* packet, double now) noexcept
    cdef void end_update(self, uint64_t in_flight, double now) noexcept
    # Within an update: RFC 9002 §7.6; newly reported CE marks (RFC 9002 §7.1), newest_sent_at: of the packets acknowledged.
    cdef void on_persistent_congestion(self, double now) noexcept
    cdef void on_congestion_marks(self, uint64_t marks, double newest_sent_at, double now) noexcept
    # A packet declared lost was acknowledged after all; sent_at: when it was sent.
    cdef void on_spurious_loss(self, double sent_at, double now) noexcept
    # TCP's retransmission timeout (RFC 5681 §3.1), within an update; again: of a segment that has timed out before.
    cdef void on_retransmission_timeout(self, bint again, double now) noexcept
    # The last reduction of any kind was a mistake as a whole (RFC 4015, RFC 5682).
    cdef void undo(self, double now) noexcept
    # No more than so many octets for now: behind an idle time (RFC 5681 §4.1) or a lost SYN (§3.1).
    cdef void restrict(self, uint64_t window, double now) noexcept
    cdef void set_mss(self, uint32_t mss) noexcept
    # A new path (RFC 9000 §9.4): begin anew.
    cdef void reset(self, double now) noexcept
    cdef bint in_slow_start(self) noexcept


cdef class Pacer:
    # A leaky bucket over window and rate (RFC 9002 §7.7): bursts that segmentation offload can use, never more.
    cdef readonly double rate       # octets per second in force
    cdef readonly uint64_t burst    # octets that may leave at once
    cdef double _tokens
    cdef double _at

    cdef uint64_t budget(self, Controller controller, double now) noexcept   # octets that may leave now
    cdef void on_sent(self, uint64_t size) noexcept                          # after budget at the same time
    cdef double release_at(self, double now) noexcept                        # when the next burst may leave


cdef uint64_t initial_window(uint32_t mss) noexcept         # RFC 9002 §7.2
