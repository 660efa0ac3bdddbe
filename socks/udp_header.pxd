"""The header of SOCKS5's UDP datagrams (RFC 1928 §7), read and written in place."""

from libc.stdint cimport uint8_t, uint16_t

cdef enum:
    IPV4 = 1
    NAME = 3
    IPV6 = 4
    LARGEST = 262           # octets: 4, a length, a name of 255, a port

cdef struct UdpHeader:
    uint8_t fragment        # FRAG: 0 for a datagram that stands for itself
    uint8_t kind            # ATYP: IPV4, NAME or IPV6
    const uint8_t* host     # 4 or 16 octets, or a name
    size_t host_size        # 1 to 255
    uint16_t port
    size_t size             # octets of the header: data stands behind it

# Whether it is a header: RSV is zero, ATYP known, and all of it there; a name is not empty and has no NUL, a port is not 0.
cdef bint read_udp_header(const uint8_t* data, size_t size, UdpHeader* header) noexcept
# For an address of 4 or 16 octets, FRAG 0. Octets written: 10 or 22.
cdef size_t write_udp_header(uint8_t* out, const uint8_t* host, size_t host_size, uint16_t port) noexcept
