"""Transport parameters: what each end is told, what is carried for extensions, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.quic.aioquic_internals.common import ClosedBy
from quicsocks.userspace.quic.aioquic_internals.handshaker_parameters import encode_parameters, parse_parameters
from quicsocks.userspace.quic.types import Limits

from .handshaking import (
    SERVER,
    both_ended,
    client_of,
    join,
    ours_of,
    pairings,
    server_setup,
    token_of,
)

# --- Transport parameters ---------------------------------------------------------------------------------------------


@pairings
def test_each_end_knows_what_the_other_allows(ours: tuple[bool, bool]) -> None:
    limits = Limits()
    path = join(ours, extra={0x3E: b"\x04", 0x7F2A: b""}).run()
    for end in ours_of(path):
        handshaker = end.handshaker
        theirs, own = handshaker.peer_parameters, handshaker.local_parameters
        assert theirs is not None
        assert own is not None
        assert own.unknown == {0x3E: b"\x04", 0x7F2A: b""}
        assert (own.initial_max_streams_bidi, own.initial_max_streams_uni) == (7, 3)
        assert theirs.initial_max_data == limits.session_window
        assert theirs.initial_max_stream_data_uni == min(limits.initial_stream_window, limits.stream_window)
        assert theirs.max_idle_timeout == limits.idle_timeout
        assert theirs.max_datagram_frame_size == limits.max_datagram_frame_size
        assert theirs.max_ack_delay == 0.025
        assert theirs.active_connection_id_limit == 8
        if ours == (True, True):
            assert theirs.unknown == own.unknown
            assert (theirs.initial_max_streams_bidi, theirs.initial_max_streams_uni) == (7, 3)
        if end is path.client:
            token = theirs.stateless_reset_token
            assert token is not None
            assert handshaker.peer_reset_tokens == [token]
            assert token == token_of(handshaker.peer_cid) or not ours[1]
        else:
            assert theirs.stateless_reset_token is None
            assert handshaker.peer_reset_tokens == []


def test_what_aioquic_forgets_is_kept() -> None:
    path = join((True, False))
    path.server.connection._local_ack_delay_exponent = 10
    path.run()
    parameters = client_of(path).peer_parameters
    assert parameters is not None
    assert parameters.ack_delay_exponent == 10


def test_an_idle_timeout_of_none_ends_nothing() -> None:
    server = server_setup()
    server.idle_timeout = 0.0
    path = join((True, False), server=server)
    path.server.connection._idle_timeout = lambda: 30.0  # type: ignore[method-assign] # its own takes 0 s for 0.2 s
    path.run()
    client = client_of(path)
    assert client.peer_parameters is not None
    assert client.peer_parameters.max_idle_timeout == 0.0
    assert client._idle_timeout() == client.configuration.idle_timeout


def test_a_preferred_address_is_told_and_left_alone() -> None:
    where = bytes([192, 0, 2, 9]) + (443).to_bytes(2, "big") + bytes(18) + b"\x08" + bytes(range(8)) + bytes(16)
    path = join(server_extra={0x0D: where})
    path.run()
    client = client_of(path)
    assert client.peer_parameters is not None
    address = client.peer_parameters.preferred_address
    assert address is not None
    assert address.ipv4_address == ("192.0.2.9", 443)
    assert address.connection_id == bytes(range(8))
    assert client.datagrams_to_send(path.now) == []
    assert client.datagrams_to_send(path.now) == []
    assert not client.is_closing
    assert client.active_route == SERVER


@pytest.mark.parametrize(
    "wrong",
    [
        {0x3E: b"\x04"},  # beside another of its kind
        {0x02: bytes(15)},
        {0x0A: b"\x15"},
        {0x0E: b"\x01"},
        {0x03: b"\x44\xaf"},
        {0x40: b""},
    ],
    ids=["twice", "short token", "exponent", "cids", "payload", "truncated"],
)
def test_wrong_parameters_are_refused(wrong: dict[int, bytes]) -> None:
    path = join((True, False))
    connection = path.server.connection
    theirs = connection._serialize_transport_parameters

    def serialize() -> bytes:
        removed = [identifier for identifier in wrong if identifier < 0x20]
        data = b"".join(
            data[start:end]
            for data in [theirs()]
            for identifier, start, end in spans(data)
            if identifier not in removed
        )
        extra = encode_parameters(wrong)
        if 0x3E in wrong:
            return data + extra + extra
        return data + (extra + b"\x05" if 0x40 in wrong else extra)

    connection._serialize_transport_parameters = serialize  # type: ignore[method-assign]
    path.run(both_ended(path))
    event = client_of(path).close_event
    assert event is not None
    assert event.error_code == 0x08
    assert client_of(path).closed_by is ClosedBy.ENGINE


def spans(data: bytes) -> list[tuple[int, int, int]]:
    """Of transport parameters whose lengths and IDs fit in one or two octets: ID, start, end."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        length = 1 << (data[at] >> 6)
        value = int.from_bytes(data[at : at + length], "big") & ((1 << (8 * length - 2)) - 1)
        at += length
        return value

    while at < len(data):
        start = at
        identifier = varint()
        length = varint()
        at += length
        found.append((identifier, start, at))
    return found


@given(st.binary(max_size=200))
def test_parameters_of_any_kind_are_parsed_or_refused(data: bytes) -> None:
    try:
        parsed = parse_parameters(data)
    except ValueError:
        return
    assert all(identifier > 0x11 and identifier != 0x20 for identifier in parsed.unknown)


@given(st.dictionaries(st.integers(0x40, (1 << 62) - 1), st.binary(max_size=3000), max_size=5))
def test_parameters_that_aioquic_does_not_know_are_carried(values: dict[int, bytes]) -> None:
    values.pop(0x0C37, None)  # aioquic's own test of large ones.
    assert parse_parameters(encode_parameters(values)).unknown == values
