"""SYN cookies: a handshake whose state is in the numbers that the peer sends back (RFC 4987 §3.6)."""

from libc.stdint cimport uint8_t, uint32_t

from ..host cimport Name
from .header cimport Header

# Our ISS. Five bits of the time, three of the peer's MSS, 24 of a keyed hash over these, the name and the peer's ISN.
cdef uint32_t make_cookie(const uint8_t* key, const Name* name, const Header* syn, double now) noexcept
# The other options, in the low bits of a timestamp that is no later than stamp.
cdef uint32_t stamp_with_options(uint32_t stamp, const Header* syn, bint ecn) noexcept
# Whether a segment acknowledges such a cookie of the last two minutes. What the SYN said, as far as it was kept, is put into syn.
cdef bint read_cookie(const uint8_t* key, const Name* name, const Header* ack, Header* syn, bint* ecn, double now) noexcept
