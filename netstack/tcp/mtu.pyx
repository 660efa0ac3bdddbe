"""The path's MTU. Read RFC 8899 §5, RFC 4821 §7, RFC 1191 §6 and ``mtu.pxd`` first.

What the link carries, or the stack has heard of from routers, is taken to pass until it is seen not to: large segments that
time out again and again (black holes, RFC 4821 §7.7). Then a small size is used that passes nearly everywhere, and larger
ones are tried with data that was to be sent anyhow, half the distance at a time. A probe that is lost is no congestion.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from ..address cimport is_v4
from ..ip cimport SMALLEST_MTU6
from .core cimport OPEN
from .header cimport TIMESTAMPS_SIZE
from .repair cimport Repairing
from .segments cimport NO_SEGMENT, PROBE, Segment

cdef double NEVER = float("inf")
cdef double RAISE_AFTER = 600.0     # s: PMTU_RAISE_TIMER (RFC 8899 §5.1.1), the same in RFC 1191 §6.3
cdef enum:
    SAFE4 = 1024
    # Octets to fall back to, as on Linux; what RFC 4821 §7.7 has, 1024 of data or less.
    SMALLEST4 = 576                 # and when that does not pass either (RFC 791: all hosts take it)
    NEAR = 16                       # octets: nearer is near enough
    MOST_LOSSES = 2                 # of a size; a single loss may be congestion's
    LEAST_WINDOW = 8                # segments: a smaller one has no room for experiments
    BEHIND = 5
    # Segments that must follow a probe, that its loss is noticed and repaired without a timeout (RFC 4821 §7.2).


cdef class PathMtu(Repairing):
    cdef int path_changed(self, double now) except -1:
        cdef uint32_t mtu = self.host.path_mtu(&self.name.remote)
        if mtu < self.mtu:
            self.mtu_floor = mtu
            self.mtu_ceiling = 0
            self.mtu_raise_at = now + RAISE_AFTER
            self.mtu_probe_out = False
            _lose_larger(self, mtu)
            self.set_mtu(mtu, now)
            return self.host.want(self)
        if mtu > self.mtu and not self.mtu_ceiling and self.mtu_raise_at == NEVER:
            return self.set_mtu(mtu, now)       # The link has changed, and it was the link's MTU that counted.
        return 0

    cdef int suspect_black_hole(self, double now) except -1:
        cdef uint32_t safe = self.mtu
        cdef Segment* head = self.segments.get(self.segments.first)
        if not self.owner.limits.mtu_probing:
            return 0
        if is_v4(&self.name.local):
            safe = SAFE4 if self.mtu > SAFE4 else SMALLEST4
        else:
            safe = SMALLEST_MTU6
        if safe >= self.mtu or head.size + self.overhead <= safe:
            return 0        # It is not their size.
        self.mtu_ceiling = self.mtu
        self.mtu_floor = safe
        self.mtu_losses = 0
        self.mtu_raise_at = NEVER
        return self.set_mtu(safe, now)

    cdef uint32_t probe_size(self, double now) noexcept:
        cdef uint32_t size
        cdef uint32_t most = min(self.host.path_mtu(&self.name.remote), self.peer_mss + self.overhead)
        if now >= self.mtu_raise_at:
            self.mtu_raise_at = NEVER
            self.mtu_floor = self.mtu
            self.mtu_ceiling = most + 1
            self.mtu_losses = 0
        if not self.mtu_ceiling or not self.owner.limits.mtu_probing:
            return 0
        if self.mtu_ceiling > most + 1:
            self.mtu_ceiling = most + 1
        if self.mtu_ceiling <= self.mtu_floor + NEAR:
            self.mtu_ceiling = 0
            self.mtu_raise_at = now + RAISE_AFTER
            return 0
        if self.mtu_probe_out or self.repair != OPEN or self.segments.lost_count or self.segments.sacked_count:
            return 0
        # The largest first, when it is what failed by mistake; then the middle.
        size = most if self.mtu_ceiling == most + 1 else (self.mtu_floor + self.mtu_ceiling + 1) // 2
        size -= self.overhead
        if self.stamping:
            size -= TIMESTAMPS_SIZE
        if size <= self.mss or <int64_t>self.out.end - self.snd_nxt < <int64_t>(size + BEHIND * self.mss):
            return 0
        if self.snd_una + self.snd_wnd - self.snd_nxt < <int64_t>(size + BEHIND * self.mss) or \
                self.controller.window < <uint64_t>LEAST_WINDOW * self.mss:
            return 0
        return size

    cdef int mtu_probe_passed(self, uint32_t size, double now) except -1:
        cdef uint32_t passed = size + self.overhead + (TIMESTAMPS_SIZE if self.stamping else 0)
        self.mtu_probe_out = False
        self.mtu_losses = 0
        if passed > self.mtu_floor:
            self.mtu_floor = passed
        if self.mtu_floor > self.mtu:
            return self.set_mtu(self.mtu_floor, now)
        return 0

    cdef int mtu_probe_lost(self, uint32_t size, double now) except -1:
        self.traffic.mtu_probes_lost += 1
        self.mtu_probe_out = False
        self.mtu_losses += 1
        if self.mtu_losses >= MOST_LOSSES:
            self.mtu_losses = 0
            self.mtu_ceiling = size + self.overhead + (TIMESTAMPS_SIZE if self.stamping else 0)
        # Its octets go out again in segments that pass.
        return self.segments.split(self.mss)


cdef void _lose_larger(PathMtu self, uint32_t mtu) noexcept:
    # RFC 1191 §6.4: what did not pass is sent again in pieces that do; that is no congestion.
    cdef uint32_t octets = mtu - self.overhead - (TIMESTAMPS_SIZE if self.stamping else 0)
    cdef uint64_t number = self.segments.oldest, here
    while number != NO_SEGMENT:
        here = number
        number = self.segments.get(here).later
        if self.segments.get(here).size > octets:
            self.segments.get(here).marks &= ~PROBE & 0xff
            self.segments.mark_lost(here)
