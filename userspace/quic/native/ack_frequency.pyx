"""Read draft-ietf-quic-ack-frequency and ``ack_frequency.pxd`` first."""

from libc.stdint cimport uint8_t, uint64_t

from quicsocks.netstack.ranges cimport Range

from ..errors import PeerError

from .core cimport Core
from .path cimport Path
from .space cimport Space
from .wire cimport PROTOCOL_VIOLATION, get_varint

cdef enum:
    LONGEST_ACK_DELAY_US = 1 << 24
    ACKS_A_WINDOW = 64
    # So many a round trip cost nothing on paths with losses (with 16, Reno and BBR lost up to 6 % of their goodput).
    MOST_UNTOLD = 63
    # Packets that a peer is asked to take before it acknowledges them: what a batch holds.


cdef bint is_reordered(Core self, Space space, uint64_t number, bint newest) noexcept:
    cdef Range* ranges = space.received.items
    cdef int last = space.received.count - 1
    cdef uint64_t reported, missing
    if not self.reordering_threshold:
        return False
    if self.reordering_threshold == 1:
        return not newest or last > 0 and ranges[last].start == number
    if not newest and number < space.largest_reported:
        return True
    # The lowest number that is missing, and has not been told to be by an ACK that went this far beyond it.
    reported = 0
    if space.largest_reported >= self.reordering_threshold:
        reported = space.largest_reported - self.reordering_threshold + 1
    missing = space.largest_received
    while last > 0 and ranges[last].start > reported:
        missing = ranges[last - 1].stop if ranges[last - 1].stop > reported else reported
        last -= 1
    return space.largest_received - missing >= self.reordering_threshold


cdef const uint8_t* receive_ack_frequency(Core self, const uint8_t* at, const uint8_t* end) except? NULL:
    cdef uint64_t values[4]
    cdef int i
    for i in range(4):
        at = get_varint(at, end, &values[i])
        if at == NULL:
            return NULL
    if values[2] < MIN_ACK_DELAY_US:
        raise PeerError("a requested max_ack_delay below our min_ack_delay", PROTOCOL_VIOLATION)
    if values[0] < self.ack_frequency_heard:
        return at       # A later one has come before it.
    self.ack_frequency_heard = values[0] + 1
    self.ack_threshold = values[1]
    # An end that waits too long makes the other suspect a loss: no longer than the parameter may say (RFC 9000 §18.2).
    self.max_ack_delay = <double>min(values[2], <uint64_t>LONGEST_ACK_DELAY_US) * 1e-6
    self.reordering_threshold = values[3]
    return at


cdef void ask_for_acks(Core self) noexcept:
    # Fewer acknowledgements, the larger the window (the draft's §7). Small changes are not worth a frame.
    cdef Path path = self.space.path
    cdef uint64_t wanted = path.controller.window // path.mtu // ACKS_A_WINDOW
    wanted = 1 if wanted < 1 else MOST_UNTOLD if wanted > MOST_UNTOLD else wanted
    if wanted >= 2 * self.threshold_asked or 2 * wanted <= self.threshold_asked:
        self.threshold_asked = wanted
        self.ack_frequency_pending = True
