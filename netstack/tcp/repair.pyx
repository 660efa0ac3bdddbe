"""Recovery. Read RFC 5681, RFC 6298 §5, RFC 9937, RFC 5682 §3, RFC 3522 and ``rack`` first.

Deviations, each as Linux has it: a timeout leaves SACK marks alone unless the peer shows that it has let go of what it had;
F-RTO takes any segment sent once that arrives behind a timeout as proof, where there is SACK; and timestamps prove a
retransmission needless in fast recovery as well.
"""

from libc.stdint cimport int32_t, int64_t, uint64_t

from .core cimport LOSS, OPEN, RECOVERY, SYN_RECEIVED, SYN_SENT, reason_of
from .header cimport Header
from .rack cimport Rack
from .segments cimport LOST, NO_SEGMENT, PROBE, SACKED, Segment

cdef double NEVER = float("inf")
cdef enum:
    R1 = 2              # timeouts in a row; the next makes three retransmissions (RFC 9293 SHLD-10): is it the path?
    MOST_BACKOFF = 16


cdef class Repairing(Rack):
    cdef uint64_t congestion_window(self) noexcept:
        if self.repair == RECOVERY and self.reducing:
            return self.cwnd
        return self.controller.window

    cdef uint64_t pipe(self) noexcept:
        # Without SACK, each duplicate acknowledgement stands for a segment that has left the network (RFC 5681 §3.2).
        if self.dup_octets >= self.segments.in_flight:
            return 0
        return self.segments.in_flight - self.dup_octets

    cdef int enter_recovery(self, uint64_t pipe) except -1:
        self.repair = RECOVERY
        self.recovery_point = self.snd_nxt
        self.recover_fs = pipe if pipe else 1
        self.prr_delivered = self.prr_out = 0
        self.ssthresh = 0       # What the controller has left at the end of the update.
        self.cwnd = self.controller.window
        self.traffic.recoveries += 1
        self.tlp_at = NEVER
        self.tlp_end = -1
        return _begin_undo(self)

    cdef int leave(self) except -1:
        if self.repair == RECOVERY and self.reo_persist:
            self.reo_persist -= 1
            if not self.reo_persist:
                self.reo_wnd_mult = 1
        self.repair = OPEN
        self.frto = False
        self.dupacks = 0
        self.dup_octets = 0
        return 0

    cdef int progress(self, const Header* header, int64_t ack, bint advanced, uint64_t pipe, double now) except -1:
        cdef uint64_t head
        if self.reo_round >= 0 and ack >= self.reo_round:
            self.reo_round = -1
        if self.undo_possible and self.repair != OPEN and advanced and self.undo_stamped and header.stamped and \
                <int32_t>(header.ts_echo - self.undo_stamp) < 0:
            # Eifel (RFC 3522 §3.2): this answers what was sent before anything was sent again.
            self.reordering_seen = True
            self.undo(now)
        elif self.undo_possible and self.undo_any and not self.undo_resent and not self.segments.lost_count:
            # All that was sent again has been reported twice (RFC 3708 §3).
            self.undo(now)
        if self.repair == LOSS and self.frto:
            _f_rto(self, ack, advanced, now)
        if self.repair != OPEN and ack >= self.recovery_point:
            self.leave()
        elif self.repair == RECOVERY and not self.sacking and advanced:
            # A partial acknowledgement (RFC 6582 §3.2): the next segment is missing as well.
            head = self.segments.first
            if head != self.segments.next and not self.segments.get(head).marks & LOST:
                self.lose(head, now)
        self.detect_lost(now)
        if not self.sacking and self.dupacks == 3 and self.repair == OPEN and ack >= self.recovery_point:
            head = self.segments.first
            if head != self.segments.next and not self.segments.get(head).marks & LOST:
                self.lose(head, now)
                self.dupacks = 4    # Once.
        if self._newly_lost and self.repair == OPEN:
            self.enter_recovery(pipe)
        return 0

    cdef int reduce_rate(self, bint safe) except -1:
        cdef uint64_t flight = self.pipe(), count = 0, wanted
        if not self.ssthresh:
            self.ssthresh = self.controller.window
        elif self.controller.window < self.ssthresh:
            # Another loss among what was sent since: a new reduction, from where we are.
            self.ssthresh = self.controller.window
            self.recover_fs = flight if flight else 1
            self.prr_delivered = self.prr_out = 0
        if not self._delivered:
            if not self.prr_out and not self.prr_delivered:
                self.cwnd = flight + self.mss
            return 0
        self.prr_delivered += self._delivered
        if flight > self.ssthresh:
            wanted = (self.prr_delivered * self.ssthresh + self.recover_fs - 1) // self.recover_fs
            count = wanted - self.prr_out if wanted > self.prr_out else 0
        else:
            count = self.prr_delivered - self.prr_out if self.prr_delivered > self.prr_out else 0
            count = max(count, self._delivered)
            if safe:
                count += self.mss
            count = min(count, self.ssthresh - flight)
        if not self.prr_out:
            count = max(count, <uint64_t>self.mss)      # The first retransmission leaves in any case.
        self.cwnd = flight + count
        return 0

    cdef int undo(self, double now) except -1:
        self.traffic.undone += 1
        self.undo_possible = False
        self.controller.undo(now)
        self.segments.restore_lost()
        self.backoff = 0
        self.stuck_since = NEVER
        if self.repair != OPEN:
            return self.leave()
        return 0

    cdef int on_retransmission_timer(self, double now) except -1:
        cdef uint64_t number
        cdef Segment* segment
        cdef bint again = self.repair == LOSS and self.stuck_since != NEVER
        self.rto_at = NEVER
        if self.stage == SYN_SENT or self.stage == SYN_RECEIVED:
            return _resend_syn(self, now)
        if self.segments.first == self.segments.next:
            return 0
        if self.stuck_since == NEVER:
            self.stuck_since = now
        if self.snd_wnd == 0 and self.heard_at > self.stuck_since:
            self.stuck_since = self.heard_at    # MUST-34, MUST-37: it has shut its window, and is alive.
        if now >= self.stuck_since + self.user_timeout:     # The timer's own sum.
            return self.end(reason_of("TIMED_OUT", self.soft_error))
        self.traffic.timeouts += 1
        self.tlp_at = self.reorder_at = NEVER
        self.tlp_end = -1
        self.controller.begin_update(self.segments.in_flight, now)
        if self.segments.get(self.segments.first).marks & SACKED:
            self.segments.forget_sacked()       # Reneging (RFC 2018 §8): else it would be acknowledged by number.
        while self.segments.oldest != NO_SEGMENT:
            number = self.segments.oldest
            segment = self.segments.get(number)
            self.controller.on_lost(&segment.sample, now)
            segment.marks &= ~PROBE & 0xff
            self.segments.mark_lost(number)
        self.mtu_probe_out = False
        self.segments.split(self.mss)           # An MTU probe among them.
        self.controller.on_retransmission_timeout(again, now)
        self.controller.end_update(0, now)
        if not again:
            _begin_undo(self)
            # RFC 5682 §2.1 (1): not when it was in recovery already, or there is nothing but a probe of the MTU.
            self.frto = self.repair == OPEN
            self.frto_probed = False
        else:
            self.frto = False
        self.repair = LOSS
        self.recovery_point = self.snd_nxt
        self.dupacks = 0
        self.dup_octets = 0
        if self.backoff < MOST_BACKOFF:
            self.backoff += 1
        if self.backoff >= R1:
            self.suspect_black_hole(now)
        self.rto_at = min(now + self.rto(), self.stuck_since + self.user_timeout)
        return self.host.want(self)


cdef int _begin_undo(Repairing self) except -1:
    self.undo_possible = True
    self.undo_any = self.undo_stamped = False
    self.undo_resent = 0
    return 0


cdef int _resend_syn(Repairing self, double now) except -1:
    self.backoff += 1 if self.backoff < MOST_BACKOFF else 0
    self.syn_wanted = True
    self.rto_at = now + self.rto()
    return self.host.want(self)


cdef int _f_rto(Repairing self, int64_t ack, bint advanced, double now) except -1:
    # RFC 5682 §3.1 with SACK, §2.1 without.
    if self._original_delivered and (self.sacking or self.frto_probed):
        return self.undo(now)       # (3b): what was never sent again has come.
    if self.frto_probed:
        if not advanced or self._newly_sacked:
            self.frto = False       # (3a): the loss was real.
    elif advanced and ack < self.recovery_point:
        self.frto_probed = True     # (2b): `sending` sends up to two new segments instead of old ones.
        self.frto_credit = 2
    else:
        self.frto = False
    return 0
