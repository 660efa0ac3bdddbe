"""The base of all controllers, and the pacer. Read ``congestion.pxd`` first."""

from libc.stdint cimport uint32_t, uint64_t

cdef double TIMER = 0.001
# Seconds: timers are no finer than this, so that a burst has to last for longer.
cdef double BURST = 0.002
cdef enum:
    SMALLEST_BURST = 10     # packets (RFC 9002 §7.7: the initial window at most)


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

    cdef void set_mss(self, uint32_t mss) noexcept:
        # The window stays; it is never less than the minimum in the new unit.
        self.mss = mss
        if self.window < <uint64_t>2 * mss:
            self.window = <uint64_t>2 * mss

    cdef void reset(self, double now) noexcept:
        self.window = initial_window(self.mss)

    cdef bint in_slow_start(self) noexcept:
        return False


cdef class Pacer:
    cdef uint64_t budget(self, Controller controller, double now) noexcept:
        cdef double smoothed = controller.rtt.smoothed
        if controller.pacing_rate > 0.0:
            self.rate = controller.pacing_rate
        else:
            # A little more than the window in a round trip, so that pacing is never what holds it back; twice as much in
            # slow start, which is to double it.
            if smoothed < 1e-6:
                smoothed = 1e-6
            self.rate = (2.0 if controller.in_slow_start() else 1.25) * <double>controller.window / smoothed
        self.burst = <uint64_t>max(self.rate * BURST, <double>(<uint64_t>SMALLEST_BURST * controller.mss))
        self._tokens += self.rate * (now - self._at) if now > self._at else 0.0
        self._at = now
        if self._tokens > <double>self.burst:
            self._tokens = <double>self.burst
        return <uint64_t>self._tokens if self._tokens > 0.0 else 0

    cdef void on_sent(self, uint64_t size) noexcept:
        self._tokens -= <double>size

    cdef double release_at(self, double now) noexcept:
        # Not for a packet at a time: what a timer's tick is worth, so that they leave together.
        cdef double wanted = min(<double>self.burst, max(self.rate * TIMER, <double>self.burst / 5.0))
        if self._tokens >= wanted or self.rate <= 0.0:
            return now
        return now + (wanted - self._tokens) / self.rate
