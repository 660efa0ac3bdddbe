# The frames of a packet (RFC 9000 §19), as qlog has them: a part of ``qlog.pyx``, which includes it.


cdef int _frames(Qlog self, const uint8_t* at, const uint8_t* end, int exponent) except -1:
    # As many as can be read: what the peer has sent may be malformed.
    cdef const uint8_t* begin
    cdef uint64_t kind = 0, payload
    cdef int count = 0, ranges = MOST_FRAMES
    _list(self, "frames")
    while at < end and count < MOST_FRAMES:
        begin = at
        at = get_varint(at, end, &kind)
        if at == NULL:
            break
        count += 1
        payload = UNKNOWN
        _open(self, NULL)
        if kind == PADDING:
            while at < end and at[0] == PADDING:
                at += 1
            _word(self, "frame_type", "padding")
        elif kind == ACK or kind == ACK_ECN:
            at = _ack(self, at, end, kind == ACK_ECN, exponent, &ranges)
        elif STREAM <= kind < STREAM + 8:
            at = _stream(self, at, end, <int>kind, &payload)
        elif kind == CRYPTO or kind == NEW_TOKEN or kind == DATAGRAM or kind == DATAGRAM_LENGTH:
            at = _carrier(self, at, end, <int>kind, &payload)
        elif kind == NEW_CONNECTION_ID:
            at = _connection_id(self, at, end)
        elif kind == CONNECTION_CLOSE or kind == APPLICATION_CLOSE:
            at = _close(self, at, end, kind == APPLICATION_CLOSE)
        else:
            at = _numbers(self, at, end, kind)
        if at != NULL:
            _open(self, "raw")
            _number(self, "length", <uint64_t>(at - begin))
            if payload != UNKNOWN:
                _number(self, "payload_length", payload)
            _shut(self)
        elif kind == CRYPTO:
            _open(self, "raw")      # Required of this one.
            _shut(self)
        _shut(self)
        if at == NULL:
            break
    _unlist(self)
    return 0


cdef const uint8_t* _ack(
    Qlog self, const uint8_t* at, const uint8_t* end, bint marked, int exponent, int* left
) except? NULL:
    cdef uint64_t numbers[4]        # largest, delay, count, first range
    cdef uint64_t gap = 0, length = 0, low, high
    cdef int i
    _word(self, "frame_type", "ack")
    at = _varints(at, end, numbers, 4)
    if at == NULL or numbers[3] > numbers[0]:
        return NULL
    if exponent < 21 and numbers[1] < <uint64_t>1 << 40:
        _real(self, "ack_delay", <double>(numbers[1] << exponent) * 1e-3)
    _list(self, "acked_ranges")
    high, low = numbers[0], numbers[0] - numbers[3]
    _range(self, low, high)
    while numbers[2]:
        numbers[2] -= 1
        at = get_varint(at, end, &gap)
        if at != NULL:
            at = get_varint(at, end, &length)
        if at == NULL or low < gap + 2 or low - gap - 2 < length:
            at = NULL
            break
        high = low - gap - 2
        low = high - length
        if left[0]:
            left[0] -= 1
            _range(self, low, high)
    _unlist(self)
    if at != NULL and marked:
        at = _varints(at, end, numbers, 3)
        if at != NULL:
            _number(self, "ect0", numbers[0])
            _number(self, "ect1", numbers[1])
            _number(self, "ce", numbers[2])
    return at


cdef int _range(Qlog self, uint64_t low, uint64_t high) except -1:
    _list(self, NULL)
    _number(self, NULL, low)
    if high != low:
        _number(self, NULL, high)
    return _unlist(self)


cdef const uint8_t* _stream(
    Qlog self, const uint8_t* at, const uint8_t* end, int kind, uint64_t* payload
) except? NULL:
    cdef uint64_t number = 0, offset = 0
    _word(self, "frame_type", "stream")
    at = get_varint(at, end, &number)
    if at != NULL:
        _number(self, "stream_id", number)
        if kind & STREAM_OFFSET:
            at = get_varint(at, end, &offset)
    else:
        _number(self, "stream_id", 0)
    if at == NULL:
        return NULL
    _number(self, "offset", offset)
    _truth(self, "fin", kind & STREAM_FIN != 0)
    return _payload(at, end, kind & STREAM_LENGTH != 0, payload)


cdef const uint8_t* _carrier(
    Qlog self, const uint8_t* at, const uint8_t* end, int kind, uint64_t* payload
) except? NULL:
    cdef uint64_t offset = 0
    if kind == CRYPTO:
        _word(self, "frame_type", "crypto")
        at = get_varint(at, end, &offset)
        _number(self, "offset", offset)
    elif kind == NEW_TOKEN:
        _word(self, "frame_type", "new_token")
        _open(self, "token")
        _shut(self)
    else:
        _word(self, "frame_type", "datagram")
    return _payload(at, end, kind != DATAGRAM, payload) if at != NULL else NULL


cdef const uint8_t* _payload(const uint8_t* at, const uint8_t* end, bint counted, uint64_t* size) noexcept:
    # Past what a frame carries; it is not looked at.
    cdef uint64_t length = <uint64_t>(end - at)
    if counted:
        at = get_varint(at, end, &length)
        if at == NULL or length > <uint64_t>(end - at):
            return NULL
    size[0] = length
    return at + length


cdef const uint8_t* _connection_id(Qlog self, const uint8_t* at, const uint8_t* end) except? NULL:
    cdef uint64_t numbers[2]
    cdef uint64_t length = 0
    numbers[0] = numbers[1] = 0
    _word(self, "frame_type", "new_connection_id")
    at = _varints(at, end, numbers, 2)
    if at != NULL and at < end:
        length = at[0]
        at = at + 1 if length <= 20 and <uint64_t>(end - at) >= 1 + length + 16 else NULL
    else:
        at = NULL
    _number(self, "sequence_number", numbers[0])
    _number(self, "retire_prior_to", numbers[1])
    _number(self, "connection_id_length", length)
    _octets(self, "connection_id", at, length if at != NULL else 0)
    return at + length + 16 if at != NULL else NULL


cdef const uint8_t* _close(Qlog self, const uint8_t* at, const uint8_t* end, bint application) except? NULL:
    cdef uint64_t code = 0, kind = 0, reason
    _word(self, "frame_type", "connection_close")
    _word(self, "error_space", "application" if application else "transport")
    at = get_varint(at, end, &code)
    if at == NULL:
        return NULL
    _word(self, "error", "unknown")
    _number(self, "error_code", code)
    if not application:
        at = get_varint(at, end, &kind)
        if at == NULL:
            return NULL
        _number(self, "trigger_frame_type", kind)
    return _payload(at, end, True, &reason)


cdef const uint8_t* _numbers(Qlog self, const uint8_t* at, const uint8_t* end, uint64_t kind) except? NULL:
    # Frames that are a row of integers.
    cdef uint64_t numbers[4]
    cdef const uint8_t* after = at
    numbers[0] = numbers[1] = numbers[2] = numbers[3] = 0
    if kind == PING:
        _word(self, "frame_type", "ping")
    elif kind == HANDSHAKE_DONE:
        _word(self, "frame_type", "handshake_done")
    elif kind == PATH_CHALLENGE or kind == PATH_RESPONSE:
        _word(self, "frame_type", "path_challenge" if kind == PATH_CHALLENGE else "path_response")
        after = at + 8 if end - at >= 8 else NULL
    elif kind == RESET_STREAM or kind == STOP_SENDING:
        after = _varints(at, end, numbers, 3 if kind == RESET_STREAM else 2)
        _word(self, "frame_type", "reset_stream" if kind == RESET_STREAM else "stop_sending")
        _number(self, "stream_id", numbers[0])
        _word(self, "error", "unknown")
        _number(self, "error_code", numbers[1])
        if kind == RESET_STREAM:
            _number(self, "final_size", numbers[2])
    elif kind == MAX_STREAM_DATA or kind == STREAM_DATA_BLOCKED:
        after = _varints(at, end, numbers, 2)
        _word(self, "frame_type", "max_stream_data" if kind == MAX_STREAM_DATA else "stream_data_blocked")
        _number(self, "stream_id", numbers[0])
        _number(self, "maximum" if kind == MAX_STREAM_DATA else "limit", numbers[1])
    elif kind == MAX_DATA or kind == DATA_BLOCKED:
        after = _varints(at, end, numbers, 1)
        _word(self, "frame_type", "max_data" if kind == MAX_DATA else "data_blocked")
        _number(self, "maximum" if kind == MAX_DATA else "limit", numbers[0])
    elif kind == MAX_STREAMS_BIDI or kind == MAX_STREAMS_UNI:
        after = _varints(at, end, numbers, 1)
        _word(self, "frame_type", "max_streams")
        _word(self, "stream_type", "bidirectional" if kind == MAX_STREAMS_BIDI else "unidirectional")
        _number(self, "maximum", numbers[0])
    elif kind == STREAMS_BLOCKED_BIDI or kind == STREAMS_BLOCKED_UNI:
        after = _varints(at, end, numbers, 1)
        _word(self, "frame_type", "streams_blocked")
        _word(self, "stream_type", "bidirectional" if kind == STREAMS_BLOCKED_BIDI else "unidirectional")
        _number(self, "limit", numbers[0])
    elif kind == RETIRE_CONNECTION_ID:
        after = _varints(at, end, numbers, 1)
        _word(self, "frame_type", "retire_connection_id")
        _number(self, "sequence_number", numbers[0])
    elif kind == ACK_FREQUENCY:
        # draft-ietf-quic-ack-frequency has these words, not the schema.
        after = _varints(at, end, numbers, 4)
        _word(self, "frame_type", "ack_frequency")
        _number(self, "sequence_number", numbers[0])
        _number(self, "ack_eliciting_threshold", numbers[1])
        _number(self, "requested_max_ack_delay", numbers[2])
        _number(self, "reordering_threshold", numbers[3])
    elif kind == IMMEDIATE_ACK:
        after = at
        _word(self, "frame_type", "immediate_ack")
    else:
        # An extension's. Of one whose form is not known, the end is not either.
        after = NULL
        _word(self, "frame_type", "unknown")
        _number(self, "frame_type_bytes", kind)
    return after


cdef const uint8_t* _varints(const uint8_t* at, const uint8_t* end, uint64_t* values, int count) noexcept:
    cdef int i
    for i in range(count):
        if at != NULL:
            at = get_varint(at, end, &values[i])
    return at
