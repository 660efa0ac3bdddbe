"""Variable-length integers (RFC 9000 §16), codes of frames and errors (§19, §20): what every file of the datapath reads."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    LARGEST_VARINT_SIZE = 8

cdef enum FrameType:
    PADDING = 0x00
    PING = 0x01
    ACK = 0x02
    ACK_ECN = 0x03
    RESET_STREAM = 0x04
    STOP_SENDING = 0x05
    CRYPTO = 0x06
    NEW_TOKEN = 0x07
    STREAM = 0x08           # to 0x0f, with three flags
    STREAM_FIN = 0x01
    STREAM_LENGTH = 0x02
    STREAM_OFFSET = 0x04
    MAX_DATA = 0x10
    MAX_STREAM_DATA = 0x11
    MAX_STREAMS_BIDI = 0x12
    MAX_STREAMS_UNI = 0x13
    DATA_BLOCKED = 0x14
    STREAM_DATA_BLOCKED = 0x15
    STREAMS_BLOCKED_BIDI = 0x16
    STREAMS_BLOCKED_UNI = 0x17
    NEW_CONNECTION_ID = 0x18
    RETIRE_CONNECTION_ID = 0x19
    PATH_CHALLENGE = 0x1a
    PATH_RESPONSE = 0x1b
    CONNECTION_CLOSE = 0x1c
    APPLICATION_CLOSE = 0x1d
    HANDSHAKE_DONE = 0x1e
    IMMEDIATE_ACK = 0x1f    # draft-ietf-quic-ack-frequency
    DATAGRAM = 0x30         # without a length: to the end of the packet
    DATAGRAM_LENGTH = 0x31
    ACK_FREQUENCY = 0xaf    # draft-ietf-quic-ack-frequency
    EXTRA = 0xff            # any frame of an extension that is registered; only in our own records

cdef enum ErrorCode:
    NO_ERROR = 0x00
    INTERNAL_ERROR = 0x01
    FLOW_CONTROL_ERROR = 0x03
    STREAM_LIMIT_ERROR = 0x04
    STREAM_STATE_ERROR = 0x05
    FINAL_SIZE_ERROR = 0x06
    FRAME_ENCODING_ERROR = 0x07
    TRANSPORT_PARAMETER_ERROR = 0x08
    CONNECTION_ID_LIMIT_ERROR = 0x09
    PROTOCOL_VIOLATION = 0x0a
    CRYPTO_BUFFER_EXCEEDED = 0x0d
    KEY_UPDATE_ERROR = 0x0e
    AEAD_LIMIT_REACHED = 0x0f


cdef inline size_t varint_size(uint64_t value) noexcept nogil:
    if value < 0x40:
        return 1
    if value < 0x4000:
        return 2
    if value < 0x40000000:
        return 4
    return 8


cdef inline uint8_t* put_varint(uint8_t* at, uint64_t value) noexcept nogil:
    # value < 2^62. Returns where to go on.
    if value < 0x40:
        at[0] = <uint8_t>value
        return at + 1
    if value < 0x4000:
        at[0] = <uint8_t>(0x40 | value >> 8)
        at[1] = <uint8_t>(value & 0xff)
        return at + 2
    if value < 0x40000000:
        at[0] = <uint8_t>(0x80 | value >> 24)
        at[1] = <uint8_t>(value >> 16 & 0xff)
        at[2] = <uint8_t>(value >> 8 & 0xff)
        at[3] = <uint8_t>(value & 0xff)
        return at + 4
    at[0] = <uint8_t>(0xc0 | value >> 56)
    at[1] = <uint8_t>(value >> 48 & 0xff)
    at[2] = <uint8_t>(value >> 40 & 0xff)
    at[3] = <uint8_t>(value >> 32 & 0xff)
    at[4] = <uint8_t>(value >> 24 & 0xff)
    at[5] = <uint8_t>(value >> 16 & 0xff)
    at[6] = <uint8_t>(value >> 8 & 0xff)
    at[7] = <uint8_t>(value & 0xff)
    return at + 8


cdef inline uint8_t* put_uint16(uint8_t* at, uint16_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>(value & 0xff)
    return at + 2


cdef inline const uint8_t* get_varint(const uint8_t* at, const uint8_t* end, uint64_t* value) noexcept nogil:
    # Where to go on; NULL when it does not end before end.
    cdef size_t size, i
    cdef uint64_t result
    if at >= end:
        return NULL
    size = <size_t>1 << (at[0] >> 6)
    if <size_t>(end - at) < size:
        return NULL
    result = at[0] & 0x3f
    for i in range(1, size):
        result = result << 8 | at[i]
    value[0] = result
    return at + size


cdef inline uint64_t decode_number(uint32_t truncated, int octets, uint64_t expected) noexcept nogil:
    # RFC 9000 §A.3. expected: one more than the largest received.
    cdef uint64_t window = <uint64_t>1 << (8 * octets)
    cdef uint64_t half = window >> 1
    cdef uint64_t candidate = (expected & ~(window - 1)) | truncated
    if candidate + half <= expected and candidate + window < (<uint64_t>1 << 62):
        return candidate + window
    if candidate > expected + half and candidate >= window:
        return candidate - window
    return candidate


cdef inline int number_octets(uint64_t number, uint64_t largest_acked, bint any_acked) noexcept nogil:
    # RFC 9000 §A.2: enough for twice the range that may be under way.
    cdef uint64_t range_ = number - largest_acked if any_acked else number + 1
    if range_ < 1 << 7:
        return 1
    if range_ < 1 << 15:
        return 2
    if range_ < 1 << 23:
        return 3
    return 4
