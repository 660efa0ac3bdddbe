"""Floods: what is legal once and costs something, thousands of times. Memory, answers and work stay bounded.

Each flood is measured twice over: the second half may neither hold more memory than the first nor be answered with more.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import pytest

from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.types import Limits

from .forger import ROUTE, Forger, crypto, frame, new_connection_id, path_challenge, stream

CID_LIMIT, VIOLATION, CRYPTO_BUFFER = 0x09, 0x0A, 0x0D
ROLES = ("server", "client")
ROOM = 1150
"""Octets of frames in a packet."""
PACKETS = 150
SLACK = 64 << 10
"""Octets of memory that may come and go: lists that grow by doubling, frames of a packet."""
SECONDS = 5.0
"""Processor time for one flood at most, with tracing: no more than a hang is."""


def fill(*frames: bytes) -> bytes:
    """As many as go into a packet."""
    one = b"".join(frames)
    return one * (ROOM // len(one))


Flood = Callable[[Forger, int], bytes]
FLOODS: dict[str, Flood] = {
    "PADDING": lambda at, turn: bytes(ROOM),
    "PING": lambda at, turn: fill(frame(1)),
    "PATH_CHALLENGE": lambda at, turn: fill(path_challenge(turn)),
    "PATH_RESPONSE": lambda at, turn: fill(frame(0x1B, tail=bytes(8))),
    "MAX_DATA": lambda at, turn: fill(frame(0x10, 1 << 20)),
    "MAX_STREAM_DATA": lambda at, turn: fill(frame(0x11, at.ours, turn)),
    "MAX_STREAMS": lambda at, turn: fill(frame(0x12, turn)),
    "DATA_BLOCKED": lambda at, turn: fill(frame(0x14, turn)),
    "STREAMS_BLOCKED": lambda at, turn: fill(frame(0x16, turn)),
    "STREAM_DATA_BLOCKED": lambda at, turn: fill(frame(0x15, at.ours, turn)),
    "the same NEW_CONNECTION_ID": lambda at, turn: fill(new_connection_id(1)),
    "the same RETIRE_CONNECTION_ID": lambda at, turn: fill(frame(0x19, 0)),
    "empty STREAM": lambda at, turn: fill(stream(at.ours)),
    "the same octet": lambda at, turn: fill(stream(at.ours, 1, b"x")),
    "tiny STREAM": lambda at, turn: b"".join(stream(at.ours, turn * 150 + i, b"x") for i in range(150)),
    "DATAGRAM": lambda at, turn: fill(frame(0x31, 0)),
    "the same CRYPTO": lambda at, turn: fill(crypto(1, b"x")),
    "STOP_SENDING": lambda at, turn: fill(frame(5, at.ours, turn)),
    "RESET_STREAM": lambda at, turn: fill(frame(4, at.ours, turn, 0)),
}


def pour(forger: Forger, flood: Flood, turns: range) -> int:
    """The octets that came back."""
    before = forger.sent_back
    for turn in turns:
        forger.send(flood(forger, turn))
        if turn % 10 == 9:
            forger.acknowledge()
        forger.received.clear()
        forger.events.clear()
        del forger.numbers[:-200]
        forger.now += 0.001
    return forger.sent_back - before


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_is_borne(role: str, kind: str) -> None:
    forger = Forger(role)
    tracemalloc.start()
    try:
        begun = time.process_time()
        first = pour(forger, FLOODS[kind], range(PACKETS))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        second = pour(forger, FLOODS[kind], range(PACKETS, 2 * PACKETS))
        held_after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert forger.code is None, forger.reason
    assert held_after - held < SLACK
    assert peak - held < 4 * SLACK
    # A packet for a packet at most (PATH_RESPONSE fills one: RFC 9000 §8.2.2), and not more with time.
    assert second <= first * 1.2 + 2000
    assert first + second <= 2 * PACKETS * 1250
    assert time.process_time() - begun < SECONDS
    assert forger.connection.statistics()["streams_open"] <= 1


# --- Connection IDs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_connection_ids_replaced_without_end(role: str) -> None:
    """Each retires the one before: RFC 9000 §5.1.2 has a limit on those whose retirement is not acknowledged."""
    forger = Forger(role)
    forger.send(*(new_connection_id(sequence, sequence) for sequence in range(1, 30)))
    assert forger.code is None
    assert len(forger.kinds(0x19)) == 29
    for begin in range(30, 2000, 20):
        forger.put(b"".join(new_connection_id(sequence, sequence) for sequence in range(begin, begin + 20)))
    assert forger.hear().code == CID_LIMIT


@pytest.mark.parametrize("role", ROLES)
def test_connection_ids_below_what_is_retired(role: str) -> None:
    """RFC 9000 §19.15: each of those has to be retired at once."""
    forger = Forger(role)
    forger.send(new_connection_id(5000, 5000))
    for begin in range(1, 2000, 20):
        forger.put(b"".join(new_connection_id(sequence) for sequence in range(begin, begin + 20)))
    assert forger.hear().code == CID_LIMIT


@pytest.mark.parametrize("role", ROLES)
def test_our_connection_ids_retired_without_end(role: str) -> None:
    """One is issued for each that is retired, and never more are held than the peer may have."""
    forger = Forger(role)
    forger.hear()
    for sequence in range(1000):
        forger.send(frame(0x19, sequence), frame(1))
        forger.now += 0.01
        if sequence % 10 == 9:
            forger.acknowledge()
    assert forger.code is None, forger.reason
    issued = [found[1] for found in forger.kinds(0x18)]
    assert issued == sorted(set(issued))
    retired = [event[1] for event in forger.events if event[0] == "cid_retired"]
    assert len(retired) == 1000
    assert max(issued) == 1000 + 3


# --- Streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("answered", [True, False])
def test_rapid_reset(role: str, answered: bool) -> None:
    """Streams opened, reset and stopped at once. Until our resets are acknowledged, their streams count as open."""
    limits = Limits(max_streams_bidi=100)
    forger = Forger(role, limits, take=False)
    opened, allowed = 0, 100
    for _ in range(100):
        frames = list[bytes]()
        while opened < allowed and len(frames) < 60:
            number = forger.ours + 4 * opened
            frames += [stream(number, 0, b"x"), frame(4, number, 8, 1), frame(5, number, 8)]
            opened += 1
        forger.send(*frames or [frame(1)])
        for new in forger.opened:
            new.reset(8)
            new.stop_sending(8)
        forger.opened.clear()
        forger.hear()
        if answered:
            forger.acknowledge()
        allowed = max([allowed, *(found[1] for found in forger.kinds(0x12))])
        assert forger.connection.statistics()["streams_open"] <= 100
    assert forger.code is None, forger.reason
    if answered:
        assert opened > 1000
    else:
        assert opened == 100
        assert forger.send(stream(forger.ours + 4 * 100)).code == 0x04


def test_all_streams_at_once() -> None:
    """RFC 9000 §2.1: the last one opens all before it."""
    forger = Forger(take=False)
    last = forger.limits.max_streams_bidi - 1
    begun = time.process_time()
    forger.send(stream(4 * last))
    for _ in range(100):
        forger.send(fill(stream(4 * last, 0, b"x")))
    assert time.process_time() - begun < SECONDS
    assert len(forger.opened) == last + 1


@pytest.mark.parametrize("backwards", [False, True])
def test_gaps_of_one_stream(backwards: bool) -> None:
    """RFC 9000 §21.7. Looking for a frame's place among them must not take longer the more there are."""
    forger = Forger()
    begun = time.process_time()
    places = range(40_000, 0, -2) if backwards else range(2, 40_000, 2)
    for begin in range(0, len(places), 150):
        forger.put(b"".join(stream(0, at, b"x") for at in places[begin : begin + 150]))
    assert forger.hear().code == VIOLATION
    assert time.process_time() - begun < SECONDS


def test_gaps_of_all_streams_together() -> None:
    """Few in each: what they cost together is bounded, too, and stopping a stream gives its share back."""
    forger = Forger(consume=False)

    def gaps(number: int, count: int) -> None:
        for begin in range(1, count + 1, 150):
            last = min(begin + 150, count + 1)
            forger.put(b"".join(stream(number, 2 * at, b"x") for at in range(begin, last)))

    for turn in range(15):
        gaps(4 * turn, 9000)
        forger.logs[4 * turn].stream.stop_sending(0)
    forger.hear()
    assert forger.code is None, forger.reason
    for turn in range(15, 30):
        gaps(4 * turn, 9000)
    assert forger.hear().code == VIOLATION


def test_gaps_of_crypto_data() -> None:
    """RFC 9000 §7.5: bounded by octets, and here by gaps."""
    forger = Forger()
    for begin in range(1, 32_000, 150):
        forger.put(b"".join(crypto(2 * at, b"x") for at in range(begin, begin + 150)))
    assert forger.hear().code == VIOLATION


def test_a_stream_that_disagrees_with_itself() -> None:
    """RFC 9000 §2.2 lets us choose: what came first stays, whichever order the rest comes in."""
    forger = Forger()
    forger.send(stream(0, 2, b"cd"), stream(0, 6, b"gh"))
    forger.send(stream(0, 1, b"XXXXXXX"), stream(0, 0, b"YYYYYYYYYY"))
    assert bytes(forger.logs[0].data) == b"YXcdXXghYY"
    forger.send(stream(0, 0, b"ZZZZZZZZZZz", fin=True))
    assert bytes(forger.logs[0].data) == b"YXcdXXghYYz"
    assert forger.logs[0].calls[-1] == ("eof",)
    assert forger.code is None


# --- Paths ------------------------------------------------------------------------------------------------------------


def test_packets_from_everywhere() -> None:
    """Addresses that are never validated (RFC 9000 §8): few are remembered, and none gets three times what it has sent."""
    forger = Forger()
    forger.open_local().stream.write(bytes(100_000))
    size = 40
    for port in range(1, 1000):
        forger.send(frame(1) * size, route=Route(ROUTE.local, ("203.0.113.5", port)))
    assert max(octets for route, octets in forger.sent_to.items() if route != ROUTE) <= 3 * (1 + 8 + 4 + size + 16)
    assert len(forger.sent_to) > 900
    assert forger.code is None
    assert sum(event[0] == "path" for event in forger.events) <= 2 * 1000


def test_a_server_may_not_move() -> None:
    forger = Forger("client")
    before = forger.connection.statistics()["packets_dropped"]
    forger.send(frame(1), frame(1), route=Route(ROUTE.local, ("203.0.113.5", 1)))
    assert forger.connection.statistics()["packets_dropped"] == before + 1
    assert forger.connection.route == ROUTE


# --- After the end ----------------------------------------------------------------------------------------------------


def test_a_closed_connection_answers_less_and_less() -> None:
    """RFC 9000 §10.2.1."""
    forger = Forger()
    forger.send(frame(0x20))
    begun = forger.sent_back
    for _ in range(1000):
        forger.send(frame(1))
    assert forger.code is not None
    assert 5 <= len(forger.kinds(0x1C)) <= 12
    assert forger.sent_back - begun < 1000
    forger.wait(10.0)
    assert forger.connection.is_terminated
