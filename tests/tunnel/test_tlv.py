"""TLVs: byte vectors (vectors/*.txt), what is encoded, and that only TLVError leaves a reader."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.quic.errors import LocalError
from quicsocks.userspace.tunnel.preamble import AnswerReader, RequestReader, answer_accepted, answer_error, request
from quicsocks.userspace.tunnel.tlv import (
    MAX_ERROR_PAYLOAD,
    MAX_NAME,
    MAX_PREAMBLE,
    TLVError,
    TLVReader,
    Wire,
    encode_bound,
    encode_connect,
    encode_error,
    encode_tlv,
)
from quicsocks.userspace.tunnel.types import BoundAddress, Cause, Destination
from tests.tunnel.support import BOUND, WEB

VECTORS = Path(__file__).parent / "vectors"
TRAILING = b"\xff\x00GET / HTTP/1.1\r\n"


def read_vectors(name: str) -> list[tuple[Wire, bytes, str]]:
    vectors = []
    for line in (VECTORS / name).read_text().splitlines():
        if line and not line.startswith("#"):
            wire, octets, meaning = (part.strip() for part in line.split("|"))
            vectors.append((Wire(wire), bytes.fromhex(octets), meaning))
    return vectors


REQUESTS = read_vectors("requests.txt")
ANSWERS = read_vectors("answers.txt")


def pieces(octets: bytes) -> Iterator[list[bytes]]:
    """Whole, in two at every point, octet by octet."""
    yield [octets]
    for cut in range(1, len(octets)):
        yield [octets[:cut], octets[cut:]]
    yield [octets[at : at + 1] for at in range(len(octets))]


def failure(error: TLVError) -> str:
    return f"{error.cause.name.lower()} {error.payload.hex()}".strip()


def read_request(wire: Wire, parts: list[bytes]) -> tuple[str, bytes]:
    """What a request means, and what followed its End TLV."""
    reader = RequestReader(wire)
    rest = bytearray()
    complete = False
    try:
        for part in parts:
            if complete:
                rest += part
                continue
            complete = reader.receive_data(part)
            rest += reader.rest
    except TLVError as error:
        return failure(error), b""
    if not complete:
        return "incomplete", b""
    assert reader.destination is not None
    return f"{reader.destination.host} {reader.destination.port}", bytes(rest)


def read_answer(wire: Wire, parts: list[bytes]) -> tuple[str, bytes]:
    reader = AnswerReader(wire, WEB)
    rest = bytearray()
    complete = False
    try:
        for part in parts:
            if complete:
                rest += part
                continue
            complete = reader.receive_data(part)
            rest += reader.rest
    except TLVError as error:
        return failure(error), b""
    if not complete:
        return "incomplete", b""
    if reader.failure is not None:
        return f"failed {reader.failure.cause.name.lower()}", bytes(rest)
    if reader.bound == BoundAddress():
        return "accepted", bytes(rest)
    return f"accepted {reader.bound.host} {reader.bound.port}", bytes(rest)


# Vectors.


@pytest.mark.parametrize(("wire", "octets", "meaning"), REQUESTS)
def test_request_vectors(wire: Wire, octets: bytes, meaning: str) -> None:
    for parts in pieces(octets):
        assert read_request(wire, parts) == (meaning, b""), parts


@pytest.mark.parametrize(("wire", "octets", "meaning"), REQUESTS)
def test_request_vectors_with_trailing_data(wire: Wire, octets: bytes, meaning: str) -> None:
    expected = TRAILING if meaning[-1].isdigit() and "_tlv" not in meaning else b""
    for parts in pieces(octets + TRAILING):
        assert read_request(wire, parts) == (meaning, expected), parts


@pytest.mark.parametrize(("wire", "octets", "meaning"), ANSWERS)
def test_answer_vectors(wire: Wire, octets: bytes, meaning: str) -> None:
    for parts in pieces(octets):
        assert read_answer(wire, parts) == (meaning, b""), parts


@pytest.mark.parametrize(("wire", "octets", "meaning"), ANSWERS)
def test_answer_vectors_with_trailing_data(wire: Wire, octets: bytes, meaning: str) -> None:
    expected = TRAILING if meaning.startswith(("accepted", "failed")) else b""
    for parts in pieces(octets + TRAILING):
        assert read_answer(wire, parts) == (meaning, expected), parts


@pytest.mark.parametrize(
    ("wire", "octets"), [(wire, octets) for wire, octets, meaning in REQUESTS if "_tlv" not in meaning]
)
def test_a_truncated_good_request_is_incomplete(wire: Wire, octets: bytes) -> None:
    for cut in range(len(octets)):
        assert read_request(wire, [octets[:cut]]) == ("incomplete", b"")


# The End TLV and the bound on what comes before it.


def test_preamble_bound_counts_every_octet() -> None:
    start = encode_connect(WEB, Wire.QUICSOCKS)
    filler = encode_tlv(0x41, bytes(255))
    room = MAX_PREAMBLE - len(start) - 2
    exact = start + filler * (room // 257) + encode_tlv(0x42, bytes(room % 257 - 2)) + b"\xff\x00"
    assert len(exact) == MAX_PREAMBLE
    assert read_request(Wire.QUICSOCKS, [exact])[0] == "192.0.2.80 80"
    longer = exact[:-2] + encode_tlv(0x43) + b"\xff\x00"
    for parts in ([longer], [longer[:100], longer[100:]], [bytes((octet,)) for octet in longer]):
        assert read_request(Wire.QUICSOCKS, parts)[0] == "malformed_tlv"


def test_a_value_that_can_never_fit_is_refused_at_its_header() -> None:
    reader = TLVReader()
    reader.receive_data(encode_tlv(0x41, bytes(255)) * 15)
    for _ in range(15):
        assert reader.next_tlv() == (0x41, bytes(255))
    reader.receive_data(b"\x41\xff")
    with pytest.raises(TLVError, match="4096 octets"):
        reader.next_tlv()


@pytest.mark.parametrize("octets", [b"", b"\x00", b"\x00\x12\x00", encode_connect(WEB, Wire.QT)])
def test_request_ended_too_early(octets: bytes) -> None:
    reader = RequestReader(Wire.QT)
    assert not reader.receive_data(octets)
    with pytest.raises(TLVError) as caught:
        reader.receive_eof()
    assert caught.value.cause is Cause.MALFORMED_TLV


def test_answer_ended_too_early() -> None:
    reader = AnswerReader(Wire.QT, WEB)
    assert not reader.receive_data(b"\x01\x00")
    with pytest.raises(TLVError):
        reader.receive_eof()


def test_error_without_end_still_counts_at_the_streams_end() -> None:
    reader = AnswerReader(Wire.QT, WEB)
    assert not reader.receive_data(encode_error(Cause.NETWORK_FAILURE))
    reader.receive_eof()
    assert reader.failure is not None
    assert reader.failure.cause is Cause.NETWORK_FAILURE


# Encoding.


def test_longest_names() -> None:
    name = "a" * MAX_NAME
    octets = request(Destination(name, 65535), Wire.QUICSOCKS)
    assert octets[:4] == b"\x10\xff\xff\xff"
    assert read_request(Wire.QUICSOCKS, [octets])[0] == f"{name} 65535"
    with pytest.raises(LocalError, match="253"):
        request(Destination(name + "a", 80), Wire.QUICSOCKS)


@pytest.mark.parametrize("host", ["", "a b", "a\x00b", "bücher.example", "a\nb", "\x7f"])
def test_names_that_cannot_be_sent(host: str) -> None:
    with pytest.raises(LocalError, match="visible ASCII"):
        request(Destination(host, 80), Wire.QUICSOCKS)


def test_names_cannot_be_sent_on_qt() -> None:
    with pytest.raises(LocalError, match="resolve the name through the tunnel"):
        request(Destination("www.example.org", 80), Wire.QT)


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_ports_that_do_not_exist(port: int) -> None:
    with pytest.raises(LocalError, match="not a TCP port"):
        request(Destination("192.0.2.1", port), Wire.QT)


def test_zones_are_for_one_host_alone() -> None:
    with pytest.raises(LocalError, match="zone"):
        request(Destination("fe80::1%eth0", 80), Wire.QUICSOCKS)
    assert encode_bound(BoundAddress("fe80::1%eth0", 5)) == encode_bound(BoundAddress("fe80::1", 5))


def test_bound_address_is_left_out_where_it_is_unknown_or_unheard_of() -> None:
    assert answer_accepted(BoundAddress(), Wire.QUICSOCKS) == b"\x01\x00\xff\x00"
    assert answer_accepted(BOUND, Wire.QT) == b"\x01\x00\xff\x00"
    with pytest.raises(LocalError):
        encode_bound(BoundAddress("localhost", 1))


def test_error_payload_is_cut_to_what_a_length_octet_can_say() -> None:
    octets = answer_error(Cause.ICMP_RECEIVED, bytes(range(256)) * 2)
    assert octets == b"\x02\xff\x00\x01" + bytes(range(MAX_ERROR_PAYLOAD)) + b"\xff\x00"


def test_values_too_long_for_a_tlv() -> None:
    with pytest.raises(LocalError, match="255"):
        encode_tlv(0x41, bytes(256))


# Properties.

WIRES = st.sampled_from(Wire)
PORTS = st.integers(1, 65535)
GLOBAL = st.one_of(
    st.ip_addresses(v=4, network="192.0.2.0/24"),
    st.ip_addresses(v=4, network="10.0.0.0/8"),
    st.ip_addresses(v=6, network="2001:db8::/32"),
    st.ip_addresses(v=6, network="fd00::/8"),
)
NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=MAX_NAME)


def cut_up(draw: st.DrawFn, octets: bytes) -> list[bytes]:
    points = draw(st.lists(st.integers(0, len(octets)), max_size=6))
    bounds = [0, *sorted(points), len(octets)]
    return [octets[a:b] for a, b in itertools.pairwise(bounds)]


@st.composite
def cut_octets(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> list[bytes]:
    return cut_up(draw, draw(source))


@given(WIRES, GLOBAL, PORTS, st.binary(max_size=40), st.data())
def test_addresses_round_trip(
    wire: Wire,
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
    trailing: bytes,
    data: st.DataObject,
) -> None:
    octets = request(Destination(str(address), port), wire) + trailing
    parts = data.draw(cut_octets(st.just(octets)))
    assert read_request(wire, parts) == (f"{address} {port}", trailing)


@given(NAMES, PORTS)
def test_names_round_trip(name: str, port: int) -> None:
    try:
        octets = request(Destination(name, port), Wire.QUICSOCKS)
    except LocalError:
        assert "%" in name  # an IPv6 literal with a zone
        return
    meaning, _ = read_request(Wire.QUICSOCKS, [octets])
    if octets[0] == 0x10:
        assert meaning == f"{name} {port}"
    else:
        ipaddress.ip_address(name)


@given(WIRES, cut_octets(st.binary(max_size=300)))
def test_any_octets_split_anyhow_mean_the_same(wire: Wire, parts: list[bytes]) -> None:
    whole = b"".join(parts)
    assert read_request(wire, parts) == read_request(wire, [whole])
    assert read_answer(wire, parts) == read_answer(wire, [whole])


TLVS = st.builds(
    encode_tlv, st.sampled_from([0, 1, 2, 3, 4, 0x10, 0x40, 0x41, 0x7F, 0x80, 0xFF]), st.binary(max_size=40)
)


@given(WIRES, cut_octets(st.lists(TLVS, max_size=8).map(b"".join)))
def test_any_tlvs_split_anyhow_mean_the_same(wire: Wire, parts: list[bytes]) -> None:
    whole = b"".join(parts)
    assert read_request(wire, parts) == read_request(wire, [whole])
    assert read_answer(wire, parts) == read_answer(wire, [whole])
