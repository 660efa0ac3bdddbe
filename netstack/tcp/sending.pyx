"""Segments that leave. Read RFC 9293 §3.7.4, §3.8.6 and §3.10.2, RFC 5681 §3, RFC 8985 §7.3 and ``receiving`` first.

A segment is made in place, in the packet: headers, options, octets from the buffer, and one sum over all. Order: probes, what
is lost, a probe of the MTU, what is new, an ACK alone. Whatever leaves carries the newest ACK.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..congestion cimport initial_window
from ..ip cimport TCP, write_header
from ..ranges cimport Range
from .core cimport (
    ALIVE_PROBE, CLOSE_WAIT, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, LAST_ACK, LOSS, NO_PROBE, OPEN, RECOVERY,
    SYN_RECEIVED, WINDOW_PROBE, reason_of,
)
from .header cimport (
    ACK, CWR, ECE, FIN, MOST_SACKS, PLAIN_HEADER, PSH, SYN, TIMESTAMPS_SIZE, Sack, put_mss, put_sack_permitted, put_sacks,
    put_scale, put_timestamps, seal, write_plain,
)
from .receiving cimport Receiving
from .segments cimport FINAL, MOST_SEGMENTS, PROBE, SACKED, Segment

cdef double NEVER = float("inf")
cdef enum:
    HOPS = 64
    ECT0 = 2            # codepoint (RFC 3168)
    MOST_BACKOFF = 16


cdef class Sending(Receiving):
    cdef Py_ssize_t build(self, uint8_t* out, size_t room, double now) except -1:
        cdef Py_ssize_t size
        if self.over:
            return 0
        if self.stage <= SYN_RECEIVED:
            if self.syn_wanted:
                size = _syn(self, out, now)
            else:
                size = _segment(self, out, self.snd_nxt, 0, ACK, 0, now) if self.ack_now else 0
        else:
            size = _text(self, out, room, now)
            if not size and (self.ack_now or self.ack_at <= now):
                size = _segment(self, out, self.snd_nxt, 0, ACK, 0, now)
                self.ack_now = False    # However many SACK blocks there was room for.
                self.traffic.acks_sent += 1
        self.rearm()
        return size

    cdef int on_timer(self, double now) except -1:
        if self.over:
            return 0
        if self.life_at <= now:
            return _on_life_timer(self, now)
        if self.ack_at <= now:
            self.ack_at = NEVER
            self.ack_now = True
            self.host.want(self)
        if self.pacing_at <= now:
            self.pacing_at = NEVER
            self.host.want(self)
        if self.reorder_at <= now:
            _on_reordering_timer(self, now)
        if self.tlp_at <= now:
            self.on_tail_timer(now)
        if self.rto_at <= now:
            self.on_retransmission_timer(now)
        if self.persist_at <= now:
            _on_persist_timer(self, now)
        if self.alive_at <= now and not self.over:
            _on_alive_timer(self, now)
        return self.rearm() if not self.over else 0


# Timers.


cdef int _on_life_timer(Sending self, double now) except -1:
    self.life_at = NEVER
    if self.stage == FIN_WAIT_2:
        return self.end(None)       # Nobody is interested any more, on either side.
    return self.end(reason_of("TIMED_OUT", self.soft_error))


cdef int _on_reordering_timer(Sending self, double now) except -1:
    # RFC 8985 §6.3
    cdef uint64_t pipe = self.pipe()
    self._delivered = self._newly_lost = 0
    self.controller.begin_update(pipe, now)
    self.detect_lost(now)
    if self._newly_lost and self.repair == OPEN:
        self.enter_recovery(pipe)
    self.controller.end_update(self.pipe(), now)
    if self.repair == RECOVERY and self.reducing:
        self.reduce_rate(False)
    return self.host.want(self)


cdef int _on_persist_timer(Sending self, double now) except -1:
    # RFC 9293 §3.8.6.1: for ever, while it answers (MUST-37), and less and less often (SHLD-30).
    self.persist_at = NEVER
    if self.stuck_since == NEVER or self.heard_at > self.stuck_since:
        self.stuck_since = max(self.heard_at, self.sent_at)
    if now - self.stuck_since >= self.user_timeout:
        return self.end(reason_of("TIMED_OUT", self.soft_error))
    self.probing = WINDOW_PROBE
    if self.persists < MOST_BACKOFF:
        self.persists += 1
    self.persist_at = now + min(
        self.rto() * <double>(<uint64_t>1 << self.persists), self.owner.limits.maximum_rto
    )
    return self.host.want(self)


cdef int _on_alive_timer(Sending self, double now) except -1:
    # RFC 9293 §3.8.4
    cdef double due = max(self.heard_at, self.sent_at) + self.keepalive
    self.alive_at = NEVER
    if self.keepalive <= 0.0:
        return 0
    if not self.alive_probes and due > now:
        self.alive_at = due
        return 0
    if self.alive_probes >= self.owner.limits.keepalive_probes:
        return self.end(reason_of("TIMED_OUT", self.soft_error))
    self.alive_probes += 1
    self.alive_at = now + self.owner.limits.keepalive_interval
    if self.segments.first == self.segments.next:
        self.probing = ALIVE_PROBE      # Else retransmissions ask, too.
    return self.host.want(self)


# What leaves.


cdef Py_ssize_t _text(Sending self, uint8_t* out, size_t room, double now) except -1:
    cdef uint64_t number, flight, allowed
    cdef Segment* segment
    cdef Py_ssize_t size
    if self.probing != NO_PROBE:
        size = _probe(self, out, room, now)
        if size:
            return size
    if self.segments.lost_count:
        if not self.frto_probed or self.repair != LOSS or not self.frto:
            number = self.segments.first_lost()
            segment = self.segments.get(number)
            flight = self.pipe()
            if flight and flight + segment.size > self.congestion_window():
                return 0
            if _is_paced(self, segment.size, now):
                return 0
            return _again(self, out, number, now)
        if self.frto_credit == 2 and not _new_size(self, room, True, now):
            self.frto = False       # RFC 5682 §3.1 (2): nothing new to tell by.
            return _text(self, out, room, now)
        if self.frto_credit <= 0:
            return 0
        size = _new(self, out, room, True, now)
        if size:
            self.frto_credit -= 1
        return size
    return _new(self, out, room, False, now)


cdef bint _is_paced(Sending self, uint64_t size, double now) noexcept:
    # Whether it has to wait for its time. Only controllers that have a rate are paced.
    if self.controller.pacing_rate <= 0.0:
        return False
    # No more than a full segment is saved up for: what is a little larger, with a FIN or to probe the MTU, is let through.
    if self.pacer.budget(self.controller, now) >= min(size, <uint64_t>self.controller.mss):
        return False
    self.pacing_at = self.pacer.release_at(now)
    return True


cdef Py_ssize_t _probe(Sending self, uint8_t* out, size_t room, double now) except -1:
    cdef int kind = self.probing
    cdef uint64_t number
    cdef Py_ssize_t size
    self.probing = NO_PROBE
    if kind == ALIVE_PROBE or kind == WINDOW_PROBE:
        # MUST-26 and SHLD-12: an old number and no octets, which has to be answered. The same tells a window, as on Linux;
        # an octet sent beyond the window would have to be taken back.
        if kind == WINDOW_PROBE:
            self.traffic.window_probes += 1
            if self.snd_una + self.snd_wnd > self.snd_nxt:
                size = _new(self, out, room, True, now)     # SWS avoidance has waited long enough (RFC 9293 §3.8.6.2.1).
                if size:
                    return size
        return _segment(self, out, self.snd_una - 1, 0, ACK, 0, now)
    # TLP_send_probe
    self.tlp_end = -1
    size = _new(self, out, room, True, now)
    self.tlp_is_retrans = size == 0
    if not size:
        number = self.segments.next
        while number != self.segments.first and self.segments.get(number - 1).marks & SACKED:
            number -= 1
        if number == self.segments.first:
            return 0
        size = _again(self, out, number - 1, now)
    self.tlp_end = self.snd_nxt
    self.tlp_at = NEVER
    self.tlp_sent_at = now
    self.traffic.tail_probes += 1
    return size


cdef Py_ssize_t _again(Sending self, uint8_t* out, uint64_t number, double now) except -1:
    cdef Segment* segment = self.segments.get(number)
    cdef bint fin = segment.marks & FINAL != 0
    cdef uint64_t flight = self.pipe()
    cdef size_t octets = segment.size - (1 if fin else 0)
    cdef uint32_t stamp = self.stamp_of(now)
    self.segments.depart(number, now, stamp)
    self.controller.on_sent(&segment.sample, flight, now)
    if self.controller.pacing_rate > 0.0:
        self.pacer.on_sent(segment.size)
    if self.repair == RECOVERY:
        self.prr_out += segment.size
    if self.undo_possible:
        self.undo_resent += 1
        self.undo_any = True
        if not self.undo_stamped and self.stamping:
            self.undo_stamped = True
            self.undo_stamp = stamp
    self.traffic.segments_resent += 1
    self.traffic.octets_resent += octets
    self.sent_at = now
    if self.rto_at == NEVER:
        self.rto_at = now + self.rto()
    return _segment(
        self, out, segment.offset, octets, ACK | (PSH if segment.offset + <int64_t>octets == <int64_t>self.out.end else 0)
        | (FIN if fin else 0), 0, now
    )


cdef int64_t _new_size(Sending self, size_t room, bint forced, double now) noexcept:
    # Octets of the next new segment, the FIN as one more; 0: none now. forced: whatever congestion, Nagle and Clark say.
    cdef int64_t available = <int64_t>self.out.end - self.snd_nxt, most = self.mss, size, window
    cdef int64_t fin = 1 if self.out.finished and not self.fin_sent else 0
    cdef int64_t fits = <int64_t>room - <int64_t>self.overhead - (TIMESTAMPS_SIZE if self.stamping else 0)
    if available + fin <= 0 or self.segments.next - self.segments.first >= MOST_SEGMENTS:
        return 0
    if fits < most:
        most = fits
    window = self.snd_una + min(self.snd_wnd, <int64_t>self.owner.limits.send_window) - self.snd_nxt
    size = min(available, window, most)
    if size < 0:
        size = 0
    if size == available and fin and size < window:
        return size + 1
    if size == most or forced or not size:
        return size
    if size < available:
        # RFC 9293 §3.8.6.2.1: only a window that is small for ever is worth small segments.
        return size if size >= self.max_snd_wnd // 2 else 0
    if self.nagle and self.small_sent > self.snd_una:
        return 0        # SHLD-7, as Minshall has it: one small segment may be in flight.
    return size


cdef Py_ssize_t _new(Sending self, uint8_t* out, size_t room, bint forced, double now) except -1:
    cdef uint64_t flight = self.pipe()
    cdef int64_t size, offset = self.snd_nxt
    cdef size_t octets
    cdef uint32_t probe = 0
    cdef Segment* segment
    cdef uint8_t flags = ACK
    if self.mtu_ceiling or self.mtu_raise_at <= now:
        probe = self.probe_size(now) if not forced else 0
        if probe > room - self.overhead - TIMESTAMPS_SIZE:
            probe = 0
    size = probe if probe else _new_size(self, room, forced, now)
    if not size:
        if offset == <int64_t>self.out.end and flight < self.controller.window:
            self.controller.on_app_limited(flight)
        if self.persist_at == NEVER:
            self.schedule_persist(now)
        return 0
    if not forced:
        if not flight and self.owner.limits.slow_start_after_idle and now - self.sent_at > self.rto() and self.repair == OPEN:
            self.controller.restrict(initial_window(self.mss), now)     # RFC 5681 §4.1
        if flight and flight + <uint64_t>size > self.congestion_window():
            return 0
        if _is_paced(self, <uint64_t>size, now):
            return 0
    octets = <size_t>min(size, <int64_t>self.out.end - offset)
    segment = self.segments.add(offset, <uint32_t>size)
    if probe:
        segment.marks = PROBE
        self.mtu_probe_out = True
        self.traffic.mtu_probes += 1
    if offset + <int64_t>octets == <int64_t>self.out.end:
        flags |= PSH
        if <int64_t>octets < size:
            flags |= FIN
            segment.marks |= FINAL
            self.fin_sent = True
            if self.stage == ESTABLISHED:
                self.stage = FIN_WAIT_1
            elif self.stage == CLOSE_WAIT:
                self.stage = LAST_ACK
    if octets < self.mss:
        self.small_sent = offset + size
    if self.cwr_wanted:
        flags |= CWR
        self.cwr_wanted = False
    segment.sample.sent_at = now
    self.controller.on_sent(&segment.sample, flight, now)
    self.segments.depart(self.segments.next - 1, now, self.stamp_of(now))
    if self.controller.pacing_rate > 0.0:
        self.pacer.on_sent(<uint64_t>size)
    if self.repair == RECOVERY:
        self.prr_out += <uint64_t>size
    self.snd_nxt = offset + size
    self.out.on_sent(<uint64_t>offset, octets, False)
    self.traffic.octets_sent += octets
    self.sent_at = now
    self.persist_at = NEVER
    if self.rto_at == NEVER:
        self.rto_at = now + self.rto()
    self.schedule_tail_probe(now)
    self.sendings_changed()
    return _segment(self, out, offset, octets, flags, ECT0 if self.ecn else 0, now)


cdef Py_ssize_t _segment(
    Sending self, uint8_t* out, int64_t offset, size_t octets, uint8_t flags, uint8_t traffic, double now
) except -1:
    cdef uint8_t* tcp
    cdef uint8_t* at
    cdef Sack sacks[4]
    cdef int count = 0
    cdef size_t options = TIMESTAMPS_SIZE if self.stamping else 0
    cdef bint held_back = False
    if self.sacking and (self.into.received.count or self.dup_start >= 0):
        count = _collect_sacks(self, sacks, MOST_SACKS - 1 if self.stamping else MOST_SACKS)
        if octets + 4 + 8 * <size_t>count > self.mss and octets:
            count = 0
            held_back = True        # They follow in an ACK alone.
        elif count:
            options += 4 + 8 * <size_t>count
            self.dup_start = -1
    if self.echo_ce:
        flags |= ECE
    self.ip_id = <uint16_t>((self.ip_id + 1) & 0xffff)
    tcp = write_header(
        out, &self.name.local, &self.name.remote, TCP, PLAIN_HEADER + options + octets, traffic, HOPS, self.ip_id, True
    )
    write_plain(
        tcp, self.name.local_port, self.name.remote_port, self.snd_wire(offset), self.rcv_wire(self.rcv_nxt), flags,
        self.window_to_tell(False)
    )
    at = tcp + PLAIN_HEADER
    if self.stamping:
        at = put_timestamps(at, self.stamp_of(now), self.ts_recent)
    if count:
        at = put_sacks(at, sacks, count)
    if octets:
        self.out.blocks.read(<uint64_t>offset, at, octets)
    seal(tcp, at, octets, self.pseudo)
    self.traffic.segments_sent += 1
    self.last_ack_sent = self.rcv_nxt
    if not held_back:
        self.ack_now = False
        self.ack_at = NEVER
        self.unacked = 0
    return (at - out) + <Py_ssize_t>octets


cdef int _collect_sacks(Sending self, Sack* sacks, int most) noexcept:
    # RFC 2883 §4, RFC 2018 §4. Where a block was last added to is remembered; what it has grown to is looked up.
    cdef int count = 0, index, at, other
    cdef Range* found
    if self.dup_start >= 0:
        sacks[0].start = self.rcv_wire(self.dup_start)
        sacks[0].stop = self.rcv_wire(self.dup_stop)
        count = 1
    for index in range(4):
        if count == most or self.recent[index] < 0:
            break
        at = self.into.received.first_reaching(<uint64_t>self.recent[index] + 1)
        if at >= self.into.received.count:
            continue
        found = &self.into.received.items[at]
        if found.start > <uint64_t>self.recent[index]:
            continue        # It is in order by now.
        for other in range(count):
            if sacks[other].start == self.rcv_wire(<int64_t>found.start) and not (other == 0 and self.dup_start >= 0):
                break
        else:
            sacks[count].start = self.rcv_wire(<int64_t>found.start)
            sacks[count].stop = self.rcv_wire(<int64_t>found.stop)
            count += 1
    return count


cdef Py_ssize_t _syn(Sending self, uint8_t* out, double now) except -1:
    cdef uint8_t options[40]
    cdef uint8_t* end = options
    cdef uint8_t* tcp
    cdef uint8_t* at
    cdef bint answers = self.stage == SYN_RECEIVED
    cdef uint8_t flags = SYN | (ACK if answers else 0)
    cdef size_t index
    # MUST-67: what we can take in a packet, whatever the path makes of it; options not taken off.
    end = put_mss(end, min(self.host.mtu - self.overhead, <uint32_t>65535))
    if self.sacking if answers else self.owner.limits.sack:
        end = put_sack_permitted(end)
    if self.stamping if answers else self.owner.limits.timestamps:
        end = put_timestamps(end, self.stamp_of(now), self.ts_recent if answers else 0)
    if self.scaling if answers else self.owner.limits.window_scaling:
        end = put_scale(end, self.rcv_scale)
    if self.ecn:
        if answers:
            flags |= ECE
        elif not self.syn_sent:
            flags |= ECE | CWR
        else:
            self.ecn = False    # RFC 3168 §6.1.1.1: perhaps that is why there was no answer.
    tcp = write_header(
        out, &self.name.local, &self.name.remote, TCP, <size_t>(PLAIN_HEADER + (end - options)), 0, HOPS, self.ip_id, True
    )
    self.ip_id = <uint16_t>((self.ip_id + 1) & 0xffff)
    write_plain(
        tcp, self.name.local_port, self.name.remote_port, self.iss, self.rcv_wire(self.rcv_nxt) if answers else 0, flags,
        self.window_to_tell(True)
    )
    at = tcp + PLAIN_HEADER
    for index in range(<size_t>(end - options)):
        at[index] = options[index]
    at += end - options
    seal(tcp, at, 0, self.pseudo)
    self.syn_wanted = self.ack_now = False
    self.syn_sent += 1
    self.syn_last_at = now
    if self.syn_sent == 1:
        self.syn_at = now
    self.traffic.segments_sent += 1
    self.rto_at = now + self.rto()
    self.last_ack_sent = self.rcv_nxt
    return at - out
