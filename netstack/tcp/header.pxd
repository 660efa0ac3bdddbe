"""TCP headers and their options, read and written in place (RFC 9293 §3.1), and the arithmetic of sequence numbers.

On the wire a sequence number has 32 bits. Inside, it is the 64-bit *offset* of an octet in its stream: the first octet,
behind the SYN, has offset 0; the FIN has the offset behind the last octet's.
"""

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..ip cimport Packet

cdef enum Flags:
    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16
    URG = 32
    ECE = 64
    CWR = 128

cdef enum:
    PLAIN_HEADER = 20
    LARGEST_TCP_HEADER = 60
    MOST_SACKS = 4          # blocks that fit a header without other options
    TIMESTAMPS_SIZE = 12    # octets of the option with what aligns it
    MOST_SCALE = 14         # RFC 7323 §2.3
    SMALLEST_MSS = 48
    # Octets, as on Linux: a peer that says less wants us to be busy with headers (CVE-2019-11479).

cdef struct Sack:
    uint32_t start
    uint32_t stop

cdef struct Header:
    uint32_t sequence
    uint32_t acknowledgement
    uint16_t source_port
    uint16_t destination_port
    uint16_t window             # as on the wire
    uint16_t urgent
    uint8_t flags
    uint8_t sack_count
    int8_t scale                # -1: no such option
    bint sack_permitted
    bint stamped                # there is a timestamps option
    uint16_t mss                # 0: no such option
    uint32_t ts_value
    uint32_t ts_echo
    Sack sacks[4]
    const uint8_t* data
    size_t size                 # of the data, octets



# False: too short, lengths that contradict each other, or a wrong checksum. Options that are not known are skipped; behind one
# with an impossible length nothing is read (RFC 9293 MUST-7).
cdef bint read_header(const Packet* packet, Header* header) noexcept

# What a segment takes of the space of sequence numbers.
cdef inline int64_t length_of(const Header* header) noexcept:
    return <int64_t>header.size + (1 if header.flags & SYN else 0) + (1 if header.flags & FIN else 0)

# From one sequence number on the wire to another, -2^31 to 2^31 - 1: expands what is near a known one.
cdef inline int32_t distance(uint32_t from_, uint32_t to) noexcept:
    return <int32_t>(to - from_)

# A header without options. Its checksum is put in by `seal`.
cdef void write_plain(
    uint8_t* out, uint16_t source_port, uint16_t destination_port, uint32_t sequence, uint32_t acknowledgement, uint8_t flags,
    uint32_t window
) noexcept
# Options, each with what aligns it to four octets; they return where the next goes.
cdef uint8_t* put_mss(uint8_t* at, uint32_t mss) noexcept
cdef uint8_t* put_scale(uint8_t* at, int scale) noexcept
cdef uint8_t* put_sack_permitted(uint8_t* at) noexcept
cdef uint8_t* put_timestamps(uint8_t* at, uint32_t value, uint32_t echo) noexcept
cdef uint8_t* put_sacks(uint8_t* at, const Sack* sacks, int count) noexcept
# Header length and checksum. end: behind the options. size: of the data, which stands there. pseudo: `pseudo_sum` for a size
# of 0: the sum is the same for all segments between two addresses but for that.
cdef void seal(uint8_t* out, uint8_t* end, size_t size, uint64_t pseudo) noexcept
