"""The base of all controllers, and the pacer. Read RFC 9002 §7.2 and §7.7, and ``congestion.pxd`` first."""

from libc.stdint cimport uint32_t, uint64_t

from .rtt cimport RttEstimator

cdef double BURST = 0.002
# Seconds of the rate in force. Event loops' timers are no finer than 1 ms: a burst has to last for longer than that, or
# the rate is never reached; and at high rates it is what segmentation offload wants.
cdef double SHORTEST_RTT = 1e-6
# Seconds: what the window is divided by is never 0.
cdef enum:
    SMALLEST_BURST = 2      # packets


cdef uint64_t initial_window(uint32_t mss) noexcept:
    return min(<uint64_t>10 * mss, max(<uint64_t>2 * mss, <uint64_t>14720))


cdef class Controller:
    """rtt: the path's. mss: octets of a full-sized packet. Use a subclass."""

    def __cinit__(self, RttEstimator rtt not None, uint32_t mss, double now=0.0):
        self.rtt = rtt
        self.mss = mss
        self.window = initial_window(mss)

    cdef void on_sent(self, PacketSample* packet, uint64_t in_flight, double now) noexcept:
        pass

    cdef void on_app_limited(self, uint64_t in_flight) noexcept:
        pass

    cdef void begin_update(self, uint64_t in_flight, double now) noexcept:
        pass

    cdef void on_acked(self, const PacketSample* packet, double now) noexcept:
        pass

    cdef void on_lost(self, const PacketSample* packet, double now) noexcept:
        pass

    cdef void end_update(self, uint64_t in_flight, double now) noexcept:
        pass

    cdef void on_persistent_congestion(self, double now) noexcept:
        pass

    cdef void on_congestion_marks(self, uint64_t marks, double newest_sent_at, double now) noexcept:
        pass

    cdef void on_spurious_loss(self, double sent_at, double now) noexcept:
        pass

    cdef void on_retransmission_timeout(self, bint again, double now) noexcept:
        pass

    cdef void undo(self, double now) noexcept:
        pass

    cdef void restrict(self, uint64_t window, double now) noexcept:
        pass

    cdef void set_mss(self, uint32_t mss) noexcept:
        # A window that has not moved yet is the initial one in the new unit (RFC 9002 §7.2); any other stays, above the
        # minimum.
        if self.window == initial_window(self.mss):
            self.window = initial_window(mss)
        self.mss = mss
        if self.window < <uint64_t>2 * mss:
            self.window = <uint64_t>2 * mss

    cdef void reset(self, double now) noexcept:
        self.window = initial_window(self.mss)

    cdef bint in_slow_start(self) noexcept:
        return False


cdef class Pacer:
    """Make one for each path, for good: what has been sent lately counts whatever the controller."""

    cdef uint64_t budget(self, Controller controller, double now) noexcept:
        cdef double smoothed = max(controller.rtt.smoothed, SHORTEST_RTT)
        cdef double elapsed = now - self._at
        cdef double most
        cdef bint unused = not self.burst       # Until the first call.
        if controller.pacing_rate > 0.0:
            self.rate = controller.pacing_rate
        else:
            # A little more than the window in a round trip, so that pacing is never what holds it back; twice as much in
            # slow start, which is to double it.
            self.rate = (2.0 if controller.in_slow_start() else 1.25) * <double>controller.window / smoothed
        self.burst = <uint64_t>max(self.rate * BURST, <double>(<uint64_t>SMALLEST_BURST * controller.mss))
        most = max(<double>self.burst, <double>initial_window(controller.mss))
        if unused or elapsed >= smoothed + max(<double>self.burst - self._tokens, 0.0) / self.rate:
            # The bucket has been full for a round trip: what a new connection may send at once (RFC 9002 §7.7).
            self._tokens = most
        elif self._tokens > most:
            self._tokens = most     # The rate has fallen.
        elif elapsed > 0.0 and self._tokens < <double>self.burst:
            self._tokens = min(<double>self.burst, self._tokens + self.rate * elapsed)
        self._at = now
        # Half an octet of grace: the clock's last digit must not keep a packet back at the very time it was promised.
        return <uint64_t>(self._tokens + 0.5) if self._tokens > 0.0 else 0

    cdef void on_sent(self, uint64_t size) noexcept:
        self._tokens -= <double>size

    cdef double release_at(self, double now) noexcept:
        # Not for a packet at a time: half a burst, so that they leave together, and a timer that is late loses nothing.
        cdef double missing = <double>(self.burst // 2) - self._tokens
        if missing <= 0.5 or self.rate <= 0.0:
            return now
        return now + missing / self.rate

    def octets(self, Controller controller not None, double now):
        """For tests and tools: what may leave now."""
        return self.budget(controller, now)

    def sent(self, uint64_t size):
        """For tests and tools: size octets have left."""
        self.on_sent(size)

    def next_at(self, double now):
        """For tests and tools: when the next burst may leave, s."""
        return self.release_at(now)
