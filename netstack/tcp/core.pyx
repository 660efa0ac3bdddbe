"""What all layers of a connection share: its names for things, its timers, its end. Read RFC 9293 §3.3 and ``core.pxd`` first.

The layers: ``core``, ``recovery`` (acknowledgements and loss), ``receiving`` (segments that arrive), ``sending`` (segments that
leave), ``connection`` (what applications see). Each knows those before it.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..address cimport is_v4
from ..checksum cimport pseudo_sum
from ..congestion cimport Pacer
from ..controllers cimport make_controller
from ..ip cimport HEADER4, HEADER6, TCP, write_header
from ..loss_based cimport LossBased
from ..receive_buffer cimport ReceiveBuffer
from ..rtt cimport RttEstimator
from ..send_buffer cimport SendBuffer
from .endpoint cimport Endpoint, Limits
from .header cimport ACK, PLAIN_HEADER, RST, SMALLEST_MSS, TIMESTAMPS_SIZE, Header, put_timestamps, seal, write_plain
from .keyed cimport FOR_TIMESTAMP, hash_name
from .segments cimport Segments

from .types import End, Ended

cdef double NEVER = float("inf")
cdef double CHALLENGE_SPAN = 5.0
cdef double GRANULARITY = 0.001     # s: G (RFC 6298 §2)
cdef enum:
    DEFAULT_MSS4 = 536          # RFC 9293 MUST-15
    DEFAULT_MSS6 = 1220
    CHALLENGES = 10             # in CHALLENGE_SPAN seconds (RFC 5961 §7)
    CHALLENGE_SPREAD = 4        # more, at random: how many were sent tells nobody anything (CVE-2016-5696)
    MOST_BACKOFF = 16
    HOPS = 64
    QUICK_ACKS = 16             # at the start, as on Linux: the peer is in slow start, and counts them


cdef class Core(Endpoint):
    cdef int begin(self, double now) except -1:
        cdef int i
        self.overhead = (HEADER4 if is_v4(&self.name.local) else HEADER6) + PLAIN_HEADER
        self.pseudo = pseudo_sum(&self.name.local, &self.name.remote, TCP, 0)
        self.ip_id = <uint16_t>(self.host.chance() & 0xffff)
        self.rcv_scale = self.owner.limits.scale
        self.peer_mss = DEFAULT_MSS4 if is_v4(&self.name.local) else DEFAULT_MSS6
        self.out = SendBuffer()
        self.into = ReceiveBuffer()
        self.segments = Segments()
        self.rtt = RttEstimator(self.owner.limits.initial_rto)
        self.nagle = self.owner.limits.nagle
        self.window = self.owner.limits.first_window
        self.window_began = self.heard_at = self.sent_at = now
        self.rcv_mss = self.peer_mss
        for i in range(4):
            self.recent[i] = -1
        self.dup_start = self.tlp_end = self.reo_round = -1
        self.snd_una = -1       # The SYN.
        self.rcv_nxt = -1
        self.reo_wnd_mult = 1
        self.ts_offset = <uint32_t>(
            hash_name(<const uint8_t*><const char*>self.host.secret, &self.name, FOR_TIMESTAMP, 0) & 0xffffffff
        )
        self.quick = QUICK_ACKS
        self.ack_at = self.rto_at = self.tlp_at = self.reorder_at = self.persist_at = self.pacing_at = NEVER
        self.alive_at = self.life_at = self.stuck_since = self.mtu_raise_at = NEVER
        self.user_timeout = self.owner.limits.user_timeout
        self.keepalive = self.owner.limits.keepalive
        self.challenge_from = -NEVER
        self.mtu = self.host.path_mtu(&self.name.remote)
        self.mss = min(self.peer_mss, self.mtu - self.overhead)
        return 0

    cdef double rto(self) noexcept:
        # RFC 6298 §2, §5.5.
        cdef double seconds = self.rtt.smoothed     # What it was given at first, while there is no sample.
        if self.rtt.sampled:
            seconds = self.rtt.timeout(self.owner.limits.minimum_rto)
        seconds *= <double>(<uint64_t>1 << min(self.backoff, <uint32_t>MOST_BACKOFF))
        return min(max(seconds, GRANULARITY), self.owner.limits.maximum_rto)

    cdef uint32_t stamp_of(self, double now) noexcept:
        # RFC 7323 §5.4: ticks of 1 ms. Offset, so that it does not tell how long this process has run.
        return <uint32_t>((<uint64_t>(now * 1000.0) + self.ts_offset) & 0xffffffff)

    cdef uint32_t snd_wire(self, int64_t offset) noexcept:
        return <uint32_t>((<uint64_t>(offset + 1) + self.iss) & 0xffffffff)

    cdef uint32_t rcv_wire(self, int64_t offset) noexcept:
        return <uint32_t>((<uint64_t>(offset + 1) + self.irs) & 0xffffffff)

    cdef int rearm(self) except -1:
        cdef double due = self.rto_at
        if self.tlp_at < due:
            due = self.tlp_at
        if self.reorder_at < due:
            due = self.reorder_at
        if self.persist_at < due:
            due = self.persist_at
        if self.ack_at < due:
            due = self.ack_at
        if self.pacing_at < due:
            due = self.pacing_at
        if self.alive_at < due:
            due = self.alive_at
        if self.life_at < due:
            due = self.life_at
        if due != self.due:
            return self.host.arm(self, due)
        return 0

    cdef int set_mtu(self, uint32_t mtu, double now) except -1:
        # RFC 9293 §3.7.1: what options take is ours to take off (RFC 6691).
        cdef uint32_t mss = min(self.peer_mss, mtu - self.overhead)
        cdef uint32_t former = self.mss
        if self.stamping:
            mss -= TIMESTAMPS_SIZE
        self.mtu = mtu
        self.mss = mss
        if self.controller is not None and mss != former:
            self.controller.set_mss(mss)
            if mss < former:
                return self.segments.split(mss)
        return 0

    cdef int agree(self, const Header* header, double now) except -1:
        cdef Limits* limits = &self.owner.limits
        if header.mss:
            self.peer_mss = max(<uint32_t>header.mss, <uint32_t>SMALLEST_MSS)
        self.sacking = limits.sack and header.sack_permitted
        self.stamping = limits.timestamps and header.stamped
        self.scaling = limits.window_scaling and header.scale >= 0
        if self.scaling:
            self.snd_scale = header.scale
        else:
            self.snd_scale = self.rcv_scale = 0
        if self.stamping:
            self.ts_recent = header.ts_value
            self.ts_recent_at = now
        self.snd_wnd = self.max_snd_wnd = header.window     # RFC 7323 §2.2: never scaled in a SYN.
        self.rcv_mss = min(self.peer_mss, self.mtu - self.overhead)
        return self.set_mtu(self.mtu, now)

    cdef int establish(self, double now) except -1:
        cdef double took = now - self.syn_last_at
        if self.syn_sent == 1:
            self.rtt.update(took, 0.0)      # RFC 6298 §3: Karn
        self.controller = make_controller(self.owner.congestion, self.rtt, self.mss, now)
        self.reducing = isinstance(self.controller, LossBased)
        self.pacer = Pacer()
        if self.syn_sent > 1:
            # RFC 5681 §3.1: one segment when a SYN was lost. RFC 6298 §5.7: 3 s until there is a sample.
            self.controller.restrict(self.mss, now)
            if not self.rtt.sampled:
                self.rtt.reset(3.0)
        self.stage = ESTABLISHED
        self.snd_una = self.snd_nxt = 0
        self.backoff = 0
        self.stuck_since = NEVER
        self.rto_at = self.life_at = NEVER
        self.syn_wanted = False
        self.alive_at = now + self.keepalive if self.keepalive > 0.0 else NEVER
        return self.owner.settled(self, True) if self.passive else 0

    cdef int challenge(self, double now) except -1:
        # RFC 5961 §7. Of each connection alone: what others are answered says nothing about this one.
        if now - self.challenge_from >= CHALLENGE_SPAN:
            self.challenge_from = now
            self.challenge_budget = CHALLENGES + <int>(self.host.chance() >> 33) % CHALLENGE_SPREAD
        if self.challenge_budget <= 0:
            return 0
        self.challenge_budget -= 1
        self.traffic.challenges += 1
        self.ack_now = True
        return self.host.want(self)

    cdef uint32_t window_to_tell(self, bint syn) noexcept:
        # RFC 9293 §3.8.6.2.2: silly windows are not told of. What was told is never taken back (SHLD-14), so that scaled
        # ones are rounded up.
        cdef int64_t target = <int64_t>(self.consumed_to + self.owner.window_for(self.window))
        cdef int64_t least = min(<int64_t>(self.window // 2), <int64_t>self.rcv_mss), left
        cdef uint32_t told
        if target >= self.rcv_edge + least or not self.rcv_edge:
            self.rcv_edge = target
        left = self.rcv_edge - self.rcv_nxt
        if left < 0:
            left = 0
        if syn:
            return <uint32_t>min(left, <int64_t>65535)
        told = <uint32_t>min((left + (<int64_t>1 << self.rcv_scale) - 1) >> self.rcv_scale, <int64_t>65535)
        left = self.rcv_nxt + (<int64_t>told << self.rcv_scale)
        if left > self.rcv_edge:
            self.rcv_edge = left
        return told

    cdef bint may_send_data(self) noexcept:
        return self.stage >= ESTABLISHED

    cdef int abort(self, object end, double now) except -1:
        # RFC 9293 §3.10.5.
        cdef uint8_t* at
        cdef uint8_t* tcp
        cdef uint8_t* options
        if self.over:
            return 0
        if self.stage >= SYN_RECEIVED:
            at = self.host.loose_room(HEADER6 + PLAIN_HEADER + TIMESTAMPS_SIZE)
            tcp = write_header(
                at, &self.name.local, &self.name.remote, TCP, PLAIN_HEADER + (TIMESTAMPS_SIZE if self.stamping else 0), 0,
                HOPS, self.ip_id, True
            )
            write_plain(
                tcp, self.name.local_port, self.name.remote_port, self.snd_wire(self.snd_nxt), self.rcv_wire(self.rcv_nxt),
                RST | ACK, 0
            )
            options = tcp + PLAIN_HEADER
            if self.stamping:
                options = put_timestamps(options, self.stamp_of(now), self.ts_recent)
            seal(tcp, options, 0, self.pseudo)
            self.owner.counters.resets_sent += 1
            self.host.send_loose(<size_t>(options - at))
        return self.end(end)

    cdef int end(self, object ended) except -1:
        cdef bint embryonic = self.stage == SYN_RECEIVED and self.passive
        if self.over:
            return 0
        self.over = True
        self.stage = CLOSED
        self.owner.forget(self)
        self.host.disarm(self)
        if embryonic:
            self.owner.settled(self, False)
        self.owner.received -= <int64_t>(self.into.highest - self.consumed_to)
        self.owner.written -= <int64_t>(self.out.end - self.out.floor)
        self.consumed_to = self.into.highest
        self.out.clear()
        self.into.clear()
        self.segments.clear()
        return self.ended_with(ended)

    cdef int ended_with(self, object ended) except -1:
        return 0

    cdef int mtu_probe_lost(self, uint32_t size, double now) except -1:
        return 0

    cdef int suspect_black_hole(self, double now) except -1:
        return 0

    cdef int finish_off(self, double now) except -1:
        return 0

    cdef int arrivals_changed(self) except -1:
        return 0

    cdef int sendings_changed(self) except -1:
        return 0


cdef object reason_of(str end, object error):
    return Ended(End[end]) if error is None else Ended(End[end], error[0], error[1])
