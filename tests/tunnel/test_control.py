"""Control messages: round trips, every split, what is skipped and what is a violation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.quic.errors import LocalError, PeerError
from quicsocks.userspace.tunnel.control import (
    MAX_FEATURES,
    MAX_LABEL,
    MAX_MESSAGE,
    MAX_REASON,
    METHOD_ECDSA_P256,
    Auth,
    AuthFailed,
    AuthOK,
    ControlReader,
    Goodbye,
    Hello,
    LimitsChanged,
    Message,
    MessageType,
    encode_message,
)
from quicsocks.userspace.tunnel.types import CloseCode, TunnelLimits
from quicsocks.userspace.tunnel.varint import MAXIMUM, encode_varint

VARINTS = st.integers(0, MAXIMUM)
TEXTS = st.text(st.characters(categories=("L", "N", "P")), max_size=16)
LIMITS = st.builds(TunnelLimits, VARINTS, VARINTS, VARINTS)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, st.integers(1, MAXIMUM), st.dictionaries(VARINTS, st.binary(max_size=20), max_size=5)),
    st.builds(
        Auth,
        st.just(METHOD_ECDSA_P256),
        st.binary(max_size=200),
        st.binary(max_size=80),
        st.binary(max_size=32),
        TEXTS,
    ),
    st.builds(AuthOK, TEXTS, LIMITS),
    st.builds(AuthFailed, VARINTS),
    st.builds(LimitsChanged, LIMITS),
    st.builds(Goodbye, TEXTS, VARINTS),
)


def message(kind: int, body: bytes) -> bytes:
    return encode_varint(kind) + encode_varint(len(body)) + body


def read_all(parts: list[bytes], largest: int = MAX_MESSAGE) -> list[Message]:
    reader = ControlReader(largest)
    found = []
    for part in parts:
        reader.receive_data(part)
        while (next_one := reader.next_message()) is not None:
            found.append(next_one)
    return found


@given(st.lists(MESSAGES, max_size=4), st.integers(1, 60))
def test_messages_round_trip_in_pieces(messages: list[Message], size: int) -> None:
    octets = b"".join(map(encode_message, messages))
    parts = [octets[at : at + size] for at in range(0, len(octets), size)]
    assert read_all(parts) == messages


@given(st.binary(max_size=400), st.integers(1, 400))
def test_only_peer_error_leaves_the_reader(octets: bytes, size: int) -> None:
    def outcome(parts: list[bytes]) -> list[Message] | tuple[int, str]:
        try:
            return read_all(parts, 300)
        except PeerError as error:
            return error.code, str(error)

    whole = outcome([octets])
    assert outcome([octets[at : at + size] for at in range(0, len(octets), size)]) == whole
    assert isinstance(whole, list) or whole[0] == CloseCode.PROTOCOL_VIOLATION


@given(st.sampled_from(MessageType), st.binary(max_size=100))
def test_any_content_of_a_known_type(kind: MessageType, body: bytes) -> None:
    code = CloseCode.PROTOCOL_VIOLATION
    found: list[Message] = []
    try:
        found = read_all([message(kind, body)])
    except PeerError as error:
        code = CloseCode(error.code)
    assert code is CloseCode.PROTOCOL_VIOLATION
    assert len(found) <= 1


def test_unknown_messages_are_skipped() -> None:
    reader = ControlReader(MAX_MESSAGE)
    known = encode_message(AuthFailed(1))
    reader.receive_data(message(0x07, b"later") + message(0x3FFF, b"") + known + message(0x40, bytes(MAX_MESSAGE)))
    assert reader.next_message() == AuthFailed(1)
    assert reader.next_message() is None
    assert reader.ignored == 3


@pytest.mark.parametrize("kind", [MessageType.HELLO, 0x1234])
def test_a_message_too_long_is_a_violation_at_its_header(kind: int) -> None:
    reader = ControlReader(MAX_MESSAGE)
    reader.receive_data(encode_varint(kind) + encode_varint(MAX_MESSAGE + 1))
    with pytest.raises(PeerError, match="65537") as caught:
        reader.next_message()
    assert caught.value.code == CloseCode.PROTOCOL_VIOLATION


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (message(MessageType.HELLO, b""), "within an integer"),
        (message(MessageType.HELLO, b"\x00"), "version 0"),
        (message(MessageType.HELLO, b"\x01\x1b"), "within an integer"),
        (message(MessageType.HELLO, b"\x01\x1b\x02\x00"), "within a field"),
        (message(MessageType.HELLO, b"\x01\x1b\x00\x1b\x00"), "twice"),
        (
            message(MessageType.HELLO, b"\x01" + b"".join(encode_varint(n) + b"\x00" for n in range(MAX_FEATURES + 1))),
            "256 features",
        ),
        (message(MessageType.AUTH, b"\x01"), "within an integer"),
        (message(MessageType.AUTH, b"\x01" + b"\x00" * 5), "1 octets too many"),
        (message(MessageType.AUTH, b"\x01\x42\x01" + bytes(0x201)), "at most 512"),
        (message(MessageType.AUTH, b"\x01\x00\x00\x00\x01\xff"), "UTF-8"),
        (message(MessageType.AUTH_OK, b"\x01a\x01\x05\x01\x06"), "twice"),
        (message(MessageType.AUTH_OK, b"\x01a\x01"), "within an integer"),
        (message(MessageType.AUTH_FAILED, b""), "within an integer"),
        (message(MessageType.AUTH_FAILED, b"\x01\x01"), "too many"),
        (message(MessageType.GOODBYE, b"\x01"), "within an integer"),
        (message(MessageType.GOODBYE, b"\x01\x02a"), "within a field"),
    ],
)
def test_violations(octets: bytes, why: str) -> None:
    with pytest.raises(PeerError, match=why) as caught:
        read_all([octets])
    assert caught.value.code == CloseCode.PROTOCOL_VIOLATION


def test_unknown_limits_are_left_aside() -> None:
    assert read_all([message(MessageType.LIMITS, b"\x01\x05\x3f\x07\x02\x06")]) == [LimitsChanged(TunnelLimits(5, 6))]


def test_auth_of_an_unknown_method_keeps_its_method_alone() -> None:
    assert read_all([message(MessageType.AUTH, b"\x02whatever comes")]) == [Auth(2)]


def test_text_is_made_printable() -> None:
    body = b"\x00" + encode_varint(9) + b"a\x1b[2J\r\nb\x00"
    assert read_all([message(MessageType.GOODBYE, body)]) == [Goodbye("a\ufffd[2J\ufffd\ufffdb\ufffd", 0)]


def test_long_text_is_cut_between_characters() -> None:
    octets = encode_message(Goodbye("é" * 200, 1))
    assert read_all([octets]) == [Goodbye("é" * (MAX_REASON // 2), 1)]
    assert read_all([encode_message(AuthOK("a" + "é" * 200, TunnelLimits()))]) == [
        AuthOK("a" + "é" * ((MAX_LABEL - 1) // 2), TunnelLimits())
    ]


def test_fields_too_long_to_send() -> None:
    with pytest.raises(LocalError, match="256"):
        encode_message(Auth(1, token=bytes(257)))
    with pytest.raises(LocalError, match="65536"):
        encode_message(Hello(1, {1: bytes(MAX_MESSAGE)}))
