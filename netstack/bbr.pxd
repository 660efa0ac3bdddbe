"""BBRv3 (draft-ietf-ccwg-bbr): a controller with a model of the path, which random loss does not slow down."""

from libc.stdint cimport uint32_t, uint64_t

from .delivery cimport DeliveryRate


cdef enum State:
    STARTUP
    DRAIN
    PROBE_DOWN
    PROBE_CRUISE
    PROBE_REFILL
    PROBE_UP
    PROBE_RTT
    NO_STATE    # nothing to return to


cdef enum AckPhase:
    ACKS_INIT
    ACKS_REFILLING
    ACKS_PROBE_STARTING
    ACKS_PROBE_FEEDBACK
    ACKS_PROBE_STOPPING


cdef class Bbr(DeliveryRate):
    cdef State _state
    cdef double _cwnd_gain
    cdef uint64_t _random           # state of the generator

    # Rounds.
    cdef uint64_t _base             # octets delivered before the path was this one
    cdef uint64_t _next_round_delivered
    cdef uint64_t _round_count
    cdef bint _round_start
    cdef uint64_t _drain_start_round

    # The model: rates in octets per second, volumes in octets.
    cdef double _bw_filter[2]       # max_bw of the former and of this cycle
    cdef double _bw
    cdef double _bw_shortterm
    cdef double _bw_latest
    cdef uint64_t _inflight_longterm
    cdef uint64_t _inflight_shortterm
    cdef uint64_t _inflight_latest
    cdef double _extra_acked_filter[2]
    cdef uint64_t _extra_acked_round
    cdef double _extra_acked_began  # s
    cdef double _extra_acked_delivered
    cdef double _min_rtt            # s
    cdef double _min_rtt_at
    cdef double _probe_rtt_min_delay
    cdef double _probe_rtt_min_at
    cdef bint _probe_rtt_expired
    cdef bint _pacing_begun         # whether pacing_rate has begun with an RTT that was measured

    # Is the pipe full?
    cdef bint _full_bw_reached
    cdef bint _full_bw_now
    cdef double _full_bw
    cdef int _full_bw_count

    # Loss.
    cdef bint _loss_in_round
    cdef bint _marks_in_round
    cdef bint _loss_round_start
    cdef uint64_t _loss_round_delivered
    cdef uint64_t _lost_before      # octets lost before the first loss of this round
    cdef double _least_gain         # of pacing, since the present round of loss began
    cdef double _former_gain        # of the one before: what was sent in it is delivered in this one
    cdef int _loss_events           # updates in this round that told of losses
    cdef bint _marked               # newly marked as having experienced congestion
    cdef double _marked_at          # s: marks of packets sent before are part of the same event
    cdef State _undo_state
    cdef double _undo_bw_shortterm
    cdef uint64_t _undo_inflight_shortterm
    cdef uint64_t _undo_inflight_longterm
    cdef uint64_t _undo_losses      # packets of the episode that are lost still
    cdef double _undo_from          # s, when the first of them was sent

    # ProbeBW.
    cdef AckPhase _ack_phase
    cdef double _cycle_at           # s
    cdef double _refill_rtt         # s, the least of the last refill
    cdef double _bw_probe_wait      # s
    cdef uint64_t _rounds_since_probe_up
    cdef bint _bw_probe_sample
    cdef bint _too_high             # the last probe went too high
    cdef bint _precautionary        # and this one stopped where that one did
    cdef uint64_t _probe_up_acked_per_inc
    cdef uint64_t _probe_up_acked
    cdef int _probe_up_rounds

    # ProbeRTT.
    cdef uint64_t _prior_window
    cdef bint _idle_restart
    cdef bint _probe_rtt_timed
    cdef double _probe_rtt_done_at  # s
    cdef bint _probe_rtt_round_done
