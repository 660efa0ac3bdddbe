"""Paths: RTT, congestion controller, address validation and the size of datagrams, each of one path.

Read RFC 9000 §8, §9 and §14, and RFC 8899. Datagrams have 1200 octets until a probe has shown that more pass: first the
most that is allowed, then whatever halves the gap.
"""

from libc.stdint cimport uint32_t, uint64_t

from quicsocks.netstack.congestion cimport Pacer
from quicsocks.netstack.controllers cimport make_controller
from quicsocks.netstack.rtt cimport RttEstimator

cdef enum:
    PROBE_TRIES = 2
    # Probes of one size before a smaller one: one may be lost by congestion.
    CLOSE_ENOUGH = 20
    # Octets: what is left of the search is not worth another round trip.
    LARGE_LOST = 6
    # Large packets lost in a row, over some time, after which the path is believed to drop them (RFC 8899 §4.3).

cdef double RAISE_AFTER = 600.0
# Seconds until a size that did not pass is tried again (RFC 8899 §5.1.1).
cdef double SETTLE = 5.0
# Seconds before a search begins anew behind a black hole: an outage looks much the same.
cdef double NEVER = float("inf")


cdef Path make_path(object route, uint32_t id, str congestion, uint32_t mtu_limit, double initial_rtt, double now):
    cdef Path path = Path.__new__(Path)
    path.route = route
    path.id = id
    path.rtt = RttEstimator(initial_rtt)
    path.mtu = SMALLEST_DATAGRAM
    path.mtu_limit = mtu_limit
    path.mtu_refused = mtu_limit + 1
    path.controller = make_controller(congestion, path.rtt, SMALLEST_DATAGRAM, now)
    path.pacer = Pacer()
    path.challenge_again_at = path.give_up_at = NEVER
    path.spin_cid = <uint64_t>0xffffffffffffffff
    return path


cdef class Path:
    cdef uint64_t allowance(self) noexcept:
        if self.validated or self.chosen:
            return <uint64_t>1 << 62
        return 3 * self.received - self.sent if 3 * self.received > self.sent else 0

    cdef int answer(self, uint64_t challenge) noexcept:
        if self.response_count < CHALLENGES:
            self.responses[self.response_count] = challenge
            self.response_count += 1
        return 0

    cdef uint32_t next_probe(self, double now) noexcept:
        if not self.validated or self.probe_size or now < self.probe_at or self.mtu + CLOSE_ENOUGH >= self.mtu_refused:
            return 0
        if self.mtu >= self.mtu_limit:
            return 0
        if self.mtu_refused > self.mtu_limit:
            return self.mtu_limit
        return (self.mtu + self.mtu_refused) // 2

    cdef void probe_sent(self, uint32_t size) noexcept:
        self.probe_size = size

    cdef bint probe_acked(self, uint32_t size, double now) noexcept:
        self.probe_size = 0
        self.probe_tries = 0
        self.large_lost = 0
        if size <= self.mtu:
            return False
        self.mtu = size
        assert SMALLEST_DATAGRAM <= size <= self.mtu_limit
        if size >= self.mtu_refused:
            self.mtu_refused = self.mtu_limit + 1
        self.controller.set_mss(size)
        _rest_if_found(self, now)
        return True

    cdef void probe_lost(self, uint32_t size, double now) noexcept:
        self.probe_size = 0
        self.probe_tries += 1
        if self.probe_tries >= PROBE_TRIES:
            self.probe_tries = 0
            self.mtu_refused = size
            _rest_if_found(self, now)

    cdef void large_packet_acked(self, uint32_t size) noexcept:
        if size >= self.large_smallest:
            self.large_lost = 0

    cdef bint large_packet_lost(self, uint32_t size, double now, double patience) noexcept:
        # Frames do not fill packets to the last octet: what counts is any size that not every path carries.
        if not self.large_lost:
            self.large_lost_since = now
            self.large_smallest = size
        elif size < self.large_smallest:
            self.large_smallest = size
        self.large_lost += 1
        if self.large_lost >= LARGE_LOST and now - self.large_lost_since > patience:
            return self.black_hole(now)
        return False

    cdef bint black_hole(self, double now) noexcept:
        if self.mtu <= SMALLEST_DATAGRAM:
            return False
        self.mtu_refused = self.mtu_limit + 1
        self.mtu = SMALLEST_DATAGRAM
        self.large_lost = 0
        self.probe_at = now + SETTLE
        self.controller.set_mss(SMALLEST_DATAGRAM)
        return True


cdef void _rest_if_found(Path self, double now) noexcept:
    # After the search, sizes that did not pass are tried again only much later.
    if self.mtu < self.mtu_limit and self.mtu + CLOSE_ENOUGH >= self.mtu_refused:
        self.probe_at = now + RAISE_AFTER
        self.mtu_refused = self.mtu_limit + 1
