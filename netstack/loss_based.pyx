"""Read RFC 9002 §7, RFC 9438 and RFC 9406, whose names are used, and ``loss_based.pxd`` first."""

from libc.math cimport cbrt
from libc.stdint cimport uint32_t, uint64_t

from .congestion cimport Controller, PacketSample, initial_window
from .rtt cimport RttEstimator

cdef double INFINITY_ = float("inf")
cdef uint64_t UNLIMITED = <uint64_t>0xffffffffffffffff
cdef uint64_t LARGEST_WINDOW = <uint64_t>1 << 30
# Octets: more than 8 Gbit/s at 1 s. A bound on what lost acknowledgements could make us believe.
cdef double RENO_BETA = 0.5
cdef double CUBIC_BETA = 0.7
cdef double CUBIC_C = 0.4
cdef double CUBIC_ALPHA = 3.0 * (1.0 - CUBIC_BETA) / (1.0 + CUBIC_BETA)
cdef double MIN_RTT_THRESH = 0.004
cdef double MAX_RTT_THRESH = 0.016
cdef enum:
    MIN_RTT_DIVISOR = 8
    N_RTT_SAMPLE = 8
    CSS_GROWTH_DIVISOR = 4
    CSS_ROUNDS = 5
    MINIMUM = 2     # packets in the smallest window


cdef class LossBased(Controller):
    def __init__(self, RttEstimator rtt not None, uint32_t mss, double now=0.0):
        self.reset(now)

    cdef void reset(self, double now) noexcept:
        self.window = initial_window(self.mss)
        self._threshold = UNLIMITED
        self._recovery_began = self._newest_ever = self._last_sent = self._round_began = -INFINITY_
        self._acked = self._lost_now = self._lost_packets = 0
        self._newest_acked = self._newest_lost = -INFINITY_
        self._undo.valid = False
        self._most = self._former_most = 0
        self._round_rtt = self._former_round_rtt = self._baseline_rtt = INFINITY_
        self._round_samples = self._slow_rounds = 0

    cdef bint in_slow_start(self) noexcept:
        return self.window < self._threshold

    cdef void on_sent(self, PacketSample* packet, uint64_t in_flight, double now) noexcept:
        self._last_sent = now
        if in_flight + packet.size > self._most:
            self._most = in_flight + packet.size

    cdef void begin_update(self, uint64_t in_flight, double now) noexcept:
        self._acked = 0
        self._lost_now = 0
        self._newest_acked = self._newest_lost = -INFINITY_

    cdef void on_acked(self, const PacketSample* packet, double now) noexcept:
        if packet.sent_at > self._newest_acked:
            self._newest_acked = packet.sent_at
        if packet.sent_at > self._recovery_began:
            self._acked += packet.size

    cdef void on_lost(self, const PacketSample* packet, double now) noexcept:
        if packet.sent_at > self._newest_lost:
            self._newest_lost = packet.sent_at
        self._lost_now += 1

    cdef void end_update(self, uint64_t in_flight, double now) noexcept:
        cdef bint new_round = self._newest_acked > self._round_began
        # Only the acknowledgement of what was sent last measures a round trip (RFC 9002 §5.1); a burst shares a time.
        cdef bint measured = self._acked and self._newest_acked >= self._newest_ever
        if measured:
            self._newest_ever = self._newest_acked
        if new_round:
            self._round_began = self._last_sent
            self._former_most = self._most
            self._most = in_flight
        if self._newest_lost > self._recovery_began:
            self._lost_packets = self._lost_now
            _congestion_event(self, now)
            return
        self._lost_packets += self._lost_now
        if self._threshold == UNLIMITED:
            # RFC 9406 §4.3: in the initial slow start only.
            _observe_rtt(self, new_round, measured)
        if not self._acked or not self._is_filled():
            return      # RFC 9002 §7.8
        if self.in_slow_start():
            self.window += self._acked // (CSS_GROWTH_DIVISOR if self._slow_rounds else 1)
            if self.window > self._threshold:
                self.window = self._threshold
        else:
            self._grow(now)
        if self.window > LARGEST_WINDOW:
            self.window = LARGEST_WINDOW

    cdef void on_persistent_congestion(self, double now) noexcept:
        self._newest_lost = -INFINITY_      # One event, not two.
        self._threshold = max(<uint64_t>(<double>self.window * self._beta), <uint64_t>MINIMUM * self.mss)
        self.window = <uint64_t>MINIMUM * self.mss
        self._recovery_began = self._last_sent
        self._undo.valid = False
        self._acked = 0

    cdef void on_retransmission_timeout(self, bint again, double now) noexcept:
        # RFC 5681 §3.1: the threshold comes down once for a segment, however often it times out.
        if not again:
            _remember(self)
            self._lost_packets = self._lost_now
            self._reduce(now)
            self._threshold = max(self.window, <uint64_t>MINIMUM * self.mss)
        self.window = self.mss
        self._recovery_began = self._last_sent
        self._slow_rounds = 0
        self._acked = 0
        self._newest_lost = -INFINITY_      # One event, not two.

    cdef void undo(self, double now) noexcept:
        if self._undo.valid:
            self._restore()

    cdef void restrict(self, uint64_t window, double now) noexcept:
        if window >= self.window:
            return
        if self._threshold != UNLIMITED:
            self._threshold = max(self._threshold, self.window // 4 * 3)    # What was reached is reached again sooner.
        self.window = window

    cdef void on_congestion_marks(self, uint64_t marks, double newest_sent_at, double now) noexcept:
        if marks and newest_sent_at > self._recovery_began:
            _congestion_event(self, now)
            self._undo.valid = False    # A mark is never a mistake.
            self._acked = 0
            self._newest_lost = -INFINITY_

    cdef void on_spurious_loss(self, double sent_at, double now) noexcept:
        # Of the last event alone: what was lost before it says nothing about it.
        if not self._undo.valid or not self._undo.recovery_began < sent_at <= self._recovery_began:
            return
        if self._lost_packets:
            self._lost_packets -= 1
        if not self._lost_packets:
            self._restore()

    cdef bint _is_filled(self) noexcept:
        # At any time in this round or the one before: what is acknowledged now was sent then, and acknowledgements that
        # arrive together do not make it less. In slow start half of the window is enough, since pacing spreads it.
        cdef uint64_t most = max(self._most, self._former_most)
        if self.in_slow_start():
            return most * 2 >= self.window
        return most + <uint64_t>3 * self.mss >= self.window or most * 4 >= self.window * 3

    cdef void _reduce(self, double now) noexcept:
        pass

    cdef void _grow(self, double now) noexcept:
        pass

    cdef void _restore(self) noexcept:
        self._undo.valid = False
        if self._undo.window > self.window:
            self.window = self._undo.window
        self._threshold = self._undo.threshold
        self._recovery_began = self._undo.recovery_began

    @property
    def threshold(self):
        """For tests and tools: octets at which slow start ends, None: it has no end yet."""
        return None if self._threshold == UNLIMITED else self._threshold

    @property
    def slow_start(self):
        """For tests and tools: "no", "yes", or "conservative" (RFC 9406)."""
        if not self.in_slow_start():
            return "no"
        return "conservative" if self._slow_rounds else "yes"


cdef void _remember(LossBased self) noexcept:
    self._undo.valid = True
    self._undo.window = self.window
    self._undo.threshold = self._threshold
    self._undo.recovery_began = self._recovery_began


cdef void _congestion_event(LossBased self, double now) noexcept:
    _remember(self)
    self._recovery_began = self._last_sent
    self._slow_rounds = 0
    self._reduce(now)
    if self.window < <uint64_t>MINIMUM * self.mss:
        self.window = <uint64_t>MINIMUM * self.mss
    self._threshold = self.window


cdef void _observe_rtt(LossBased self, bint new_round, bint measured) noexcept:
    # RFC 9406 §4.2.
    cdef double thresh
    if new_round:
        self._former_round_rtt = self._round_rtt
        self._round_rtt = INFINITY_
        self._round_samples = 0
        if self._slow_rounds:
            self._slow_rounds -= 1
            if not self._slow_rounds:
                self._threshold = self.window   # On to congestion avoidance.
                return
    if not measured:
        return
    self._round_samples += 1
    if self.rtt.latest < self._round_rtt:
        self._round_rtt = self.rtt.latest
    if self._round_samples < N_RTT_SAMPLE:
        return
    if self._slow_rounds:
        if self._round_rtt < self._baseline_rtt:
            self._slow_rounds = 0       # It was jitter: slow start goes on.
            self._baseline_rtt = INFINITY_
        return
    thresh = self._former_round_rtt / MIN_RTT_DIVISOR
    thresh = min(max(thresh, MIN_RTT_THRESH), MAX_RTT_THRESH)
    # False while there is no former round: its RTT is infinite then.
    if self._round_rtt >= self._former_round_rtt + thresh:
        self._baseline_rtt = self._round_rtt
        self._slow_rounds = CSS_ROUNDS


cdef class NewReno(LossBased):
    """RFC 9002 §7."""

    def __cinit__(self, RttEstimator rtt not None, uint32_t mss, double now=0.0):
        self.name = "reno"
        self._beta = RENO_BETA

    cdef void reset(self, double now) noexcept:
        LossBased.reset(self, now)
        self._counted = 0

    cdef void _reduce(self, double now) noexcept:
        self.window = <uint64_t>(<double>self.window * RENO_BETA)
        self._counted = 0

    cdef void _grow(self, double now) noexcept:
        self._counted += self._acked
        if self._counted >= self.window:
            self._counted -= self.window
            self.window += self.mss


cdef class Cubic(LossBased):
    """RFC 9438."""

    def __cinit__(self, RttEstimator rtt not None, uint32_t mss, double now=0.0):
        self.name = "cubic"
        self._beta = CUBIC_BETA

    cdef void reset(self, double now) noexcept:
        LossBased.reset(self, now)
        self._w_max = self._w_est = self._w_est_until = self._fraction = 0.0
        self._epoch_begun = False
        self._updated = now

    cdef void on_sent(self, PacketSample* packet, uint64_t in_flight, double now) noexcept:
        if not in_flight:
            _stand_still(self, now)     # It was idle.
        LossBased.on_sent(self, packet, in_flight, now)

    cdef void end_update(self, uint64_t in_flight, double now) noexcept:
        if not self._is_filled():
            _stand_still(self, now)
        LossBased.end_update(self, in_flight, now)
        self._updated = now

    cdef void on_persistent_congestion(self, double now) noexcept:
        # §4.8: the next stage begins with its own window as W_max, and K = 0.
        LossBased.on_persistent_congestion(self, now)
        self._w_max = 0.0
        self._epoch_begun = False

    cdef void _reduce(self, double now) noexcept:
        cdef double window = <double>self.window
        self._undo.w_max = self._w_max
        self._undo.k = self._k
        self._undo.epoch = self._epoch
        self._undo.epoch_begun = self._epoch_begun
        self._undo.w_est = self._w_est
        self._undo.w_est_until = self._w_est_until
        # Fast convergence (§4.7): a window that had not recovered makes room for others.
        self._w_max = window * (1.0 + CUBIC_BETA) / 2.0 if window < self._w_max else window
        self._w_est_until = window
        self.window = <uint64_t>(window * CUBIC_BETA)
        self._epoch_begun = False

    cdef void _restore(self) noexcept:
        # §4.9.2
        LossBased._restore(self)
        self._w_max = self._undo.w_max
        self._k = self._undo.k
        self._epoch = self._undo.epoch
        self._epoch_begun = self._undo.epoch_begun
        self._w_est = self._undo.w_est
        self._w_est_until = self._undo.w_est_until

    cdef void _grow(self, double now) noexcept:
        cdef double window = <double>self.window, segment = <double>self.mss
        cdef double acked = min(<double>self._acked, window), t, target
        if not self._epoch_begun:
            self._epoch_begun = True
            self._epoch = now
            self._w_est = window
            self._fraction = 0.0
            if self._w_max <= window:
                # §4.10 behind slow start, §4.8 behind a timeout.
                self._w_max = window
                self._k = 0.0
            else:
                self._k = cbrt((self._w_max - window) / segment / CUBIC_C)
        t = now - self._epoch
        self._w_est += (CUBIC_ALPHA if self._w_est < self._w_est_until else 1.0) * segment * acked / window
        if _w_cubic(self, t) < self._w_est:
            window = max(window + self._fraction, self._w_est)      # §4.3: no slower than Reno would be.
        else:
            # §4.2: a target between the window and half as much again, a round trip ahead.
            target = min(max(_w_cubic(self, t + self.rtt.smoothed), window), 1.5 * window)
            window += self._fraction + (target - window) * acked / window
        window = min(window, <double>LARGEST_WINDOW)
        self.window = <uint64_t>window
        self._fraction = window - <double>self.window

    def w_cubic(self, double t):
        """For tests and tools: octets, t seconds after this congestion avoidance stage began."""
        return _w_cubic(self, t)

    @property
    def curve(self):
        """For tests and tools: W_max (octets), K (s) and W_est (octets)."""
        return self._w_max, self._k, self._w_est


cdef double _w_cubic(Cubic self, double t) noexcept:
    cdef double distance = t - self._k
    return self._w_max + CUBIC_C * <double>self.mss * distance * distance * distance


cdef void _stand_still(Cubic self, double now) noexcept:
    # §5.8: time in which the window was not put to the test does not count.
    if self._epoch_begun and now > self._updated:
        self._epoch += now - self._updated
    self._updated = now
