"""When packets are acknowledged, as the ends have asked each other (draft-ietf-quic-ack-frequency)."""

from libc.stdint cimport uint8_t, uint64_t

from .core cimport Core
from .space cimport Space

cdef enum:
    MIN_ACK_DELAY_US = 1000
    # What our min_ack_delay says, as handshaker_parameters has it.

# Whether the packet of that number, which has just been noted, has an ACK tell at once that one is missing, or has come
# after all (RFC 9000 §13.2.1; the draft's §6.2). newest: none above it has come.
cdef bint is_reordered(Core self, Space space, uint64_t number, bint newest) noexcept
# An ACK_FREQUENCY frame behind its type. Where it ends; NULL when it is malformed. Raises PeerError.
cdef const uint8_t* receive_ack_frequency(Core self, const uint8_t* at, const uint8_t* end) except? NULL
# After an acknowledgement: let a frame ask for more of them or fewer, if the window has changed much.
cdef void ask_for_acks(Core self) noexcept
