"""What is read of ordinary preambles without a reader is what a reader reads."""

from __future__ import annotations

import random

import pytest

from quicsocks.userspace.tunnel.preamble import (
    PLAIN_ANSWER,
    PLAIN_REQUEST,
    AnswerReader,
    RequestReader,
    answer_accepted,
    answer_error,
    plain_answer,
    plain_request,
    request,
)
from quicsocks.userspace.tunnel.tlv import TLVError, Wire
from quicsocks.userspace.tunnel.types import BoundAddress, Destination

ANYWHERE = Destination("192.0.2.1", 80)
REQUESTS = [
    request(Destination(host, port), Wire.QUICSOCKS) for host in ("192.0.2.1", "2001:db8::1") for port in (1, 65535)
]
ANSWERS = [
    answer_accepted(BoundAddress(host, port), Wire.QUICSOCKS)
    for host in ("192.0.2.1", "127.0.0.1", "2001:db8::1", "::")
    for port in (1, 80, 65535)
]


def mutated(valid: bytes, seed: int) -> bytes:
    """valid with an octet or two changed, cut, or something behind it."""
    chance = random.Random(seed)
    data = bytearray(valid)
    for _ in range(chance.randrange(3)):
        data[chance.randrange(len(data))] = chance.choice(
            [0, 1, 2, 0x10, 0x12, 0x40, 0x41, 0xFF, chance.randrange(256)]
        )
    return bytes(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.2 else data) + chance.randbytes(
        chance.choice([0, 0, 1, 30])
    )


@pytest.mark.parametrize("wire", list(Wire))
@pytest.mark.parametrize("valid", REQUESTS)
def test_requests(valid: bytes, wire: Wire) -> None:
    assert plain_request(valid + b"behind", wire) is not None
    agreed = 0
    for seed in range(3000):
        data = mutated(valid, seed)
        destination = plain_request(data, wire)
        if destination is None:
            continue
        reader = RequestReader(wire)
        assert reader.receive_data(data)
        assert reader.destination == destination
        assert reader.rest == data[PLAIN_REQUEST:]
        agreed += 1
    assert agreed > 300


@pytest.mark.parametrize("valid", ANSWERS)
def test_answers(valid: bytes) -> None:
    assert plain_answer(valid + b"behind") is not None
    agreed = 0
    for seed in range(3000):
        data = mutated(valid, seed)
        bound = plain_answer(data)
        if bound is None:
            continue
        reader = AnswerReader(Wire.QUICSOCKS, ANYWHERE)
        assert reader.receive_data(data)
        assert reader.failure is None
        assert reader.bound == bound
        assert reader.rest == data[PLAIN_ANSWER:]
        agreed += 1
    assert agreed > 300


def test_what_is_not_ordinary_is_left_to_the_readers() -> None:
    for other in (
        b"",
        REQUESTS[0][:-1],
        request(Destination("example.com", 80), Wire.QUICSOCKS),
        b"\x40\x00" + REQUESTS[0],
        REQUESTS[0][:20] + b"\xff\x01\x00",
        b"\x00\x12\x00\x00" + REQUESTS[0][4:],
    ):
        assert plain_request(other, Wire.QUICSOCKS) is None
    for other in (
        b"",
        ANSWERS[0][:-1],
        answer_error(0x100),
        answer_accepted(BoundAddress(), Wire.QUICSOCKS),
        ANSWERS[0][:22] + b"\xff\x01\x00",
        ANSWERS[0][:22] + b"\x41\x00\xff\x00",
    ):
        assert plain_answer(other) is None


@pytest.mark.parametrize("size", range(1, 30))
def test_a_names_length_and_what_is_behind_it_change_nothing(size: int) -> None:
    """Of a name and the flow's bytes behind it the first 22 octets may be complete, too."""
    destination = Destination("a" * size, 80)
    for behind in (b"", b"GET / HTTP/1.1", bytes(40), b"\xff\x00" * 20):
        data = request(destination, Wire.QUICSOCKS) + behind
        found = plain_request(data, Wire.QUICSOCKS)
        assert found is None or (found == destination and data[PLAIN_REQUEST:] == behind)


def test_what_the_readers_refuse_is_not_ordinary() -> None:
    for seed in range(3000):
        data = mutated(REQUESTS[0], seed)
        reader = RequestReader(Wire.QUICSOCKS)
        try:
            complete = reader.receive_data(data)
        except TLVError:
            complete = False
        if not complete:
            assert plain_request(data, Wire.QUICSOCKS) is None
