"""The halves of streams, against plain byte strings, in every order of loss and arrival."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicsocks.netstack.receive_buffer import ReceiveBufferFace
from quicsocks.netstack.send_buffer import SendBufferFace

ALL = 2**62
ARRIVED, FINAL_SIZE_CHANGED, TOO_MANY_GAPS = range(3)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_a_sender_ends_complete_whatever_is_lost(seed: int) -> None:
    """Pieces are acknowledged, lost, or lost and acknowledged after all; every octet must have been acknowledged from a
    piece that held it, and nothing is sent again that has been."""
    chance = random.Random(seed)
    payload = chance.randbytes(chance.choice([0, 1, 5000, 70_000]))
    buffer = SendBufferFace()
    flying: list[tuple[int, int, bool]] = []
    given_up: list[tuple[int, int, bool]] = []
    arrived: dict[int, bytes] = {}
    written, limit, finished = 0, 0, False
    for _ in range(20_000):
        if buffer.is_complete:
            break
        if written < len(payload) and chance.random() < 0.3:
            size = chance.randrange(1, 20_000)
            buffer.write_octets(payload[written : written + size])
            written = min(len(payload), written + size)
        elif written == len(payload) and not finished and chance.random() < 0.3:
            buffer.finish_writing()
            finished = True
        if chance.random() < 0.3:
            limit = min(ALL, limit + chance.randrange(10_000))
        piece = buffer.next_piece(limit, chance.choice([1, 100, 1400, 30_000]))
        assert (piece is not None) == buffer.wants_to_send(limit)
        if piece is not None and len(flying) < 30:
            offset, data, fin = piece
            assert data == payload[offset : offset + len(data)]
            assert offset + len(data) <= limit or offset + len(data) <= buffer.sent
            if fin:
                assert finished
                assert offset + len(data) == len(payload)
            assert data or fin
            buffer.was_sent(offset, len(data), fin)
            flying.append((offset, len(data), fin))
        if flying and chance.random() < 0.7:
            offset, size, fin = flying.pop(chance.randrange(len(flying)))
            if chance.random() < 0.4:
                buffer.was_lost(offset, size, fin)
                given_up.append((offset, size, fin))
            else:
                buffer.was_acked(offset, size, fin)
                arrived[offset] = payload[offset : offset + size]
        if given_up and chance.random() < 0.1:
            # It was only late.
            offset, size, fin = given_up.pop(chance.randrange(len(given_up)))
            buffer.was_acked(offset, size, fin)
            arrived[offset] = payload[offset : offset + size]
    assert buffer.is_complete
    assert buffer.next_piece(ALL, 1400) is None
    assert buffer.blocks_held == 0


def test_what_was_acknowledged_is_not_sent_again() -> None:
    buffer = SendBufferFace()
    buffer.write_octets(bytes(3000))
    buffer.was_sent(0, 3000, False)
    buffer.was_acked(1000, 1000, False)
    buffer.was_lost(0, 3000, False)
    assert buffer.next_piece(ALL, 5000) == (0, bytes(1000), False)
    buffer.was_sent(0, 1000, False)
    assert buffer.next_piece(ALL, 5000) == (2000, bytes(1000), False)
    buffer.was_acked(2000, 1000, False)
    assert buffer.next_piece(ALL, 5000) is None


def test_a_lost_fin_is_sent_again_alone() -> None:
    buffer = SendBufferFace()
    buffer.write_octets(b"abc")
    buffer.finish_writing()
    buffer.was_sent(0, 3, True)
    buffer.was_acked(0, 3, False)
    buffer.was_lost(3, 0, True)
    assert buffer.next_piece(ALL, 100) == (3, b"", True)
    buffer.was_sent(3, 0, True)
    assert not buffer.is_complete
    buffer.was_acked(3, 0, True)
    assert buffer.is_complete


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_a_receiver_puts_octets_in_order_and_keeps_the_first(seed: int) -> None:
    chance = random.Random(seed)
    total = chance.choice([1, 300, 40_000])
    first: list[int | None] = [None] * total
    buffer, out, ended = ReceiveBufferFace(), bytearray(), False
    for _ in range(5000):
        offset = chance.randrange(total)
        size = min(total - offset, chance.choice([0, 1, 50, 1400, 20_000]))
        data = chance.randbytes(size)
        fin = offset + size == total and chance.random() < 0.8
        buffer.receive_octets(offset, data, fin)
        ended = ended or fin
        for index, octet in enumerate(data, offset):
            if first[index] is None:
                first[index] = octet
        if chance.random() < 0.5:
            out += buffer.take_octets(chance.choice([1, 100, 1 << 20]))
        else:
            out += buffer.peek_and_skip()
        if len(out) == total and ended:
            break
        if chance.random() < 0.05:
            gap = next((index for index, octet in enumerate(first) if octet is None), total)
            size = min(1400, total - gap)
            data = chance.randbytes(size)
            buffer.receive_octets(gap, data, gap + size == total)
            ended = ended or gap + size == total
            for index, octet in enumerate(data, gap):
                if first[index] is None:
                    first[index] = octet
    while buffer.octets_available:
        out += buffer.take_octets(1 << 20)
    assert len(out) == buffer.taken
    assert out == bytes(octet if octet is not None else 0 for octet in first[: len(out)])
    if buffer.taken == total:
        assert buffer.blocks_held == 0
        assert buffer.is_at_end is ended


@pytest.mark.parametrize(
    "steps",
    [
        [(0, b"abc", True), (3, b"d", False)],
        [(0, b"abc", True), (0, b"ab", True)],
        [(5, b"x", False), (0, b"abc", True)],
        [(0, b"", True), (0, b"x", False)],
    ],
)
def test_a_final_size_does_not_change(steps: list[tuple[int, bytes, bool]]) -> None:
    """RFC 9000 §4.5."""
    buffer = ReceiveBufferFace()
    for offset, data, fin in steps[:-1]:
        buffer.receive_octets(offset, data, fin)
    assert buffer.receive_octets(*steps[-1]) == FINAL_SIZE_CHANGED


def test_a_reset_s_final_size_does_not_contradict_data() -> None:
    buffer = ReceiveBufferFace()
    buffer.receive_octets(10, b"x", False)
    assert buffer.set_final_size(10) == FINAL_SIZE_CHANGED
    assert buffer.set_final_size(11) == ARRIVED
    assert buffer.set_final_size(11) == ARRIVED
    assert buffer.set_final_size(12) == FINAL_SIZE_CHANGED


def test_a_piece_of_nothing_ahead_of_its_time_is_nothing() -> None:
    buffer = ReceiveBufferFace()
    buffer.receive_octets(5, b"", False)
    assert (buffer.highest, buffer.ready, buffer.octets_available) == (5, 0, 0)
    buffer.receive_octets(5, b"", True)
    assert buffer.final == 5


def test_gaps_are_counted() -> None:
    buffer = ReceiveBufferFace()
    for offset in range(1, 20_000, 2):
        buffer.receive_octets(offset, b"x", False)
    assert buffer.receive_octets(20_001, b"x", False) == TOO_MANY_GAPS


def test_what_nobody_wants_takes_no_memory() -> None:
    buffer = ReceiveBufferFace()
    buffer.receive_octets(0, bytes(40_000), False)
    buffer.receive_octets(100_000, bytes(40_000), False)
    assert buffer.blocks_held > 4
    buffer.forget()
    assert buffer.blocks_held == 0
    assert buffer.highest == 140_000
