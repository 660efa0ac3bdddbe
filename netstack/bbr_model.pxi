# The model of the path (draft-ietf-ccwg-bbr §5.5), and dice: a part of ``bbr.pyx``, which includes it.


cdef void _update_round(Bbr self) noexcept:
    self._round_start = self._rs.prior_delivered >= self._next_round_delivered
    if self._round_start:
        _start_round(self)
        self._round_count += 1
        self._rounds_since_probe_up += 1
        self._former_filled = self._filled
        self._filled = False


cdef void _start_round(Bbr self) noexcept:
    self._next_round_delivered = self._delivered


cdef double _max_bw(Bbr self) noexcept:
    return max(self._bw_filter[0], self._bw_filter[1])


cdef void _update_ack_aggregation(Bbr self, double now) noexcept:
    cdef double expected = self._bw * (now - self._extra_acked_began), extra
    if self._extra_acked_delivered <= expected:
        self._extra_acked_delivered = 0.0
        self._extra_acked_began = now
        expected = 0.0
    self._extra_acked_delivered += <double>self._rs.newly_acked
    extra = min(self._extra_acked_delivered - expected, <double>self.window)
    if self._round_start and self._round_count - self._extra_acked_round >= \
            <uint64_t>(EXTRA_ACKED_ROUNDS if self._full_bw_reached else 1):
        self._extra_acked_round = self._round_count
        self._extra_acked_filter[0] = self._extra_acked_filter[1]
        self._extra_acked_filter[1] = 0.0
    self._extra_acked_filter[1] = max(self._extra_acked_filter[1], extra)


cdef double _extra_acked(Bbr self) noexcept:
    return max(self._extra_acked_filter[0], self._extra_acked_filter[1])


# Loss (§5.5.10).

cdef bint _is_loss_too_high(Bbr self) noexcept:
    # IsInflightTooHigh, of the newest packet acknowledged
    return <double>self._rs.lost > <double>self._rs.in_flight * LOSS_THRESH


cdef uint64_t _inflight_at_loss(const PacketSample* packet, double lost) noexcept:
    # At what volume the losses crossed LossThresh.
    cdef double before = <double>packet.in_flight - <double>packet.size
    cdef double prefix = (LOSS_THRESH * before - (lost - <double>packet.size)) / (1.0 - LOSS_THRESH)
    return <uint64_t>(before + max(prefix, 0.0))


cdef void _inflight_too_high(Bbr self, uint64_t in_flight, bint app_limited, double now) noexcept:
    self._too_high = True
    self._bw_probe_sample = False   # Once a probe.
    if not app_limited:
        self._inflight_longterm = max(in_flight, <uint64_t>(<double>_target_inflight(self) * BETA))
    if self._state == PROBE_UP:
        self._undo_state = PROBE_UP
        _start_probe_down(self, now)


cdef void _note_loss(Bbr self) noexcept:
    if not self._loss_in_round:
        self._loss_round_delivered = self._delivered
        # SaveStateUponLoss
        _save_window(self)
        self._undo_state = NO_STATE
        self._undo_bw_shortterm = self._bw_shortterm
        self._undo_inflight_shortterm = self._inflight_shortterm
        self._undo_inflight_longterm = self._inflight_longterm
        self._undo_losses = 0
        self._undo_from = INFINITY_
    self._loss_in_round = True


cdef void _respond_to_marks(Bbr self, double now) noexcept:
    if not self._marked:
        return
    self._marked = False
    _note_loss(self)
    self._undo_losses = 0           # A mark is never a mistake.
    if self._state == STARTUP:
        _leave_startup(self)
    elif self._bw_probe_sample:
        _inflight_too_high(self, self._rs.in_flight, self._rs.app_limited, now)


cdef void _update_latest_delivery_signals(Bbr self) noexcept:
    self._loss_round_start = False
    self._bw_latest = max(self._bw_latest, self._rs.rate)
    self._inflight_latest = max(self._inflight_latest, self._rs.delivered)
    if self._rs.prior_delivered >= self._loss_round_delivered:
        self._loss_round_delivered = self._delivered
        self._loss_round_start = True


cdef void _reset_congestion_signals(Bbr self) noexcept:
    self._loss_in_round = False
    self._bw_latest = 0.0
    self._inflight_latest = 0


cdef void _reset_short_term_model(Bbr self) noexcept:
    self._bw_shortterm = INFINITY_
    self._inflight_shortterm = UNLIMITED


cdef void _update_congestion_signals(Bbr self) noexcept:
    # UpdateMaxBw: what the application held down counts only when it is more all the same.
    if self._rs.rate > 0.0 and (self._rs.rate >= _max_bw(self) or not self._rs.app_limited):
        self._bw_filter[1] = max(self._bw_filter[1], min(self._rs.rate, LARGEST_RATE))
    if not self._loss_round_start:
        return
    # AdaptLowerBoundsFromCongestion, unless this is a probe
    if self._loss_in_round and self._state != STARTUP and self._state != PROBE_REFILL and self._state != PROBE_UP:
        if self._bw_shortterm == INFINITY_:
            self._bw_shortterm = _max_bw(self)
        if self._inflight_shortterm == UNLIMITED:
            self._inflight_shortterm = self.window
        self._bw_shortterm = max(self._bw_latest, BETA * self._bw_shortterm)
        self._inflight_shortterm = max(
            self._inflight_latest, <uint64_t>(BETA * <double>self._inflight_shortterm)
        )
    self._loss_in_round = False


cdef uint64_t _next_random(Bbr self) noexcept:
    # SplitMix64 (Steele, Lea and Flood, 2014): wrapping is defined, for it is unsigned.
    cdef uint64_t mixed
    self._random += <uint64_t>0x9e3779b97f4a7c15
    mixed = self._random
    mixed = (mixed ^ (mixed >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    mixed = (mixed ^ (mixed >> 27)) * <uint64_t>0x94d049bb133111eb
    return mixed ^ (mixed >> 31)
