"""The Internet checksum (RFC 1071)."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from .address cimport Address

# Sums are of 16-bit words as they stand in memory, whatever the machine's byte order, with carries not folded in yet.
# A part that begins at an odd offset of the whole is put in with ``shifted``.
cdef uint64_t sum_of(const uint8_t* data, size_t size) noexcept         # size: up to 2^32
cdef uint64_t shifted(uint64_t sum) noexcept
cdef uint16_t folded(uint64_t sum) noexcept                             # 16 bits, as it stands in memory
# Of the pseudo-header of IPv4 (RFC 9293 §3.1) or IPv6 (RFC 8200 §8.1). size: of header and data above IP.
cdef uint64_t pseudo_sum(const Address* source, const Address* destination, uint8_t protocol, size_t size) noexcept
# A checksum after 16-bit words have changed (RFC 1624 equation 3); all as they stand in memory.
cdef uint16_t adjusted(uint16_t checksum, uint16_t before, uint16_t after) noexcept
