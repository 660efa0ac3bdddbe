"""SYN cookies. Read RFC 4987 §3.6 and ``cookies.pxd`` first. What is kept of the options is as on Linux."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ..address cimport is_v4
from ..host cimport Name
from .header cimport CWR, ECE, SYN, Header
from .keyed cimport FOR_COOKIE, hash_name

cdef double SPAN = 64.0         # s: of one tick of the five bits
cdef enum:
    NO_SCALE = 15
    KEPT_BITS = 0x3f
    SACK_BIT = 0x10
    ECN_BIT = 0x20
    HASH_BITS = 0xffffff

cdef uint16_t SIZES4[8]
cdef uint16_t SIZES6[8]
SIZES4[:] = [536, 966, 1200, 1300, 1360, 1400, 1440, 1460]
SIZES6[:] = [1220, 1260, 1300, 1340, 1380, 1400, 1420, 1440]


cdef inline uint16_t _size(bint v4, uint32_t index) noexcept:
    return SIZES4[index] if v4 else SIZES6[index]


cdef uint32_t _hash(const uint8_t* key, const Name* name, uint32_t isn, uint32_t tick, uint32_t index) noexcept:
    return <uint32_t>(hash_name(key, name, FOR_COOKIE, <uint64_t>isn << 32 | tick << 3 | index) & HASH_BITS)


cdef uint32_t make_cookie(const uint8_t* key, const Name* name, const Header* syn, double now) noexcept:
    cdef uint32_t tick = <uint32_t>(<uint64_t>(now / SPAN) & 0xffffff)
    cdef bint v4 = is_v4(&name.local)
    cdef uint32_t index = 7
    while index and _size(v4, index) > syn.mss:
        index -= 1      # The largest that is no more than what the peer takes.
    return (tick & 31) << 27 | index << 24 | _hash(key, name, syn.sequence, tick, index)


cdef uint32_t stamp_with_options(uint32_t stamp, const Header* syn, bint ecn) noexcept:
    cdef uint32_t bits = <uint32_t>(syn.scale if syn.scale >= 0 else NO_SCALE)
    if syn.sack_permitted:
        bits |= SACK_BIT
    if ecn:
        bits |= ECN_BIT
    bits |= stamp & ~<uint32_t>KEPT_BITS
    return bits if <int>(stamp - bits) >= 0 else bits - KEPT_BITS - 1


cdef bint read_cookie(const uint8_t* key, const Name* name, const Header* ack, Header* syn, bint* ecn, double now) noexcept:
    cdef uint32_t cookie = ack.acknowledgement - 1, index = cookie >> 24 & 7
    cdef uint32_t tick = <uint32_t>(<uint64_t>(now / SPAN) & 0xffffff)
    cdef uint32_t age = (tick - (cookie >> 27)) & 31, scale
    if age > 1 or (age and not tick):
        return False
    if _hash(key, name, ack.sequence - 1, tick - age, index) != cookie & HASH_BITS:
        return False
    memset(syn, 0, sizeof(Header))
    syn.source_port = ack.source_port
    syn.destination_port = ack.destination_port
    syn.sequence = ack.sequence - 1
    syn.flags = SYN
    syn.window = ack.window
    syn.mss = _size(is_v4(&name.local), index)
    syn.scale = -1
    ecn[0] = False
    if ack.stamped:
        syn.stamped = True
        syn.ts_value = ack.ts_value
        scale = ack.ts_echo & 15
        syn.scale = -1 if scale == NO_SCALE else <signed char>scale
        syn.sack_permitted = ack.ts_echo & SACK_BIT != 0
        if ack.ts_echo & ECN_BIT:
            ecn[0] = True
            syn.flags |= ECE | CWR
    return True
