"""Acknowledgements. Read RFC 9293 §3.10.7.4 (fifth), RFC 2018, RFC 2883 §4, RFC 6298 §3 and ``repair`` first.

In the common case - a few segments acknowledged by number, no SACK - each is taken from the front of the scoreboard.
"""

from libc.stdint cimport int32_t, int64_t, uint64_t

from .core cimport OPEN, RECOVERY
from .header cimport ECE, FIN, SYN, Header, distance
from .mtu cimport PathMtu
from .segments cimport RESENT, SACKED, Segment

cdef double NEVER = float("inf")
cdef double LONGEST_ECHO = 600.0
# Seconds: a timestamp that is older answers nothing of ours.
cdef enum:
    MOST_BACKOFF = 16


cdef class Acking(PathMtu):
    cdef int acknowledge(self, const Header* header, int64_t ack, int64_t offset, double now) except -1:
        cdef bint advanced = ack > self.snd_una, duplicate, lost
        cdef int64_t former_window = self.snd_wnd
        cdef uint64_t pipe
        if ack < self.snd_una:
            return 0        # Old, and its SACK blocks with it.
        self.window_told(header, ack, offset, now)
        if self.segments.first == self.segments.next:
            # Nothing is waited for. But it may say that something was sent for nothing.
            return _take_late_duplicate(self, header, ack, now) if header.sack_count and self.sacking else 0
        # RFC 5681 §2
        duplicate = not advanced and not header.size and not header.flags & (SYN | FIN) and self.snd_wnd == former_window
        pipe = self.pipe()
        self._delivered = self._newly_lost = 0
        self._original_delivered = self._resent_acked = self._timed = self._newly_sacked = self._told_duplicate = False
        self._probe_passed = 0
        self.controller.begin_update(pipe, now)
        if advanced:
            _take_number(self, header, ack, now)
        if header.sack_count and self.sacking:
            _take_sacks(self, header, ack, now)
        if not self.sacking:
            _count_duplicates(self, duplicate, advanced)
        _measure(self, header, advanced, now)
        if header.flags & ECE and self.ecn and ack > self.ecn_point:
            # RFC 3168 §6.1.2: once in a round trip.
            self.ecn_point = self.snd_nxt
            self.cwr_wanted = True
            self.traffic.marks += 1
            self.controller.on_congestion_marks(1, now, now)
        if self._probe_passed:
            self.mtu_probe_passed(self._probe_passed, now)
        self.progress(header, ack, advanced, pipe, now)
        if self.tail_loss_repaired(ack, duplicate and not self._newly_sacked) and self.repair == OPEN:
            # RFC 8985 §7.4.2: one reduction, as for a loss that was seen.
            self.controller.on_congestion_marks(1, now, now)
        lost = self._newly_lost != 0
        self.controller.end_update(self.pipe(), now)
        if self.repair == RECOVERY and self.reducing:
            self.reduce_rate(advanced and not lost)
        if self.segments.first == self.segments.next:
            self.rto_at = self.tlp_at = self.reorder_at = NEVER
        elif advanced:
            self.rto_at = now + self.rto()      # RFC 6298 §5.3
        if advanced or self._delivered:
            self.schedule_tail_probe(now)
        return self.host.want(self)

    cdef int window_told(self, const Header* header, int64_t ack, int64_t offset, double now) except -1:
        # RFC 9293 §3.10.7.4. Unsigned (MUST-1), scaled (RFC 7323 §2.3); one that shrinks is believed (MUST-34).
        if self.snd_wl1 > offset or (self.snd_wl1 == offset and self.snd_wl2 > ack):
            return 0
        self.snd_wnd = <int64_t>header.window << self.snd_scale
        self.snd_wl1 = offset
        self.snd_wl2 = ack
        if self.snd_wnd > self.max_snd_wnd:
            self.max_snd_wnd = self.snd_wnd
        if self.persist_at != NEVER and self.snd_wnd:
            self.persist_at = NEVER
            self.persists = 0
        if self.snd_nxt < <int64_t>self.out.end or (self.out.finished and not self.fin_sent):
            return self.host.want(self)
        return 0

    cdef int schedule_persist(self, double now) except -1:
        # RFC 9293 §3.8.6.1: there is something to send, nothing is in flight, and the window has no room for it.
        if self.persist_at != NEVER or self.segments.first != self.segments.next:
            return 0
        # Also what SWS avoidance or a FIN's one number holds back.
        if self.snd_nxt < <int64_t>self.out.end or (self.out.finished and not self.fin_sent):
            self.persists = 0
            self.stuck_since = NEVER
            self.persist_at = now + self.rto()
        return 0


cdef int _take_number(Acking self, const Header* header, int64_t ack, double now) except -1:
    cdef Segment* segment
    cdef uint64_t stop
    while self.segments.first != self.segments.next:
        segment = self.segments.get(self.segments.first)
        if segment.offset + segment.size > ack:
            if segment.offset < ack:
                self._delivered += <uint64_t>(ack - segment.offset)
                self.segments.cut_first(ack)
            break
        if segment.marks & RESENT:
            if not self._resent_acked or <int32_t>(segment.stamp - self._resent_stamp) < 0:
                self._resent_stamp = segment.stamp
            self._resent_acked = True
        if not segment.marks & SACKED:
            self.on_delivered(segment, header, now)
        self.segments.drop_first()
    self.snd_una = ack
    self.stuck_since = NEVER
    stop = min(<uint64_t>ack, self.out.end)
    if stop > self.out.floor:
        self.owner.written -= <int64_t>(stop - self.out.floor)
        self.out.on_acked(self.out.floor, <size_t>(stop - self.out.floor), False)
    if self.fin_sent and ack > <int64_t>self.out.end:
        self.fin_acked = True
        self.arrivals_changed()
    return 0


cdef int _take_sacks(Acking self, const Header* header, int64_t ack, double now) except -1:
    # RFC 2883 §4: the first block is a D-SACK when it is below the acknowledgement, or part of the second.
    cdef int index, first = 0
    cdef int64_t start, stop, other_start, other_stop
    start = ack + distance(header.acknowledgement, header.sacks[0].start)
    stop = ack + distance(header.acknowledgement, header.sacks[0].stop)
    if start < stop and stop <= self.snd_nxt:
        if stop <= ack:
            first = 1
        elif header.sack_count > 1:
            other_start = ack + distance(header.acknowledgement, header.sacks[1].start)
            other_stop = ack + distance(header.acknowledgement, header.sacks[1].stop)
            if other_start <= start and stop <= other_stop:
                first = 1
    if first and start >= ack - self.max_snd_wnd and start >= 0:
        self._duplicate_stop = stop
        self.on_duplicate_told()
    for index in range(first, header.sack_count):
        start = ack + distance(header.acknowledgement, header.sacks[index].start)
        stop = ack + distance(header.acknowledgement, header.sacks[index].stop)
        if ack < start < stop <= self.snd_nxt:
            _take_sack(self, header, start, stop, now)
    return 0


cdef int _take_late_duplicate(Acking self, const Header* header, int64_t ack, double now) except -1:
    self._told_duplicate = False
    _take_sacks(self, header, ack, now)
    self.tail_loss_repaired(ack, True)
    if self.undo_possible and self.undo_any and not self.undo_resent:
        return self.undo(now)
    return 0


cdef int _take_sack(Acking self, const Header* header, int64_t start, int64_t stop, double now) except -1:
    # What has been SACKed before is passed over in one step. Segments that a block covers only in part stay as they are.
    cdef int index
    cdef uint64_t number
    cdef Segment* segment
    while start < stop:
        index = self.segments.sacked.first_reaching(<uint64_t>start + 1)
        if index < self.segments.sacked.count and self.segments.sacked.items[index].start <= <uint64_t>start:
            start = <int64_t>self.segments.sacked.items[index].stop
            continue
        number = self.segments.find(start)
        while number != self.segments.next:
            segment = self.segments.get(number)
            start = segment.offset
            if segment.marks & SACKED:
                break
            start += segment.size
            if start > stop:
                return 0
            self.on_delivered(segment, header, now)
            self.segments.mark_sacked(number)
            self._newly_sacked = True
            number += 1
        if number == self.segments.next:
            return 0
    return 0


cdef int _count_duplicates(Acking self, bint duplicate, bint advanced) except -1:
    # RFC 5681 §3.2, RFC 9937 §6.2 for how much that delivers.
    cdef uint64_t counted
    if duplicate:
        self.dupacks += 1
        if self.dup_octets + self.mss < self.segments.in_flight:
            self.dup_octets += self.mss
            self._delivered += self.mss
    elif advanced:
        counted = min(self.dup_octets, self._delivered)
        self.dup_octets -= counted
        self._delivered -= counted
        if self.repair == OPEN:
            self.dupacks = 0
            self.dup_octets = 0
    return 0


cdef int _measure(Acking self, const Header* header, bint advanced, double now) except -1:
    # Karn (RFC 6298 §3), or timestamps (RFC 7323 §4.1). The back-off ends with a sample (RFC 6298 §5.7).
    cdef double took
    if self._timed and (self.sacking or not self._resent_acked):
        self.rtt.update(now - self._timed_sent_at, 0.0)
    elif advanced and self.stamping and header.stamped and header.ts_echo:
        if self._resent_acked and <int32_t>(header.ts_echo - self._resent_stamp) < 0:
            # The peer had it before it was sent again, and its ACK was lost, or late: how long we have waited for our own
            # timer is no round trip, and would make us wait ever longer.
            return 0
        took = <double>distance(header.ts_echo, self.stamp_of(now)) / 1000.0
        if not 0.0 <= took <= LONGEST_ECHO:
            return 0
        self.rtt.update(took if took > 0.0005 else 0.0005, 0.0)
    else:
        return 0
    self.backoff = 0
    return 0
