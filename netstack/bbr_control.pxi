# What comes of the model (draft-ietf-ccwg-bbr §5.6): a part of ``bbr.pyx``, which includes it.


cdef void _begin_pacing(Bbr self) noexcept:
    # InitPacingRate, as soon as there is an RTT.
    if self.rtt.sampled:
        self._pacing_begun = True
        self.pacing_rate = STARTUP_PACING_GAIN * <double>initial_window(self.mss) / max(self.rtt.smoothed, 1e-6)


cdef void _set_pacing_rate(Bbr self, double gain) noexcept:
    cdef double rate = gain * self._bw * PACING_MARGIN
    if not self._pacing_begun or self._bw <= 0.0:
        return
    if self._full_bw_reached or rate > self.pacing_rate:
        self.pacing_rate = min(max(rate, SMALLEST_RATE), LARGEST_RATE)


cdef uint64_t _min_pipe(Bbr self) noexcept:
    return <uint64_t>MIN_PIPE * self.mss


cdef uint64_t _bdp(Bbr self, double bw, double gain) noexcept:
    # BDPMultiple
    if self._min_rtt == INFINITY_:
        return initial_window(self.mss)
    return <uint64_t>min(gain * bw * self._min_rtt, <double>LARGEST_WINDOW)


cdef uint64_t _quantized(Bbr self, uint64_t volume) noexcept:
    # QuantizationBudget; the offload budget is the send quantum
    cdef double quantum = min(self.pacing_rate * QUANTUM, <double>LARGEST_QUANTUM)
    volume = max(max(volume, <uint64_t>quantum), _min_pipe(self))
    if self._state == PROBE_UP:
        volume += <uint64_t>2 * self.mss
    return volume


cdef uint64_t _inflight(Bbr self, double bw, double gain) noexcept:
    return _quantized(self, _bdp(self, bw, gain))


cdef uint64_t _target_inflight(Bbr self) noexcept:
    return min(_bdp(self, self._bw, 1.0), self.window)


cdef uint64_t _inflight_with_headroom(Bbr self) noexcept:
    cdef uint64_t headroom
    if self._inflight_longterm == UNLIMITED:
        return UNLIMITED
    headroom = max(<uint64_t>self.mss, <uint64_t>(HEADROOM * <double>self._inflight_longterm))
    if self._inflight_longterm <= headroom:
        return _min_pipe(self)
    return max(self._inflight_longterm - headroom, _min_pipe(self))


cdef uint64_t _probe_rtt_window(Bbr self) noexcept:
    return max(_bdp(self, self._bw, PROBE_RTT_CWND_GAIN), _min_pipe(self))


cdef void _save_window(Bbr self) noexcept:
    if not self._loss_in_round and self._state != PROBE_RTT:
        self._prior_window = self.window
    else:
        self._prior_window = max(self._prior_window, self.window)


cdef void _set_window(Bbr self, uint64_t in_flight) noexcept:
    cdef uint64_t most = _quantized(
        self, _bdp(self, self._bw, self._cwnd_gain) + <uint64_t>_extra_acked(self)
    )
    cdef uint64_t cap = _probe_rtt_window(self)
    if self._state == PROBE_RTT and not self._probe_rtt_timed:
        # BoundCwndForProbeRTT, but in steps.
        cap = max(cap, in_flight + self._rs.newly_acked // 2)
        most = max(most, cap)
    if self._full_bw_reached:
        self.window = min(self.window + self._rs.newly_acked, most)
    elif self.window < most or self._delivered - self._base < initial_window(self.mss):
        self.window += self._rs.newly_acked
    self.window = min(max(self.window, _min_pipe(self)), LARGEST_WINDOW)
    if self._state == PROBE_RTT:
        self.window = min(self.window, cap)
    # BoundCwndForModel
    cap = UNLIMITED
    if self._state == PROBE_RTT or self._state == PROBE_CRUISE:
        cap = _inflight_with_headroom(self)
    elif _is_probing_bw_state(self):
        cap = self._inflight_longterm
    cap = max(min(cap, self._inflight_shortterm), _min_pipe(self))
    self.window = min(self.window, cap)


cdef uint64_t _next_random(Bbr self) noexcept:
    # SplitMix64: wrapping is defined, for it is unsigned.
    self._random += <uint64_t>0x9e3779b97f4a7c15
    return mixed(self._random)
