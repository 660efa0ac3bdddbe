"""Read draft-ietf-ccwg-bbr §4.1, whose names are used, and ``delivery.pxd`` first."""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from .congestion cimport Controller, PacketSample


cdef class DeliveryRate(Controller):
    cdef void reset(self, double now) noexcept:
        # Octets delivered and lost count on: packets remember them.
        Controller.reset(self, now)
        self._delivered_at = self._first_sent_at = now
        self._app_limited = 0
        self._filled = self._former_filled = False
        memset(&self._rs, 0, sizeof(RateSample))

    cdef void on_sent(self, PacketSample* packet, uint64_t in_flight, double now) noexcept:
        if not in_flight:
            self._first_sent_at = self._delivered_at = now
        packet.first_sent_at = self._first_sent_at
        packet.delivered_at = self._delivered_at
        packet.delivered = self._delivered
        packet.lost = self._lost
        packet.app_limited = self._app_limited != 0
        packet.in_flight = in_flight + packet.size
        if packet.in_flight + self.mss > self.window:
            self._filled = True

    cdef void on_app_limited(self, uint64_t in_flight) noexcept:
        self._app_limited = max(self._delivered + in_flight, <uint64_t>1)

    cdef void begin_update(self, uint64_t in_flight, double now) noexcept:
        memset(&self._rs, 0, sizeof(RateSample))
        self._rs.rtt = -1.0
        self._rs.prior_in_flight = in_flight

    cdef void on_acked(self, const PacketSample* packet, double now) noexcept:
        self._delivered += packet.size
        self._delivered_at = now
        self._rs.newly_acked += packet.size
        if not packet.in_flight:
            return      # on_sent was not told of it: a probe of the path's MTU.
        # Of packets that left together, the one behind which most was in flight is the newest.
        if self._rs.valid and (
            packet.sent_at < self._rs.sent_at
            or (packet.sent_at == self._rs.sent_at and packet.in_flight <= self._rs.in_flight)
        ):
            return
        self._rs.valid = True
        self._rs.sent_at = packet.sent_at
        self._rs.app_limited = packet.app_limited
        self._rs.prior_delivered = packet.delivered
        self._rs.prior_lost = packet.lost
        self._rs.in_flight = packet.in_flight
        self._rs.send_elapsed = packet.sent_at - packet.first_sent_at
        self._rs.ack_elapsed = now - packet.delivered_at
        self._rs.rtt = now - packet.sent_at

    cdef void on_lost(self, const PacketSample* packet, double now) noexcept:
        self._lost += packet.size
        self._rs.newly_lost += packet.size

    cdef void _generate(self) noexcept:
        cdef double interval = max(self._rs.send_elapsed, self._rs.ack_elapsed)
        if self._app_limited and self._delivered > self._app_limited:
            self._app_limited = 0       # The bubble has passed.
        if not self._rs.valid:
            return
        self._first_sent_at = max(self._first_sent_at, self._rs.sent_at)    # Reordered packets do not set it back.
        self._rs.delivered = self._delivered - self._rs.prior_delivered
        self._rs.lost = self._lost - self._rs.prior_lost
        # What took less than any round trip did, cannot be right.
        if interval > 0.0 and interval >= self.rtt.minimum:
            self._rs.rate = <double>self._rs.delivered / interval

    @property
    def delivery_rate(self):
        """For tests and tools: the last sample, octets per second, 0: there was none in the last update."""
        return self._rs.rate

    @property
    def sample_app_limited(self):
        """For tests and tools: whether the application held the last sample down."""
        return self._rs.app_limited
