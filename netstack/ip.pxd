"""IPv4 and IPv6 headers, read and written in place (RFC 791, RFC 8200)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address

cdef enum Protocol:
    ICMP = 1
    TCP = 6
    UDP = 17
    ICMPV6 = 58
    NO_NEXT = 59

cdef enum:
    HEADER4 = 20            # octets, without options
    HEADER6 = 40
    LARGEST_HEADER = 40
    SMALLEST_MTU4 = 68      # RFC 791 §3.2
    SMALLEST_MTU6 = 1280    # RFC 8200 §5

cdef enum Reading:
    READ = 0
    # Not to be answered:
    SHORT = 1               # shorter than it says, or than a header
    BAD_VERSION = 2
    BAD_HEADER = 3          # lengths that contradict each other, a wrong IPv4 header checksum
    # Of IPv6, to be answered with Parameter Problem (RFC 4443 §3.4), `pointer` says where:
    BAD_FIELD = 4           # code 0
    UNKNOWN_NEXT = 5        # code 1: of an extension header
    UNKNOWN_OPTION = 6      # code 2
    INCOMPLETE_CHAIN = 7    # code 3: a first fragment without all headers (RFC 7112)

cdef struct Packet:
    const uint8_t* data     # the IP packet
    size_t size             # as its header has it; what stood behind is left out
    int version
    uint8_t traffic         # DSCP and ECN
    uint8_t hops            # TTL or hop limit
    uint8_t protocol        # of what stands at `payload`, extension headers skipped
    bint mute               # an unknown option asks that multicast be left unanswered (RFC 8200 §4.2)
    Address source
    Address destination
    const uint8_t* payload
    size_t payload_size
    # Of a fragment: offset is in octets. `fragment` is False for an atomic one (RFC 6946), which stands for itself.
    bint fragment
    bint more
    bint keep               # Don't Fragment
    uint32_t id
    size_t offset
    size_t pointer

# Neither source nor destination is judged, nor the hop limit.
cdef Reading read_packet(const uint8_t* data, size_t size, Packet* packet) noexcept

# A header of HEADER4 or HEADER6 octets, of what the addresses are. size: octets behind it. id: of IPv4; keep: Don't Fragment.
# Returns where the payload goes.
cdef uint8_t* write_header(
    uint8_t* out, const Address* source, const Address* destination, uint8_t protocol, size_t size, uint8_t traffic,
    uint8_t hops, uint16_t id, bint keep
) noexcept

cdef inline uint16_t get16(const uint8_t* at) noexcept:
    return <uint16_t>(at[0] << 8 | at[1])

cdef inline uint32_t get32(const uint8_t* at) noexcept:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]

cdef inline void put16(uint8_t* at, uint32_t value) noexcept:
    at[0] = <uint8_t>(value >> 8 & 0xff)
    at[1] = <uint8_t>(value & 0xff)

cdef inline void put32(uint8_t* at, uint32_t value) noexcept:
    at[0] = <uint8_t>(value >> 24)
    at[1] = <uint8_t>(value >> 16 & 0xff)
    at[2] = <uint8_t>(value >> 8 & 0xff)
    at[3] = <uint8_t>(value & 0xff)
