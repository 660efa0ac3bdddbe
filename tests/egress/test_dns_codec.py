"""DNS messages: what is believed, and that nothing but PeerError comes of the rest."""

from __future__ import annotations

from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.egress.dns_codec import (
    AAAA,
    MAX_TTL,
    A,
    MessageReader,
    make_query,
    message_id,
    read_answer,
)
from quicsocks.userspace.quic.errors import PeerError

from .fake_dns import zone


def ask(records: dict[tuple[str, str], list[str]], name: str, kind: int = A, ttl: int = 60, rcode: int = 0) -> bytes:
    question = dns.message.from_wire(make_query(name, kind, 7)[2:])
    replies = zone(records, ttl, rcode)(question)
    assert replies is not None
    return replies[0]


def test_a_question_is_absolute_and_framed() -> None:
    wire = make_query("www.example.com", AAAA, 0xBEEF)
    assert int.from_bytes(wire[:2], "big") == len(wire) - 2
    assert message_id(wire[2:]) == 0xBEEF
    question = dns.message.from_wire(wire[2:])
    assert question.question[0].name.to_text() == "www.example.com."
    assert question.flags & dns.flags.RD


def test_addresses() -> None:
    answer = read_answer(ask({("a.example", "A"): ["192.0.2.1", "192.0.2.2"]}, "a.example"), "a.example", A)
    assert {str(address) for address in answer.addresses} == {"192.0.2.1", "192.0.2.2"}
    assert (answer.ttl, answer.rcode) == (60, 0)
    answer = read_answer(ask({("a.example", "AAAA"): ["2001:db8::1"]}, "a.example", AAAA), "a.example", AAAA)
    assert answer.addresses == (ip_address("2001:db8::1"),)


def test_aliases_are_followed() -> None:
    records = {
        ("a.example", "CNAME"): ["b.example"],
        ("b.example", "CNAME"): ["c.example"],
        ("c.example", "A"): ["1.1.1.1"],
    }
    assert read_answer(ask(records, "a.example"), "a.example", A).addresses == (ip_address("1.1.1.1"),)


def test_an_alias_without_an_address_is_empty() -> None:
    records = {("a.example", "CNAME"): ["b.example"], ("b.example", "A"): ["1.1.1.1"]}
    assert read_answer(ask(records, "a.example", AAAA), "a.example", AAAA).addresses == ()


def test_endless_aliases_are_an_error() -> None:
    response = dns.message.make_response(dns.message.from_wire(make_query("a.example", A, 7)[2:]))
    response.answer.append(dns.rrset.from_text("a.example.", 60, "IN", "CNAME", "b.example."))
    response.answer.append(dns.rrset.from_text("b.example.", 60, "IN", "CNAME", "a.example."))
    with pytest.raises(PeerError):
        read_answer(response.to_wire(), "a.example", A)


def test_no_such_name() -> None:
    answer = read_answer(ask({}, "a.example"), "a.example", A)
    assert (answer.addresses, answer.rcode, answer.rcode_text) == ((), 3, "NXDOMAIN")
    assert answer.ttl == 20, "the SOA's minimum (RFC 2308 §5)"


@pytest.mark.parametrize("rcode", [2, 5])
def test_failures(rcode: int) -> None:
    answer = read_answer(ask({("a.example", "A"): ["1.1.1.1"]}, "a.example", rcode=rcode), "a.example", A)
    assert (answer.addresses, answer.ttl, answer.rcode) == ((), 0, rcode)


def test_ttl_is_bounded() -> None:
    wire = ask({("a.example", "A"): ["1.1.1.1"]}, "a.example", ttl=86400)
    assert read_answer(wire, "a.example", A).ttl == MAX_TTL


def test_another_case_is_the_same_name() -> None:
    wire = ask({("A.eXample", "A"): ["1.1.1.1"]}, "A.eXample")
    assert len(read_answer(wire, "a.example", A).addresses) == 1


def test_answers_that_are_not_ours() -> None:
    wire = ask({("a.example", "A"): ["1.1.1.1"]}, "a.example")
    for name, kind in (("b.example", A), ("a.example", AAAA)):
        with pytest.raises(PeerError, match="another question"):
            read_answer(wire, name, kind)
    with pytest.raises(PeerError, match="question where an answer"):
        read_answer(make_query("a.example", A, 7)[2:], "a.example", A)
    with pytest.raises(PeerError, match="without its question"):
        read_answer(bytes.fromhex("0007 8180 0000 0000 0000 0000"), "a.example", A)


@given(st.binary(max_size=400))
def test_garbage(data: bytes) -> None:
    with pytest.raises(PeerError):
        read_answer(data, "a.example", A)


GOOD = ask({("a.example", "CNAME"): ["b.example"], ("b.example", "A"): ["1.1.1.1", "2.2.2.2"]}, "a.example")


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_mutated_answers(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for position, value in changes:
        data[position] = value
    try:
        answer = read_answer(bytes(data), "a.example", A)
    except PeerError:
        return
    assert 0 <= answer.ttl <= MAX_TTL


def test_frames_at_every_split() -> None:
    stream = b"".join(make_query(name, A, index) for index, name in enumerate(("a.example", "b.example")))
    whole = MessageReader().receive_data(stream)
    assert [message_id(message) for message in whole] == [0, 1]
    for split in range(len(stream) + 1):
        reader = MessageReader()
        assert reader.receive_data(stream[:split]) + reader.receive_data(stream[split:]) == whole
    reader = MessageReader()
    assert [m for byte in stream for m in reader.receive_data(bytes((byte,)))] == whole


def test_a_frame_too_short_for_a_header() -> None:
    with pytest.raises(PeerError, match="less than 12"):
        MessageReader().receive_data(b"\0\x0b")
    with pytest.raises(PeerError, match="less than 12"):
        message_id(b"1")
