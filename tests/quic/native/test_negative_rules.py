"""What a peer may not put into a 1-RTT packet, to either role: each rule with its clause of RFC 9000 and its error code.

The transport rules of h3spec's list that concern packets after the handshake are among them, restated; the rest of that
list is in ``test_negative_handshake``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quicsocks.userspace.quic.types import Limits

from .forger import CID, Forger, ack, crypto, frame, new_connection_id, stream, varint

FLOW_CONTROL, STREAM_LIMIT, STREAM_STATE, FINAL_SIZE, ENCODING = 0x03, 0x04, 0x05, 0x06, 0x07
CID_LIMIT, VIOLATION, CRYPTO_BUFFER = 0x09, 0x0A, 0x0D
ROLES = ("server", "client")
LARGEST = (1 << 62) - 1
Frames = Callable[[Forger], list[bytes]]

RULES: list[tuple[str, str, int, Frames]] = [
    # Clause, what it is, code, frames of one packet.
    ("4.1", "an offset beyond the stream's window", FLOW_CONTROL, lambda at: [stream(at.ours, 100_000_000, b"x")]),
    ("4.1", "one octet beyond it", FLOW_CONTROL, lambda at: [stream(at.ours, at.limits.initial_stream_window, b"x")]),
    ("4.5", "a reset beyond it", FLOW_CONTROL, lambda at: [frame(4, at.ours, 0, at.limits.initial_stream_window + 1)]),
    ("4.6", "a stream beyond the limit", STREAM_LIMIT, lambda at: [stream(at.ours + 4 * 1_000_000_000)]),
    ("4.6", "the first beyond the limit", STREAM_LIMIT, lambda at: [stream(at.ours + 4 * at.limits.max_streams_bidi)]),
    ("4.6", "one-way, too", STREAM_LIMIT, lambda at: [stream(at.ours + 2 + 4 * at.limits.max_streams_uni)]),
    ("4.6", "opened by RESET_STREAM", STREAM_LIMIT, lambda at: [frame(4, at.ours + 4 * 99_999, 0, 0)]),
    ("4.6", "opened by STOP_SENDING", STREAM_LIMIT, lambda at: [frame(5, at.ours + 4 * 99_999, 0)]),
    ("4.6", "opened by MAX_STREAM_DATA", STREAM_LIMIT, lambda at: [frame(0x11, at.ours + 4 * 99_999, 0)]),
    ("4.6", "opened by STREAM_DATA_BLOCKED", STREAM_LIMIT, lambda at: [frame(0x15, at.ours + 4 * 99_999, 0)]),
    (
        "4.5",
        "data behind the final size",
        FINAL_SIZE,
        lambda at: [stream(at.ours, 0, b"ab", fin=True), stream(at.ours, 2, b"c")],
    ),
    (
        "4.5",
        "two final sizes",
        FINAL_SIZE,
        lambda at: [stream(at.ours, 0, b"ab", fin=True), stream(at.ours, 0, b"a", fin=True)],
    ),
    (
        "4.5",
        "a larger final size, in the other order",
        FINAL_SIZE,
        lambda at: [stream(at.ours, 5, b"", fin=True), stream(at.ours, 9, b"", fin=True)],
    ),
    (
        "4.5",
        "a final size below what has come",
        FINAL_SIZE,
        lambda at: [stream(at.ours, 9, b"x"), stream(at.ours, 5, b"", fin=True)],
    ),
    ("4.5", "a reset below what has come", FINAL_SIZE, lambda at: [stream(at.ours, 9, b"x"), frame(4, at.ours, 0, 9)]),
    (
        "4.5",
        "a reset that disagrees with a FIN",
        FINAL_SIZE,
        lambda at: [stream(at.ours, 9, b"", fin=True), frame(4, at.ours, 0, 10)],
    ),
    ("4.5", "two resets that disagree", FINAL_SIZE, lambda at: [frame(4, at.ours, 0, 9), frame(4, at.ours, 0, 10)]),
    ("4.5", "data behind a reset", FINAL_SIZE, lambda at: [frame(4, at.ours, 0, 9), stream(at.ours, 9, b"x")]),
    ("12.4", "an unknown frame", ENCODING, lambda at: [frame(0x20)]),
    ("12.4", "an unknown frame of two octets", ENCODING, lambda at: [frame(0x40)]),
    ("12.4", "an unknown frame of eight", ENCODING, lambda at: [frame(LARGEST)]),
    ("12.4", "a frame type in two octets", VIOLATION, lambda at: [b"\x40\x01"]),
    ("12.4", "half a frame type", ENCODING, lambda at: [b"\x01\x01\x01\xc0"]),
    ("13.1", "a packet acknowledged that was never sent", VIOLATION, lambda at: [ack(1_000_000)]),
    ("13.1", "the next packet acknowledged", VIOLATION, lambda at: [ack(max(at.numbers) + 1)]),
    ("19.3", "an ACK below zero in its first range", ENCODING, lambda at: [ack(0, 1)]),
    ("19.3.1", "in its second", ENCODING, lambda at: [ack(0, 0, (0, 0))]),
    ("19.3.1", "in its gap", ENCODING, lambda at: [ack(0, 0, (LARGEST, 0))]),
    ("19.3.1", "in its range's length", ENCODING, lambda at: [ack(0, 0, (0, LARGEST))]),
    ("19.3", "an ACK of more ranges than there are octets", ENCODING, lambda at: [ack(0, 0, count=LARGEST)]),
    ("19.3.2", "ECN counts cut off", ENCODING, lambda at: [frame(3, 0, 0, 0, 0, 1, 1)]),
    ("19.4", "RESET_STREAM for a send-only stream", STREAM_STATE, lambda at: [frame(4, at.theirs + 2, 0, 0)]),
    ("19.4", "RESET_STREAM for one that does not exist", STREAM_STATE, lambda at: [frame(4, at.theirs, 0, 0)]),
    ("19.5", "STOP_SENDING for one that does not exist", STREAM_STATE, lambda at: [frame(5, at.theirs + 100, 0)]),
    ("19.5", "STOP_SENDING for a receive-only stream", STREAM_STATE, lambda at: [frame(5, at.ours + 2, 0)]),
    ("7.5", "CRYPTO data far ahead", CRYPTO_BUFFER, lambda at: [crypto(65536, b"x")]),
    ("19.6", "CRYPTO data beyond 2^62 - 1", ENCODING, lambda at: [crypto(LARGEST, b"x")]),
    ("19.6", "CRYPTO data longer than the packet", ENCODING, lambda at: [frame(6, 0, 1000)]),
    ("19.8", "STREAM for one not created yet", STREAM_STATE, lambda at: [stream(at.theirs)]),
    ("19.8", "STREAM for a send-only stream", STREAM_STATE, lambda at: [stream(at.theirs + 2)]),
    ("19.8", "stream data beyond 2^62 - 1", ENCODING, lambda at: [stream(at.ours, LARGEST, b"x")]),
    ("19.8", "stream data longer than the packet", ENCODING, lambda at: [frame(0x0A, at.ours, 1000)]),
    ("19.10", "MAX_STREAM_DATA for one not created yet", STREAM_STATE, lambda at: [frame(0x11, at.theirs + 100, 9)]),
    ("19.10", "MAX_STREAM_DATA for a receive-only stream", STREAM_STATE, lambda at: [frame(0x11, at.ours + 2, 9)]),
    ("19.11", "MAX_STREAMS beyond 2^60", ENCODING, lambda at: [frame(0x12, (1 << 60) + 1)]),
    ("19.11", "MAX_STREAMS beyond 2^60, one-way", ENCODING, lambda at: [frame(0x13, (1 << 60) + 1)]),
    ("19.13", "STREAM_DATA_BLOCKED for a send-only stream", STREAM_STATE, lambda at: [frame(0x15, at.theirs + 2, 9)]),
    ("19.14", "STREAMS_BLOCKED beyond 2^60", ENCODING, lambda at: [frame(0x16, (1 << 60) + 1)]),
    ("19.14", "STREAMS_BLOCKED beyond 2^60, one-way", ENCODING, lambda at: [frame(0x17, (1 << 60) + 1)]),
    ("19.15", "Retire Prior To beyond the sequence number", ENCODING, lambda at: [new_connection_id(1, 11)]),
    ("19.15", "a connection ID of no octets", ENCODING, lambda at: [new_connection_id(1, cid=b"")]),
    ("19.15", "a connection ID of 21 octets", ENCODING, lambda at: [new_connection_id(1, cid=bytes(21))]),
    ("19.15", "a reset token cut off", ENCODING, lambda at: [new_connection_id(1)[:-1]]),
    (
        "19.15",
        "two IDs of one number",
        VIOLATION,
        lambda at: [new_connection_id(1), new_connection_id(1, cid=bytes(4))],
    ),
    (
        "19.15",
        "two tokens of one ID",
        VIOLATION,
        lambda at: [new_connection_id(1), new_connection_id(1, token=bytes(16))],
    ),
    (
        "19.15",
        "one ID of two numbers",
        VIOLATION,
        lambda at: [new_connection_id(1), new_connection_id(2, cid=(1).to_bytes(CID, "big"))],
    ),
    ("5.1.1", "more connection IDs than we keep", CID_LIMIT, lambda at: [new_connection_id(n) for n in range(1, 9)]),
    ("19.16", "a connection ID retired that was never issued", VIOLATION, lambda at: [frame(0x19, 1000)]),
    ("19.17", "PATH_CHALLENGE cut off", ENCODING, lambda at: [b"\x1a" + bytes(7)]),
    ("19.18", "PATH_RESPONSE cut off", ENCODING, lambda at: [b"\x1b" + bytes(7)]),
    ("19.19", "a reason longer than the packet", ENCODING, lambda at: [frame(0x1C, 0, 0, 1000)]),
    ("RFC 9221 4", "DATAGRAM longer than the packet", ENCODING, lambda at: [frame(0x31, 1000)]),
]
OF_ONE_ROLE: list[tuple[str, str, str, int, Frames]] = [
    ("server", "19.7", "NEW_TOKEN", VIOLATION, lambda at: [frame(7, 5, tail=b"DUMMY")]),
    ("server", "19.20", "HANDSHAKE_DONE", VIOLATION, lambda at: [frame(0x1E)]),
    ("client", "19.7", "an empty NEW_TOKEN", ENCODING, lambda at: [frame(7, 0)]),
    ("client", "19.7", "NEW_TOKEN longer than the packet", ENCODING, lambda at: [frame(7, 5)]),
]
CASES = [(role, *rule) for role in ROLES for rule in RULES] + OF_ONE_ROLE


@pytest.mark.parametrize(
    ("role", "clause", "what", "code", "frames"),
    CASES,
    ids=[f"{role}-{clause}-{what}".replace(" ", "_") for role, clause, what, _, _ in CASES],
)
def test_a_rule(role: str, clause: str, what: str, code: int, frames: Frames) -> None:
    forger = Forger(role)
    forger.send(frame(1), frame(1)).send(frame(1))
    assert forger.numbers, "it has acknowledged those"
    assert not forger.reason
    forger.send(*frames(forger))
    assert forger.code == code, forger.reason
    assert not forger.connection.is_running


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("bits", [0x08, 0x10, 0x18])
def test_reserved_bits_of_a_short_header(role: str, bits: int) -> None:
    """RFC 9000 §17.3.1: only once the packet is known to be authentic."""
    forger = Forger(role)
    packet = bytearray(forger.sealer.seal(bytes(CID), frame(1) * 4, 0, bits))
    packet[-1] ^= 1
    forger.give(bytes(packet))
    assert forger.hear().code is None
    assert forger.send(frame(1), bits=bits).code == VIOLATION


@pytest.mark.parametrize("role", ROLES)
def test_a_packet_without_frames(role: str) -> None:
    """RFC 9000 §12.4. Its number takes four octets, so that header protection has its sample."""
    forger = Forger(role)
    forger.put(b"")
    assert forger.hear().code == VIOLATION


@pytest.mark.parametrize("role", ROLES)
def test_datagrams_that_were_not_offered(role: str) -> None:
    """RFC 9221 §3."""
    forger = Forger(role, Limits(max_datagram_frame_size=0))
    assert forger.send(frame(0x31, 1, tail=b"x")).code == VIOLATION


@pytest.mark.parametrize("role", ROLES)
def test_the_connections_window(role: str) -> None:
    """RFC 9000 §4.1: of all streams together, by data as by final sizes."""
    limits = Limits(session_window=100_000, initial_stream_window=60_000)
    overruns: list[Callable[[int], bytes]] = [lambda id: stream(id, 40_000, b"x"), lambda id: frame(4, id, 0, 40_001)]
    for overrun in overruns:
        forger = Forger(role, limits, consume=False)
        forger.send(stream(forger.ours, 59_999, b"x"), stream(forger.ours + 4, 39_999, b"x"))
        assert forger.code is None
        assert forger.send(overrun(forger.ours + 4)).code == FLOW_CONTROL


@pytest.mark.parametrize("role", ROLES)
def test_what_looks_wrong_and_is_not(role: str) -> None:
    """Every case is the legal neighbour of one above."""
    forger = Forger(role)
    forger.open_local().stream.write(b"x")
    forger.hear()
    window = forger.limits.initial_stream_window
    ours, theirs = forger.ours, forger.theirs
    for frames in (
        [stream(ours, window - 1, b"x")],
        [stream(ours + 4 * (forger.limits.max_streams_bidi - 1))],
        [stream(ours + 4, 3, b"", fin=True), stream(ours + 4, 0, b"abc"), frame(4, ours + 4, 0, 3)],
        [stream(ours + 4, 1, b"bc", fin=True)],
        [frame(0x11, theirs, 9), frame(5, theirs, 0), stream(theirs, 0, b"y")],
        [frame(0x12, 1 << 60), frame(0x13, 1 << 60), frame(0x16, 1 << 60), frame(0x17, 1 << 60)],
        [frame(0x10, LARGEST), frame(0x11, theirs, LARGEST)],
        [new_connection_id(7, 7), new_connection_id(7, 7), new_connection_id(3)],
        [b"\x1b" + bytes(8), b"\x1a" + bytes(8)],
        [ack(min(forger.numbers))],
        [crypto(65535, b"x"), frame(0x31, 0), frame(0x30, tail=b"to the end")],
        [varint(0) * 900],
    ):
        forger.send(*frames)
        assert forger.code is None, (frames, forger.reason)
