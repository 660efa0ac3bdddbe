"""Losses. Read RFC 8985, whose names are used, and ``core`` first.

Instead of by the time of sending and the sequence number, segments are compared by their order of departure, which is what
the two stand for. The list of those in flight is in that order, so that only its head is looked at: what a reordering window
is waited for is the first that has not expired, and the timer comes again for the next.
"""

from libc.stdint cimport int32_t, int64_t, uint64_t

from .core cimport OPEN, TAIL_PROBE, Core
from .header cimport Header
from .segments cimport LOST, NO_SEGMENT, PROBE, RESENT, Segment

cdef double NEVER = float("inf")
cdef double GRACE = 1e-6
# Seconds: sums of times are not exact, and a timer must not come for nothing.
cdef double WORST_DELAY = 0.2       # WCDelAckT
cdef double FIRST_PTO = 1.0
cdef enum:
    DUPLICATES = 3                  # DupThresh
    PERSIST = 16                    # recoveries


cdef class Rack(Core):
    cdef int on_delivered(self, Segment* segment, const Header* header, double now) except -1:
        # RACK_update, RACK_detect_reordering.
        cdef int64_t end = segment.offset + segment.size
        cdef double rtt = now - segment.sample.sent_at
        self._delivered += segment.size
        if segment.marks & LOST:
            self.controller.on_spurious_loss(segment.sample.sent_at, now)
        else:
            self.controller.on_acked(&segment.sample, now)
        if segment.marks & PROBE and segment.sample.size > self._probe_passed:
            self._probe_passed = segment.sample.size
        if segment.marks & RESENT:
            # Which of them has arrived? Not the last, if the peer has seen no later clock, or if it was too fast.
            if header.stamped:
                if <int32_t>(header.ts_echo - segment.stamp) < 0:
                    return 0
            elif rtt < self.rtt.minimum:
                return 0
        else:
            if segment.times == 1:
                if end <= self.recovery_point:
                    self._original_delivered = True
                if not self._timed or segment.sample.sent_at > self._timed_sent_at:
                    self._timed = True
                    self._timed_sent_at = segment.sample.sent_at
            if end < self.rack_fack:
                self.reordering_seen = True
        if end > self.rack_fack:
            self.rack_fack = end
        if segment.order >= self.rack_order:
            self.rack_order = segment.order + 1
            self.rack_rtt = rtt
            self.rack_sent_at = segment.sample.sent_at
        return 0

    cdef void on_duplicate_told(self) noexcept:
        # RACK_update_reo_wnd: more patience, once in a round trip.
        self.traffic.duplicates_told += 1
        self._told_duplicate = True
        if self.reo_round < 0:
            self.reo_round = self.snd_nxt
            self.reo_wnd_mult += 1
            self.reo_persist = PERSIST
        if self.undo_possible and self.undo_resent > 0:
            self.undo_resent -= 1

    cdef double reordering_window(self) noexcept:
        cdef double window
        if not self.reordering_seen and (self.repair != OPEN or self.segments.sacked_count >= DUPLICATES):
            return 0.0
        window = self.rtt.minimum / 4.0 * <double>self.reo_wnd_mult
        return window if window < self.rtt.smoothed else self.rtt.smoothed

    cdef int detect_lost(self, double now) except -1:
        # RACK_detect_loss.
        cdef uint64_t number
        cdef Segment* segment
        cdef double expires, patience
        self.reorder_at = NEVER
        if not self.rack_order or not self.sacking:
            return 0
        patience = self.rack_rtt + self.reordering_window()
        while True:
            number = self.segments.oldest
            if number == NO_SEGMENT:
                return 0
            segment = self.segments.get(number)
            if segment.order >= self.rack_order:
                return 0
            expires = segment.sample.sent_at + patience
            if expires > now + GRACE:
                self.reorder_at = expires
                return 0
            self.lose(number, now)

    cdef int lose(self, uint64_t number, double now) except -1:
        cdef Segment* segment = self.segments.get(number)
        self.segments.mark_lost(number)
        if segment.marks & PROBE:
            segment.marks &= ~PROBE & 0xff
            return self.mtu_probe_lost(segment.size, now)
        self._newly_lost += 1
        self.controller.on_lost(&segment.sample, now)
        return 0

    # The tail loss probe.

    cdef int schedule_tail_probe(self, double now) except -1:
        # TLP_calc_PTO. Only where RACK can make something of the answer, and nothing is known to be missing.
        cdef double pto = FIRST_PTO
        self.tlp_at = NEVER
        if (
            not self.sacking or self.repair != OPEN or self.tlp_end >= 0 or self.segments.sacked_count
            or not self.segments.in_flight or self.segments.lost_count
        ):
            return 0
        if self.rtt.sampled:
            pto = 2.0 * self.rtt.smoothed
            if self.segments.next - self.segments.first == 1:
                pto += WORST_DELAY
        self.tlp_at = min(now + pto, self.rto_at)
        return 0

    cdef int on_tail_timer(self, double now) except -1:
        # TLP_send_probe. The timer of retransmission begins anew: the probe is to be answered first.
        self.tlp_at = NEVER
        if self.segments.oldest == NO_SEGMENT:
            return 0
        self.probing = TAIL_PROBE
        self.rto_at = now + self.rto()
        return self.host.want(self)

    cdef bint tail_loss_repaired(self, int64_t ack, bint duplicate) noexcept:
        # TLP_process_ack.
        if self.tlp_end < 0 or ack < self.tlp_end:
            return False
        if not self.tlp_is_retrans:
            self.tlp_end = -1
        elif self._told_duplicate and self._duplicate_stop >= self.tlp_end:
            self.tlp_end = -1
        elif ack > self.tlp_end:
            self.tlp_end = -1
            return True
        elif duplicate:
            self.tlp_end = -1
        return False
