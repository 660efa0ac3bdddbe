"""BBRv3. Read draft-ietf-ccwg-bbr §5, whose names are used, and ``bbr.pxd`` first.

Where the draft leaves a choice:

- a CE mark is congestion as a lost packet is (draft §3.6): once a round trip, whatever the number of marks;
- persistent congestion leaves the smallest window, and the model brings it back, a packet for each acknowledged;
- lost ranges in Startup are counted by the updates that tell of losses, as Linux does;
- extra_acked's filter has two halves of five rounds, as Linux's.

Where interactive streams would wait, it deviates:

- ProbeBW_UP ends after one round that has brought nothing but a queue, where nobody else keeps one, as BBRv2 did
  (draft-cardwell-iccrg-bbr-congestion-control-02 §4.3.3.6): three rounds queue up nearly a round trip's worth;
- ProbeRTT's window is reached with a packet sent for two acknowledged, as in recovery (RFC 6937), not in silence.

Where losses are random, it deviates:

- losses end Startup only when the rate does not grow any more, or when they are many (``_is_still_growing``): six of 250
  packets are no proof of a full pipe, and ProbeBW takes long to find the rest;
- a round whose losses LossThresh tolerates lowers the short-term bounds only when the path has delivered less than was
  paced: ``_is_path_slower`` says why.

Pacing and windows are as exact as a double: there is no fixed point.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from .congestion cimport PacketSample, initial_window
from .delivery cimport DeliveryRate
from .mixing cimport mixed
from .rtt cimport RttEstimator

cdef double INFINITY_ = float("inf")
cdef uint64_t UNLIMITED = <uint64_t>0xffffffffffffffff
cdef uint64_t LARGEST_WINDOW = <uint64_t>1 << 30
# Octets, as of the other controllers.
cdef double LARGEST_RATE = 1e12
# Octets per second: beyond any host; a clock that stands still could make us believe more.
cdef double SMALLEST_RATE = 100.0
# Octets per second: a packet has to leave now and then, or nothing would ever show that there is more.

cdef double STARTUP_PACING_GAIN = 2.77
cdef double DRAIN_PACING_GAIN = 0.5
cdef double DOWN_PACING_GAIN = 0.9
cdef double UP_PACING_GAIN = 1.25
cdef double DEFAULT_CWND_GAIN = 2.0
cdef double UP_CWND_GAIN = 2.25
cdef double PROBE_RTT_CWND_GAIN = 0.5
cdef double PACING_MARGIN = 0.99
cdef double LOSS_THRESH = 0.02
cdef double FULL_PIPE_LOSS = 0.1
cdef double BETA = 0.7
cdef double HEADROOM = 0.15
cdef double MIN_RTT_FILTER_LEN = 10.0
cdef double PROBE_RTT_INTERVAL = 5.0
cdef double PROBE_RTT_DURATION = 0.2
cdef double QUANTUM = 0.001     # s of the pacing rate
cdef double OWN_QUEUE = 1.125   # of min_rtt: no longer a round trip before a probe means that nobody else keeps a queue
cdef enum:
    MIN_PIPE = 4                # packets
    STARTUP_FULL_LOSS_COUNT = 6
    EXTRA_ACKED_ROUNDS = 5      # half of ExtraAckedFilterLen
    LARGEST_QUANTUM = 65536     # octets
    MOST_RENO_ROUNDS = 63

_NAMES = ("startup", "drain", "down", "cruise", "refill", "up", "probe-rtt")


cdef class Bbr(DeliveryRate):
    """When it probes is random; the time at which it is made decides how."""

    def __cinit__(self, RttEstimator rtt not None, uint32_t mss, double now=0.0):
        self.name = "bbr"
        memcpy(&self._random, &now, sizeof(self._random))

    def __init__(self, RttEstimator rtt not None, uint32_t mss, double now=0.0):
        self.reset(now)

    cdef void reset(self, double now) noexcept:
        # OnInit
        DeliveryRate.reset(self, now)
        self.window = max(self.window, _min_pipe(self))
        self.pacing_rate = 0.0      # Until an RTT is known, the pacer takes what the window gives.
        self._pacing_begun = False
        self._base = self._next_round_delivered = self._loss_round_delivered = self._delivered
        self._round_count = self._drain_start_round = 0
        self._round_start = self._loss_round_start = False
        self._bw_filter[0] = self._bw_filter[1] = self._bw = 0.0
        self._extra_acked_filter[0] = self._extra_acked_filter[1] = self._extra_acked_delivered = 0.0
        self._extra_acked_round = 0
        self._extra_acked_began = now
        self._min_rtt = self._probe_rtt_min_delay = INFINITY_
        self._min_rtt_at = self._probe_rtt_min_at = now
        self._probe_rtt_expired = self._idle_restart = self._probe_rtt_timed = self._probe_rtt_round_done = False
        self._probe_rtt_done_at = now
        self._prior_window = 0
        self._full_bw_reached = False
        self._inflight_longterm = UNLIMITED
        self._loss_events = 0
        self._marked = False
        self._marked_at = -INFINITY_
        self._former_gain = self._least_gain = INFINITY_
        self._lost_before = self._lost
        self._undo_state = NO_STATE
        self._undo_bw_shortterm = 0.0
        self._undo_inflight_shortterm = self._undo_inflight_longterm = self._undo_losses = 0
        self._undo_from = INFINITY_
        self._ack_phase = ACKS_INIT
        self._cycle_at = now
        self._bw_probe_wait = 0.0
        self._refill_rtt = INFINITY_
        self._rounds_since_probe_up = 0
        self._bw_probe_sample = self._too_high = self._precautionary = False
        self._probe_up_acked_per_inc = UNLIMITED
        self._probe_up_acked = 0
        self._probe_up_rounds = 0
        _reset_congestion_signals(self)
        _reset_short_term_model(self)
        _reset_full_bw(self)
        _enter(self, STARTUP)

    cdef bint in_slow_start(self) noexcept:
        return self._state == STARTUP

    cdef void set_mss(self, uint32_t mss) noexcept:
        DeliveryRate.set_mss(self, mss)
        self.window = max(self.window, _min_pipe(self))

    cdef void on_sent(self, PacketSample* packet, uint64_t in_flight, double now) noexcept:
        if not self._pacing_begun:
            _begin_pacing(self)
        if not in_flight and self._app_limited:
            # HandleRestartFromIdle
            self._idle_restart = True
            self._extra_acked_began = now
            self._extra_acked_delivered = 0.0
            if _is_probing_bw_state(self):
                _set_pacing_rate(self, 1.0)
            elif self._state == PROBE_RTT:
                _check_probe_rtt_done(self, now)
        DeliveryRate.on_sent(self, packet, in_flight, now)

    cdef void on_lost(self, const PacketSample* packet, double now) noexcept:
        # HandleLostPacket
        cdef double lost, in_flight
        DeliveryRate.on_lost(self, packet, now)
        if not packet.in_flight:
            return
        if not self._loss_in_round:
            self._lost_before = self._lost - packet.size
        _note_loss(self)
        self._undo_losses += 1
        self._undo_from = min(self._undo_from, packet.sent_at)
        if not self._bw_probe_sample:
            return
        lost = <double>(self._lost - packet.lost)
        in_flight = <double>packet.in_flight
        if lost > in_flight * LOSS_THRESH:
            _inflight_too_high(self, _inflight_at_loss(packet, lost), packet.app_limited, now)

    cdef void end_update(self, uint64_t in_flight, double now) noexcept:
        # UpdateOnACK
        if not self._pacing_begun:
            _begin_pacing(self)
        self._generate()
        if self._rs.newly_lost:
            self._loss_events += 1
        if self._rs.valid:
            _update_latest_delivery_signals(self)
            _update_round(self)
            _respond_to_marks(self, now)
            _update_congestion_signals(self)
            _update_ack_aggregation(self, now)
            _check_full_bw_reached(self)
            _check_startup_done(self)
            if self._state == DRAIN and (
                in_flight <= _inflight(self, self._bw, 1.0) or self._round_count > self._drain_start_round + 3
            ):
                _enter(self, PROBE_DOWN)
                _start_probe_down(self, now)
            _update_probe_bw_cycle(self, in_flight, now)
            _update_min_rtt(self, now)
            _check_probe_rtt(self, in_flight, now)
            if self._loss_round_start:
                # AdvanceLatestDeliverySignals
                self._bw_latest = self._rs.rate
                self._inflight_latest = self._rs.delivered
                self._loss_events = 0
                self._former_gain = self._least_gain
                self._least_gain = INFINITY_
        self._bw = min(_max_bw(self), self._bw_shortterm)
        self._least_gain = min(self._least_gain, _pacing_gain(self))
        _set_pacing_rate(self, _pacing_gain(self))
        _set_window(self, in_flight)

    cdef void on_persistent_congestion(self, double now) noexcept:
        # OnEnterRTO; the losses are noted already.
        self._undo_state = NO_STATE
        self._undo_losses = 0
        self.window = _min_pipe(self)

    cdef void on_retransmission_timeout(self, bint again, double now) noexcept:
        # OnEnterRTO; what is known of the losses stays, so that it can be undone.
        if not again:
            _save_window(self)
        self.window = _min_pipe(self)

    cdef void undo(self, double now) noexcept:
        self.window = max(self.window, self._prior_window)
        self._undo_losses = min(self._undo_losses, <uint64_t>1)
        self.on_spurious_loss(now, now)

    cdef void on_congestion_marks(self, uint64_t marks, double newest_sent_at, double now) noexcept:
        if marks and newest_sent_at > self._marked_at:
            self._marked_at = now
            self._marked = True

    cdef void on_spurious_loss(self, double sent_at, double now) noexcept:
        # HandleSpuriousLossDetection, when nothing is left of the episode
        if not self._undo_losses or sent_at < self._undo_from:
            return
        self._undo_losses -= 1
        if self._undo_losses:
            return
        self.window = max(self.window, self._prior_window)
        self._loss_in_round = False
        _reset_full_bw(self)
        self._bw_shortterm = max(self._bw_shortterm, self._undo_bw_shortterm)
        self._inflight_shortterm = max(self._inflight_shortterm, self._undo_inflight_shortterm)
        self._inflight_longterm = max(self._inflight_longterm, self._undo_inflight_longterm)
        if self._undo_state == STARTUP and self._state != STARTUP:
            self._full_bw_reached = False
            if self._state != PROBE_RTT:
                _enter(self, STARTUP)
        elif self._undo_state == PROBE_UP and self._state != PROBE_UP and self._state != PROBE_RTT:
            _start_probe_refill(self)
        self._undo_state = NO_STATE

    def set_seed(self, uint64_t seed):
        """For tests and tools: of the randomness from now on."""
        self._random = seed

    @property
    def state(self):
        """For tests and tools: a name of the state."""
        return _NAMES[self._state]

    @property
    def model(self):
        """For tests and tools: max_bw, bw (octets per second) and min_rtt (s)."""
        return _max_bw(self), self._bw, self._min_rtt

    @property
    def bounds(self):
        """For tests and tools: bw_shortterm, inflight_shortterm and inflight_longterm; None: without."""
        return (
            None if self._bw_shortterm == INFINITY_ else self._bw_shortterm,
            None if self._inflight_shortterm == UNLIMITED else self._inflight_shortterm,
            None if self._inflight_longterm == UNLIMITED else self._inflight_longterm,
        )

    @property
    def full_bw_reached(self):
        """For tests and tools: whether the pipe was ever full."""
        return self._full_bw_reached

    @property
    def extra_acked(self):
        """For tests and tools: octets by which acknowledgements are seen to come together."""
        return _extra_acked(self)

    @property
    def round_count(self):
        """For tests and tools: round trips so far."""
        return self._round_count


# States (§5.3).

cdef void _enter(Bbr self, State state) noexcept:
    self._state = state
    if state == PROBE_RTT:
        self._cwnd_gain = PROBE_RTT_CWND_GAIN
    else:
        self._cwnd_gain = UP_CWND_GAIN if state == PROBE_UP else DEFAULT_CWND_GAIN
    if state == DRAIN:
        self._drain_start_round = self._round_count


cdef double _pacing_gain(Bbr self) noexcept:
    if self._state == STARTUP:
        return STARTUP_PACING_GAIN
    if self._state == DRAIN:
        return DRAIN_PACING_GAIN
    if self._state == PROBE_DOWN:
        return DOWN_PACING_GAIN
    return UP_PACING_GAIN if self._state == PROBE_UP else 1.0


cdef bint _is_probing_bw_state(Bbr self) noexcept:
    # IsInAProbeBWState
    return PROBE_DOWN <= self._state <= PROBE_UP


cdef void _check_full_bw_reached(Bbr self) noexcept:
    if self._full_bw_now or not self._round_start or self._rs.app_limited:
        return
    if self._rs.rate >= self._full_bw * 1.25:
        _reset_full_bw(self)
        self._full_bw = self._rs.rate
        return
    self._full_bw_count += 1
    self._full_bw_now = self._full_bw_count >= 3
    if self._full_bw_now:
        self._full_bw_reached = True


cdef void _reset_full_bw(Bbr self) noexcept:
    self._full_bw = 0.0
    self._full_bw_count = 0
    self._full_bw_now = False


cdef void _check_startup_done(Bbr self) noexcept:
    # CheckStartupHighLoss: a whole round of recovery with more loss than is tolerated.
    if self._state != STARTUP:
        return
    if (
        not self._full_bw_reached and self._loss_round_start and self._loss_events >= STARTUP_FULL_LOSS_COUNT
        and _is_loss_too_high(self) and not _is_still_growing(self)
    ):
        _leave_startup(self)
        self._undo_state = STARTUP
    if self._full_bw_reached:
        _enter(self, DRAIN)


cdef bint _is_still_growing(Bbr self) noexcept:
    # The last round has brought a quarter more: what is lost in this one is not yet what a full pipe drops. That would be
    # much, since it is offered 2.77 times what it has carried.
    return not self._full_bw_count and <double>self._rs.lost <= <double>self._rs.in_flight * FULL_PIPE_LOSS


cdef void _leave_startup(Bbr self) noexcept:
    self._full_bw_reached = self._full_bw_now = True
    self._inflight_longterm = max(_bdp(self, _max_bw(self), 1.0), self._inflight_latest)


cdef void _start_probe_down(Bbr self, double now) noexcept:
    _reset_congestion_signals(self)
    self._probe_up_acked_per_inc = UNLIMITED
    # PickProbeWait
    self._rounds_since_probe_up = _next_random(self) >> 63
    self._bw_probe_wait = 2.0 + <double>(_next_random(self) >> 11) / <double>(<uint64_t>1 << 53)
    self._cycle_at = now
    self._ack_phase = ACKS_PROBE_STOPPING
    _start_round(self)
    _enter(self, PROBE_DOWN)


cdef void _start_probe_refill(Bbr self) noexcept:
    _reset_short_term_model(self)
    self._refill_rtt = INFINITY_
    self._probe_up_rounds = 0
    self._probe_up_acked = 0
    self._precautionary = False
    self._ack_phase = ACKS_REFILLING
    _start_round(self)
    _enter(self, PROBE_REFILL)


cdef void _start_probe_up(Bbr self) noexcept:
    self._ack_phase = ACKS_PROBE_STARTING
    _start_round(self)
    _reset_full_bw(self)
    self._full_bw = self._rs.rate
    _enter(self, PROBE_UP)
    _raise_slope(self)


cdef void _update_probe_bw_cycle(Bbr self, uint64_t in_flight, double now) noexcept:
    if not self._full_bw_reached or _adapt_long_term_model(self) or not _is_probing_bw_state(self):
        return
    if self._state == PROBE_DOWN:
        if not _is_time_to_probe(self, now) and in_flight <= _inflight_with_headroom(self) and \
                in_flight <= _inflight(self, _max_bw(self), 1.0):
            _enter(self, PROBE_CRUISE)
    elif self._state == PROBE_CRUISE:
        _is_time_to_probe(self, now)
    elif self._state == PROBE_REFILL:
        if self._rs.rtt >= 0.0:
            self._refill_rtt = min(self._refill_rtt, self._rs.rtt)
        if self._round_start:
            self._bw_probe_sample = True
            _start_probe_up(self)
    elif _is_time_to_go_down(self):
        self._too_high = False      # So far.
        _start_probe_down(self, now)


cdef bint _is_time_to_probe(Bbr self, double now) noexcept:
    # IsTimeToProbeBW, IsRenoCoexistenceProbeTime
    cdef uint64_t rounds = min(_target_inflight(self) // self.mss, <uint64_t>MOST_RENO_ROUNDS)
    if now <= self._cycle_at + self._bw_probe_wait and self._rounds_since_probe_up < rounds:
        return False
    _start_probe_refill(self)
    return True


cdef bint _is_time_to_go_down(Bbr self) noexcept:
    # What was in flight before this update, as in Linux, and as far as whole packets fill it: behind an acknowledgement it
    # is always less.
    if self._too_high and self._rs.prior_in_flight + self.mss > self._inflight_longterm:
        self._precautionary = True
        return True
    if _is_cwnd_limited(self) and self.window >= self._inflight_longterm:
        _reset_full_bw(self)    # inflight_longterm is what holds the rate down.
        self._full_bw = self._rs.rate
        return False
    # BBRv2's rule, where the queue is all our own. Beside others', our share depends on the draft's rounds.
    if (
        self._ack_phase == ACKS_PROBE_FEEDBACK and self._refill_rtt <= OWN_QUEUE * self._min_rtt
        and self._rs.prior_in_flight > _inflight(self, _max_bw(self), UP_PACING_GAIN)
    ):
        return True
    return self._full_bw_now


cdef bint _is_cwnd_limited(Bbr self) noexcept:
    return self._filled or self._former_filled


cdef void _raise_slope(Bbr self) noexcept:
    # RaiseInflightLongtermSlope
    cdef uint64_t growth = <uint64_t>1 << self._probe_up_rounds
    self._probe_up_rounds = min(self._probe_up_rounds + 1, 30)
    self._probe_up_acked_per_inc = max(self.window // growth, <uint64_t>self.mss)


cdef void _probe_inflight_upward(Bbr self) noexcept:
    # ProbeInflightLongtermUpward
    cdef uint64_t delta
    if not _is_cwnd_limited(self) or self.window < self._inflight_longterm:
        return
    self._probe_up_acked += self._rs.newly_acked
    if self._probe_up_acked >= self._probe_up_acked_per_inc:
        delta = self._probe_up_acked // self._probe_up_acked_per_inc
        self._probe_up_acked -= delta * self._probe_up_acked_per_inc
        self._inflight_longterm = min(self._inflight_longterm + delta * self.mss, LARGEST_WINDOW)
    if self._round_start:
        _raise_slope(self)


cdef bint _adapt_long_term_model(Bbr self) noexcept:
    # Whether it has decided on the next state.
    if self._ack_phase == ACKS_PROBE_STARTING and self._round_start:
        self._ack_phase = ACKS_PROBE_FEEDBACK
    if self._ack_phase == ACKS_PROBE_STOPPING and self._round_start:
        self._bw_probe_sample = False
        self._ack_phase = ACKS_INIT
        if _is_probing_bw_state(self):
            if not self._rs.app_limited and self._bw_filter[1] > 0.0:
                # AdvanceMaxBwFilter; what is known is not forgotten before there is something new.
                self._bw_filter[0] = self._bw_filter[1]
                self._bw_filter[1] = 0.0
            if self._precautionary and not self._too_high:
                _start_probe_refill(self)
                return True
    if _is_loss_too_high(self) or self._inflight_longterm == UNLIMITED:
        return False
    if self._rs.in_flight > self._inflight_longterm:
        self._inflight_longterm = self._rs.in_flight
    if self._state == PROBE_UP:
        _probe_inflight_upward(self)
    return False


# ProbeRTT (§5.3.4).

cdef void _update_min_rtt(Bbr self, double now) noexcept:
    self._probe_rtt_expired = now > self._probe_rtt_min_at + PROBE_RTT_INTERVAL
    if self._rs.rtt >= 0.0 and (self._rs.rtt < self._probe_rtt_min_delay or self._probe_rtt_expired):
        self._probe_rtt_min_delay = self._rs.rtt
        self._probe_rtt_min_at = now
    if self._probe_rtt_min_delay < self._min_rtt or now > self._min_rtt_at + MIN_RTT_FILTER_LEN:
        self._min_rtt = self._probe_rtt_min_delay
        self._min_rtt_at = self._probe_rtt_min_at


cdef void _check_probe_rtt(Bbr self, uint64_t in_flight, double now) noexcept:
    if self._state != PROBE_RTT and self._probe_rtt_expired and not self._idle_restart:
        _save_window(self)
        _enter(self, PROBE_RTT)
        self._probe_rtt_timed = False
        self._ack_phase = ACKS_PROBE_STOPPING
        _start_round(self)
    if self._state == PROBE_RTT:
        # HandleProbeRTT. Low rates are ignored meanwhile.
        self.on_app_limited(in_flight)
        if not self._probe_rtt_timed:
            if in_flight <= _probe_rtt_window(self):
                self._probe_rtt_timed = True
                self._probe_rtt_done_at = now + PROBE_RTT_DURATION
                self._probe_rtt_round_done = False
                _start_round(self)
        else:
            if self._round_start:
                self._probe_rtt_round_done = True
            if self._probe_rtt_round_done:
                _check_probe_rtt_done(self, now)
    if self._rs.delivered:
        self._idle_restart = False


cdef void _check_probe_rtt_done(Bbr self, double now) noexcept:
    if not self._probe_rtt_timed or now <= self._probe_rtt_done_at:
        return
    self._probe_rtt_min_at = now
    self.window = max(self.window, self._prior_window)
    # ExitProbeRTT
    _reset_short_term_model(self)
    if self._full_bw_reached:
        _start_probe_down(self, now)
        _enter(self, PROBE_CRUISE)
    else:
        _enter(self, STARTUP)


include "bbr_model.pxi"
include "bbr_control.pxi"
