"""Segments that arrive. Read RFC 9293 §3.10.7, RFC 5961 §3 to §5, RFC 7323 §5 and ``acking`` first.

Where RFC 9293 leaves a choice, or Linux has shown the way:

- text and FIN that come with a SYN are not taken, but come again;
- the urgent pointer is not looked at: urgent octets are delivered in their place (RFC 6093 §3);
- a segment without text that begins at the right edge of the window is acceptable: the peer has filled the window, and what
  it has sent is still on its way or lost.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ..ip cimport Packet
from ..receive_buffer cimport ARRIVED
from .acking cimport Acking
from .core cimport CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, LAST_ACK, SYN_RECEIVED, SYN_SENT, reason_of
from .header cimport ACK, CWR, ECE, FIN, RST, SYN, Header, distance, length_of

cdef double NEVER = float("inf")
cdef double STALE_STAMP = 24 * 86400.0      # s: RFC 7323 §5.5
cdef enum:
    CONGESTION_EXPERIENCED = 3
    MOST_HOLES = 1024
    # In what waits for octets before it: more than lost segments make in a window, and little to look through (SACK panic,
    # CVE-2018-5390).
    GROWTH_RTTS = 4     # as of the transport's streams


cdef class Receiving(Acking):
    cdef int arrived(self, const Packet* packet, Header* header, double now) except -1:
        cdef int64_t offset, ack, length, edge
        if self.over:
            return 0
        self.traffic.segments_received += 1
        if self.stage == SYN_SENT:
            _in_syn_sent(self, packet, header, now)
            return self.rearm() if not self.over else 0
        offset = self.rcv_nxt + distance(self.rcv_wire(self.rcv_nxt), header.sequence)
        length = length_of(header)
        edge = self.rcv_edge if self.rcv_edge > self.rcv_nxt else self.rcv_nxt
        # First: RFC 7323 §5.3 R1, then the sequence number.
        if self.stamping and not header.flags & RST and not _is_fresh(self, header, now):
            return self.rearm()
        if not _is_acceptable(self, offset, length, edge):
            _answer_unacceptable(self, header, offset, length, now)
            return self.rearm()
        # Second
        if header.flags & RST:
            if offset == self.rcv_nxt:
                return _on_reset(self)
            if offset < edge:
                self.challenge(now)     # RFC 5961 §3.2
            return self.rearm()
        # Fourth
        if header.flags & SYN:
            if self.stage == SYN_RECEIVED and self.passive:
                return self.end(reason_of("RESET", None))
            self.challenge(now)         # RFC 5961 §4.2
            return self.rearm()
        # Fifth
        if not header.flags & ACK:
            return 0
        if self.stamping and offset <= self.last_ack_sent and distance(self.ts_recent, header.ts_value) >= 0:
            self.ts_recent = header.ts_value        # RFC 7323 §4.3
            self.ts_recent_at = now
        ack = self.snd_una + distance(self.snd_wire(self.snd_una), header.acknowledgement)
        if self.stage == SYN_RECEIVED:
            if ack != 0:
                return self.owner.reset_stranger(packet, header)
            _complete(self, header, offset, now)
        elif ack > self.snd_nxt or ack < self.snd_una - self.max_snd_wnd:
            self.challenge(now)         # RFC 5961 §5.2
            return self.rearm()
        self.heard_at = now
        self.alive_probes = 0
        if self.ecn:
            if header.flags & CWR:
                self.echo_ce = False
            if packet.traffic & 3 == CONGESTION_EXPERIENCED:
                self.echo_ce = True
                self.ack_now = True
                self.host.want(self)
        self.acknowledge(header, ack, offset, now)
        if self.fin_acked and _on_fin_acked(self, now):
            return 0
        # Seventh and eighth; the sixth is urgent data.
        if length and (self.stage == ESTABLISHED or self.stage == FIN_WAIT_1 or self.stage == FIN_WAIT_2):
            _on_text(self, header, offset, edge, now)
            if self.over:
                return 0
        return self.rearm()

    cdef int return_credit(self) except -1:
        # A quarter of the window at a time, and what was shut is opened as soon as a segment fits: few segments, and the peer
        # never waits while we keep up.
        cdef int64_t target, left
        if self.over or self.fin_received or self.stage < ESTABLISHED:
            return 0
        target = <int64_t>(self.consumed_to + self.owner.window_for(self.window))
        left = self.rcv_edge - self.rcv_nxt
        if target - self.rcv_edge >= <int64_t>(self.window >> 2) or (
            left < <int64_t>self.rcv_mss and target - self.rcv_edge >= min(<int64_t>(self.window >> 1), <int64_t>self.rcv_mss)
        ):
            self.ack_now = True
            return self.host.want(self)
        return 0

    cdef int release(self) except -1:
        cdef uint64_t owed
        self.released = True
        self.into.clear()
        owed = self.into.highest - self.consumed_to
        self.owner.received -= <int64_t>owed
        self.delivered = self.consumed_to = self.into.highest
        return self.return_credit() if owed else 0


cdef int _in_syn_sent(Receiving self, const Packet* packet, Header* header, double now) except -1:
    # RFC 9293 §3.10.7.3
    cdef bint acknowledges = header.flags & ACK != 0
    if acknowledges and header.acknowledgement != self.snd_wire(0):
        return 0 if header.flags & RST else self.owner.reset_stranger(packet, header)
    if header.flags & RST:
        return self.end(reason_of("REFUSED", None)) if acknowledges else 0
    if not header.flags & SYN:
        return 0
    self.irs = header.sequence
    self.rcv_nxt = 0
    self.heard_at = now
    self.agree(header, now)
    if acknowledges:
        # RFC 3168 §6.1.1: both set mean that ours were sent back by somebody who does not know them.
        self.ecn = self.ecn and header.flags & (ECE | CWR) == ECE
        self.establish(now)
        self.snd_wl1 = self.snd_wl2 = 0
        self.ack_now = True
        self.arrivals_changed()
    else:
        self.ecn = self.ecn and header.flags & (ECE | CWR) == (ECE | CWR)
        self.stage = SYN_RECEIVED       # Both have begun (MUST-10).
        self.syn_wanted = True
    return self.host.want(self)


cdef int _complete(Receiving self, const Header* header, int64_t offset, double now) except -1:
    # SYN-RECEIVED, and our SYN is acknowledged.
    self.establish(now)
    self.snd_wl1 = offset - 1       # That `acknowledge` takes this window.
    self.snd_wl2 = 0
    if self.out.finished:
        self.host.want(self)
    return self.arrivals_changed()


cdef bint _is_fresh(Receiving self, const Header* header, double now) except? -1:
    # PAWS (RFC 7323 §5.3), and §3.2 for segments without timestamps.
    if not header.stamped:
        self.traffic.stale += 1
        return False
    if distance(self.ts_recent, header.ts_value) >= 0:
        return True
    if now - self.ts_recent_at > STALE_STAMP:
        self.ts_recent = header.ts_value
        self.ts_recent_at = now
        return True
    self.traffic.stale += 1
    self.challenge(now)
    return False


cdef inline bint _is_acceptable(Receiving self, int64_t offset, int64_t length, int64_t edge) noexcept:
    # RFC 9293 table 6. While the window is shut, what begins where it should is taken for its ACK, RST or URG (MUST-66).
    if not length or edge == self.rcv_nxt:
        return self.rcv_nxt <= offset <= edge
    return offset < edge and offset + length > self.rcv_nxt


cdef int _answer_unacceptable(Receiving self, const Header* header, int64_t offset, int64_t length, double now) except -1:
    if header.flags & RST:
        return 0
    if self.stage == SYN_RECEIVED and header.flags & SYN and offset == -1:
        self.syn_wanted = True      # Our SYN-ACK was lost.
        return self.host.want(self)
    if header.size and not header.flags & SYN and offset + length <= self.rcv_nxt and self.stage > SYN_RECEIVED:
        # What we have is sent again: our ACK was lost, or it was too early (RFC 2883 §4).
        self.traffic.duplicates += 1
        self.dup_start = offset
        self.dup_stop = offset + <int64_t>header.size
        self.ack_now = True
        return self.host.want(self)
    if header.flags & FIN and offset + length <= self.rcv_nxt and self.stage > SYN_RECEIVED:
        self.ack_now = True
        return self.host.want(self)
    return self.challenge(now)


cdef int _on_reset(Receiving self) except -1:
    # RFC 9293 §3.10.7.4, second.
    if self.stage == SYN_RECEIVED:
        return self.end(reason_of("RESET" if self.passive else "REFUSED", None))
    return self.end(reason_of("RESET", None))


cdef bint _on_fin_acked(Receiving self, double now) except? -1:
    # Whether the connection is over with it.
    if self.stage == FIN_WAIT_1:
        self.stage = FIN_WAIT_2
        if self.released and self.life_at == NEVER:
            self.life_at = now + self.owner.limits.fin_wait_2
    elif self.stage == CLOSING or self.stage == LAST_ACK:
        self.finish_off(now)
        return True
    return False


cdef int _on_text(Receiving self, const Header* header, int64_t offset, int64_t edge, double now) except -1:
    cdef const uint8_t* data = header.data
    cdef int64_t size = <int64_t>header.size, former = self.rcv_nxt
    cdef bint fin = header.flags & FIN != 0, gaps = self.into.received.count != 0
    cdef uint64_t highest = self.into.highest
    if size and self.released and self.out.finished:
        # RFC 9293 §3.6.1, RFC 2525 §2.16: nobody is there to take it.
        if offset + size > self.rcv_nxt:
            return self.abort(reason_of("LOCALLY_RESET", None), now)
    if offset < self.rcv_nxt:
        if size:
            self.traffic.duplicates += 1
            self.dup_start = offset
            self.dup_stop = min(offset + size, self.rcv_nxt)
            self.ack_now = True
        data += min(self.rcv_nxt - offset, size)
        size = max(size - (self.rcv_nxt - offset), <int64_t>0)
        offset = self.rcv_nxt
    if offset + size > edge:
        size = edge - offset        # What does not fit comes again (RFC 9293 §3.10.7.4).
        fin = False
        self.ack_now = True
    if offset > self.rcv_nxt and self.into.received.count >= MOST_HOLES:
        return self.host.want(self)
    if size or fin:
        if self.into.receive(<uint64_t>offset, data, <size_t>size, fin) != ARRIVED:
            return self.challenge(now)      # The end is elsewhere now, or there is text behind it: nothing we can make of it.
    self.rcv_nxt = <int64_t>self.into.ready
    self.owner.received += <int64_t>(self.into.highest - highest)
    self.unacked += 1
    if size > <int64_t>self.rcv_mss:
        self.rcv_mss = <uint32_t>size
    if self.rcv_nxt > former:
        self.traffic.octets_received += <uint64_t>(self.rcv_nxt - former)
        if self.released:
            self.release()
        else:
            self.arrivals_changed()
    if offset > former:
        self.traffic.out_of_order += 1
        _note_recent(self, offset)
    if gaps or offset > former or self.quick or self.unacked >= 2:
        # RFC 5681 §4.2: at once around gaps. RFC 9293 SHLD-19: every second one.
        if self.quick:
            self.quick -= 1
        self.ack_now = True
    elif self.ack_at == NEVER:
        self.ack_at = now + self.owner.limits.delayed_ack
    if not self.fin_received and self.into.final == self.into.ready:
        _on_fin(self, now)
    if self.ack_now and not self.over:
        return self.host.want(self)
    return 0


cdef int _on_fin(Receiving self, double now) except -1:
    self.fin_received = True
    self.rcv_nxt += 1
    self.ack_now = True
    self.arrivals_changed()
    if self.stage == ESTABLISHED:
        self.stage = CLOSE_WAIT
    elif self.stage == FIN_WAIT_1:
        self.stage = CLOSING        # Were our FIN acknowledged, it would be in FIN-WAIT-2 by now.
    elif self.stage == FIN_WAIT_2:
        return self.finish_off(now)
    return 0


cdef void _note_recent(Receiving self, int64_t offset) noexcept:
    # RFC 2018 §4: the block of the segment that has just arrived comes first, then those told before.
    cdef int index = 3
    cdef int at
    for at in range(3):
        if self.recent[at] == offset:
            index = at
            break
    while index:
        self.recent[index] = self.recent[index - 1]
        index -= 1
    self.recent[0] = offset
