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


cdef class LossBased(Controller):
    def __init__(self, RttEstimator rtt not None, uint32_t mss, double now=0.0):
        self.reset(now)

    cdef void reset(self, double now) noexcept:
        self.window = initial_window(self.mss)
        self._threshold = UNLIMITED
        self._recovery_began = -INFINITY_
        self._undo.valid = False
        self._round_began = now
        self._round_rtt = self._former_round_rtt = self._baseline_rtt = INFINITY_
        self._round_samples = self._slow_rounds = 0

    cdef bint in_slow_start(self) noexcept:
        return self.window < self._threshold

    cdef void begin_update(self, uint64_t in_flight, double now) noexcept:
        self._acked = 0
        self._lost_now = 0
        self._in_flight = in_flight
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
        cdef bint slow = self.in_slow_start()
        if self._newest_lost > self._recovery_began:
            self._lost_packets = self._lost_now
            _congestion_event(self, now)
            return
        self._lost_packets += self._lost_now
        if not self._acked:
            return
        if slow:
            _observe_round(self, now)
        if not _is_filled(self):
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
        self._threshold = max(self.window // 2, <uint64_t>2 * self.mss)
        self.window = <uint64_t>2 * self.mss
        self._recovery_began = now
        self._undo.valid = False
        self._acked = 0

    cdef void on_congestion_marks(self, uint64_t marks, double newest_sent_at, double now) noexcept:
        if newest_sent_at > self._recovery_began:
            _congestion_event(self, now)
            self._undo.valid = False    # A mark is never a mistake.
            self._acked = 0
            self._newest_lost = -INFINITY_

    cdef void on_spurious_loss(self, double sent_at, double now) noexcept:
        if sent_at > self._recovery_began or not self._undo.valid:
            return
        if self._lost_packets:
            self._lost_packets -= 1
        if not self._lost_packets:
            self._restore()

    cdef void _reduce(self, double now) noexcept:
        pass

    cdef void _grow(self, double now) noexcept:
        pass

    cdef void _restore(self) noexcept:
        self._undo.valid = False
        if self._undo.window > self.window:
            self.window = self._undo.window
        self._threshold = self._undo.threshold
        self._recovery_began = -INFINITY_


cdef bint _is_filled(LossBased self) noexcept:
    # Whether the window is what held the sender back: in slow start half of it is enough, since pacing spreads it.
    if self.in_slow_start():
        return self._in_flight * 2 >= self.window
    return self._in_flight + <uint64_t>3 * self.mss >= self.window or self._in_flight * 4 >= self.window * 3


cdef void _congestion_event(LossBased self, double now) noexcept:
    self._undo.valid = True
    self._undo.window = self.window
    self._undo.threshold = self._threshold
    self._recovery_began = now
    self._slow_rounds = 0
    self._reduce(now)
    if self.window < <uint64_t>2 * self.mss:
        self.window = <uint64_t>2 * self.mss
    self._threshold = self.window


cdef void _observe_round(LossBased self, double now) noexcept:
    # RFC 9406 §4.2 and §4.3. Rounds are told apart by when packets were sent.
    cdef double thresh
    if self._newest_acked >= self._round_began:
        self._former_round_rtt = self._round_rtt
        self._round_rtt = INFINITY_
        self._round_samples = 0
        self._round_began = now
        if self._slow_rounds:
            self._slow_rounds -= 1
            if not self._slow_rounds:
                self._threshold = self.window   # On to congestion avoidance.
                return
    if self.rtt.latest > 0.0:
        self._round_samples += 1
        if self.rtt.latest < self._round_rtt:
            self._round_rtt = self.rtt.latest
    if self._round_samples < N_RTT_SAMPLE or self._round_rtt == INFINITY_ or self._former_round_rtt == INFINITY_:
        return
    if self._slow_rounds:
        if self._round_rtt < self._baseline_rtt:
            self._slow_rounds = 0       # It was jitter: slow start goes on.
            self._baseline_rtt = INFINITY_
        return
    thresh = self._former_round_rtt / MIN_RTT_DIVISOR
    thresh = min(max(thresh, MIN_RTT_THRESH), MAX_RTT_THRESH)
    if self._round_rtt >= self._former_round_rtt + thresh:
        self._baseline_rtt = self._round_rtt
        self._slow_rounds = CSS_ROUNDS


cdef class NewReno(LossBased):
    """RFC 9002 §7."""

    def __cinit__(self, RttEstimator rtt not None, uint32_t mss, double now=0.0):
        self.name = "reno"

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
        self._epoch = -1.0

    cdef void reset(self, double now) noexcept:
        LossBased.reset(self, now)
        self._w_max = 0.0
        self._epoch = -1.0

    cdef void _reduce(self, double now) noexcept:
        cdef double window = <double>self.window
        self._undo.w_max = self._w_max
        self._undo.k = self._k
        self._undo.epoch = self._epoch
        self._undo.w_est = self._w_est
        self._undo.w_est_until = self._w_est_until
        # Fast convergence (§4.7): a window that had not recovered makes room for others.
        self._w_max = window * (1.0 + CUBIC_BETA) / 2.0 if window < self._w_max else window
        self._w_est_until = self.window
        self.window = <uint64_t>(window * CUBIC_BETA)
        self._epoch = -1.0

    cdef void _restore(self) noexcept:
        LossBased._restore(self)
        self._w_max = self._undo.w_max
        self._k = self._undo.k
        self._epoch = self._undo.epoch
        self._w_est = self._undo.w_est
        self._w_est_until = self._undo.w_est_until

    cdef void end_update(self, uint64_t in_flight, double now) noexcept:
        if self._epoch >= 0.0 and not _is_filled(self):
            self._epoch += now - self._updated      # §5.8: time in which it was not tried does not count.
        LossBased.end_update(self, in_flight, now)
        self._updated = now

    cdef void _grow(self, double now) noexcept:
        cdef double window = <double>self.window, segment = <double>self.mss
        cdef double acked = <double>self._acked, t, cubic, target
        if self._epoch < 0.0:
            self._epoch = now
            self._w_est = window
            if self._w_max < window:
                self._w_max = window
                self._k = 0.0
            else:
                self._k = cbrt((self._w_max - window) / segment / CUBIC_C)
        t = now - self._epoch
        self._w_est += (CUBIC_ALPHA if self._w_est < <double>self._w_est_until else 1.0) * segment * acked / window
        cubic = self._w_max + CUBIC_C * segment * (t - self._k) ** 3
        if cubic < self._w_est:
            self.window = <uint64_t>max(window, self._w_est)    # §4.3: no slower than Reno would be.
            return
        t += self.rtt.smoothed
        target = self._w_max + CUBIC_C * segment * (t - self._k) ** 3
        target = min(max(target, window), 1.5 * window)
        self.window = <uint64_t>(window + (target - window) * acked / window)
