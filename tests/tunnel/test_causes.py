"""Causes to Error TLVs and back; the ICMP table is checked against the page in test_protocol_document."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.tunnel.causes import cause_from_icmp, error_from_cause, failure_from_error
from quicsocks.userspace.tunnel.tlv import MAX_ERROR_PAYLOAD, Wire
from quicsocks.userspace.tunnel.types import Cause, Destination

V4 = Destination("192.0.2.1", 80)
V6 = Destination("2001:db8::1", 80)
NAME = Destination("www.example.org", 80)
PORT_UNREACHABLE = bytes.fromhex("0303000000000000 4500002800000000400600000a000001c0000201")
FINE = [cause for cause in Cause if cause >= 0x100]


@pytest.mark.parametrize("cause", FINE)
@pytest.mark.parametrize("icmp", [b"", PORT_UNREACHABLE])
def test_fine_causes_survive_quicsocks(cause: Cause, icmp: bytes) -> None:
    code, payload = error_from_cause(cause, icmp, Wire.QUICSOCKS)
    failed = failure_from_error(code, payload, V4)
    assert (failed.cause, failed.icmp) == (cause, icmp)


@pytest.mark.parametrize("cause", FINE)
def test_fine_causes_on_qt(cause: Cause) -> None:
    assert error_from_cause(cause, b"", Wire.QT) == (Cause.NETWORK_FAILURE, b"")
    code, payload = error_from_cause(cause, PORT_UNREACHABLE, Wire.QT)
    assert (code, payload) == (Cause.ICMP_RECEIVED, PORT_UNREACHABLE)
    failed = failure_from_error(code, payload, V4)
    assert (failed.cause, failed.icmp) == (Cause.REFUSED, PORT_UNREACHABLE)
    assert "type 3, code 3" in failed.detail


@pytest.mark.parametrize("wire", Wire)
def test_icmp_is_cut_to_fit(wire: Wire) -> None:
    _, payload = error_from_cause(Cause.HOST_UNREACHABLE, bytes(1000), wire)
    assert len(payload) == MAX_ERROR_PAYLOAD


@pytest.mark.parametrize("wire", Wire)
@pytest.mark.parametrize("cause", [Cause.UNKNOWN_TLV, Cause.MALFORMED_TLV])
def test_protocol_errors_carry_no_icmp(wire: Wire, cause: Cause) -> None:
    assert error_from_cause(cause, PORT_UNREACHABLE, wire) == (cause, b"")


def test_quoted_packet_decides_between_versions() -> None:
    quoting_4 = bytes((3, 3)) + bytes(6) + b"\x45"
    quoting_6 = bytes((3, 0)) + bytes(6) + b"\x60"
    for destination in (V4, V6, NAME):
        assert cause_from_icmp(quoting_4, destination) is Cause.REFUSED
        assert cause_from_icmp(quoting_6, destination) is Cause.TTL_EXPIRED


def test_family_decides_when_nothing_is_quoted() -> None:
    assert cause_from_icmp(bytes((3, 0)), V4) is Cause.NETWORK_UNREACHABLE
    assert cause_from_icmp(bytes((3, 0)), V6) is Cause.TTL_EXPIRED
    assert cause_from_icmp(bytes((3, 3)), NAME) is Cause.REFUSED
    assert cause_from_icmp(bytes((1, 4)), NAME) is Cause.REFUSED


@pytest.mark.parametrize("header_size", [20, 24, 60])
def test_ip_header_in_front_is_left_aside(header_size: int) -> None:
    header = bytearray(header_size)
    header[0] = 0x40 | header_size // 4
    header[9] = 1
    failed = failure_from_error(Cause.ICMP_RECEIVED, bytes(header) + PORT_UNREACHABLE, V4)
    assert (failed.cause, failed.icmp) == (Cause.REFUSED, PORT_UNREACHABLE)


def test_ipv6_header_in_front_is_left_aside() -> None:
    header = bytearray(40)
    header[0], header[6] = 0x60, 58
    message = bytes((1, 3)) + bytes(6)
    failed = failure_from_error(Cause.ICMP_RECEIVED, bytes(header) + message, V6)
    assert (failed.cause, failed.icmp) == (Cause.HOST_UNREACHABLE, message)


def test_unknown_code_names_itself() -> None:
    failed = failure_from_error(0x7777, b"", V4)
    assert failed.cause is Cause.NETWORK_FAILURE
    assert "0x7777" in failed.detail


@given(st.integers(0, 0xFFFF), st.binary(max_size=MAX_ERROR_PAYLOAD), st.sampled_from([V4, V6, NAME]))
def test_nothing_raises_on_what_the_peer_sent(code: int, payload: bytes, destination: Destination) -> None:
    failed = failure_from_error(code, payload, destination)
    assert failed.cause in Cause
    assert len(failed.icmp) <= len(payload)
