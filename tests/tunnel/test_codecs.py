"""Varints, datagrams, port-mapping TLVs and addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.quic.errors import LocalError, PeerError
from quicsocks.userspace.tunnel.addresses import pack_address, parse_literal, unpack_address
from quicsocks.userspace.tunnel.datagram import decode_datagram, encode_datagram
from quicsocks.userspace.tunnel.port_mapping import MappingReader, MappingTLV, MappingType, encode_mapping, refusal
from quicsocks.userspace.tunnel.varint import MAXIMUM, decode_varint, encode_varint

# RFC 9000 §A.1.
SAMPLES = [
    ("c2197c5eff14e88c", 151288809941952652),
    ("9d7f3e7d", 494878333),
    ("7bbd", 15293),
    ("25", 37),
]


@pytest.mark.parametrize(("octets", "value"), SAMPLES)
def test_sample_varints(octets: str, value: int) -> None:
    encoded = bytes.fromhex(octets)
    assert encode_varint(value) == encoded
    assert decode_varint(encoded) == (value, len(encoded))


def test_longer_encodings_than_needed_are_read() -> None:
    assert decode_varint(bytes.fromhex("4025")) == (37, 2)


@given(st.integers(0, MAXIMUM), st.binary(max_size=3), st.binary(max_size=3))
def test_varints_round_trip_anywhere(value: int, before: bytes, after: bytes) -> None:
    encoded = encode_varint(value)
    assert decode_varint(before + encoded + after, len(before)) == (value, len(before) + len(encoded))
    for cut in range(len(encoded)):
        assert decode_varint(encoded[:cut]) is None


@pytest.mark.parametrize("value", [-1, MAXIMUM + 1])
def test_varints_have_bounds(value: int) -> None:
    with pytest.raises(LocalError):
        encode_varint(value)


@given(st.integers(0, MAXIMUM), st.binary(max_size=50))
def test_datagrams_round_trip(context: int, payload: bytes) -> None:
    assert decode_datagram(encode_datagram(context, payload)) == (context, payload)


@pytest.mark.parametrize("data", [b"", b"\x40", b"\xc0\x00\x00"])
def test_datagram_without_a_whole_context(data: bytes) -> None:
    with pytest.raises(PeerError):
        decode_datagram(data)


@pytest.mark.parametrize(
    ("kind", "value"), [(MappingType.REQUEST, b""), (MappingType.RESPONSE, bytes(16)), (MappingType.ERROR, b"\x01")]
)
@pytest.mark.parametrize("udp", [False, True])
def test_mapping_tlvs_round_trip_octet_by_octet(kind: MappingType, value: bytes, udp: bool) -> None:
    tlv = MappingTLV(kind, udp, 8080, value)
    reader = MappingReader()
    octets = encode_mapping(tlv)
    for octet in octets[:-1]:
        reader.receive_data(bytes((octet,)))
        assert reader.next_tlv() is None
    reader.receive_data(octets[-1:] + octets)
    assert [reader.next_tlv(), reader.next_tlv(), reader.next_tlv()] == [tlv, tlv, None]


@pytest.mark.parametrize("octets", ["0003", "0001", "0200", "3002", "1002", "2002", "ff00"])
def test_mapping_tlvs_that_are_refused_at_their_header(octets: str) -> None:
    reader = MappingReader()
    reader.receive_data(bytes.fromhex(octets))
    with pytest.raises(PeerError):
        reader.next_tlv()


@pytest.mark.parametrize(("udp", "octets"), [(False, "20031f9000"), (True, "21031f9000")])
def test_mapping_refusal_echoes_the_request(udp: bool, octets: str) -> None:
    assert refusal(MappingTLV(MappingType.REQUEST, udp, 8080)) == bytes.fromhex(octets)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_addresses_round_trip(address: object) -> None:
    parsed = parse_literal(str(address))
    assert parsed is not None
    packed = pack_address(parsed)
    assert len(packed) == 16
    assert unpack_address(packed) == parsed


@pytest.mark.parametrize("text", ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "1.2.3.4.", "[::1]", "1.2.3", ""])
def test_odd_spellings_are_names(text: str) -> None:
    assert parse_literal(text) is None


def test_mapped_addresses_are_ipv4() -> None:
    assert str(parse_literal("::ffff:127.0.0.1")) == "127.0.0.1"
