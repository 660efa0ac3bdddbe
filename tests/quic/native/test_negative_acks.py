"""A peer that acknowledges what it has not received, in ranges of any shape, or updates its keys without end.

RFC 9000 §13.1, §19.3, §21.4; RFC 9001 §6.
"""

from __future__ import annotations

import time

import pytest

from .forger import Forger, ack, frame, new_connection_id, stream

VIOLATION, ENCODING, KEY_UPDATE = 0x0A, 0x07, 0x0E
ROLES = ("server", "client")
SKIPPED_BY = 600
"""By that number, one has been left out."""


def sending(role: str, packets: int) -> Forger:
    """A victim that has sent at least so many packets, all acknowledged but the last few."""
    forger = Forger(role)
    while len(forger.numbers) < packets:
        forger.send(frame(1), frame(1))
        if len(forger.numbers) % 50 == 0:
            forger.acknowledge()
    return forger


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("step", [1, 2, 7, 100])
def test_acknowledging_ahead_is_found_out(role: str, step: int) -> None:
    """Numbers are left out now and then. An acknowledgement of one is caught, even when all before it came in order."""
    forger = Forger(role)
    for begin in range(0, 4 * SKIPPED_BY, step):
        while max(forger.numbers, default=-1) < begin + step:
            forger.send(frame(1), frame(1))
        forger.send(ack(begin + step - 1, step - 1))
        if forger.code is not None:
            break
    assert forger.code == VIOLATION, "all were believed"
    assert set(range(max(forger.numbers))) - set(forger.numbers), "none was left out"


def test_an_honest_peer_is_believed() -> None:
    forger = sending("server", 5000)
    assert forger.code is None, forger.reason
    assert len(set(range(max(forger.numbers))) - set(forger.numbers)) >= 3


@pytest.mark.parametrize("role", ROLES)
def test_ranges_of_absurd_shape(role: str) -> None:
    """As many ranges as a packet holds: of one packet each, and then beyond the first packet of all."""
    forger = sending(role, 200)
    last = max(forger.numbers)
    forger.send(ack(last, 0, *[(0, 0)] * (last // 2 - 1)))
    assert forger.code is None, forger.reason
    forger.send(ack(last, 0, *[(0, 0)] * 680))
    assert forger.code == ENCODING


@pytest.mark.parametrize("role", ROLES)
def test_the_same_acknowledgement_for_ever(role: str) -> None:
    """It costs no more than looking, and keeps nothing. 300 in a packet, of all that is known of."""
    forger = Forger(role)
    log = forger.open_local()
    log.stream.write(bytes(200_000))
    forger.hear()
    last = max(forger.numbers)
    begun = time.process_time()
    for _ in range(100):
        forger.send(*[ack(last, last)] * 250)
    assert time.process_time() - begun < 5.0
    assert forger.code is None
    assert forger.connection.statistics()["bytes_in_flight"] < 200_000


@pytest.mark.parametrize("delay", [0, 1, 1 << 20, 1 << 40, (1 << 62) - 1])
def test_ack_delays_of_any_size(delay: int) -> None:
    """RFC 9002 §5.3: none makes the RTT smaller than it was or breaks a number."""
    forger = Forger()
    for _ in range(5):
        forger.send(frame(1), frame(1))
        forger.now += 0.05
        forger.send(ack(max(forger.numbers), 0, delay=delay))
    statistics = forger.connection.statistics()
    assert forger.code is None
    assert 0.02 < statistics["minimum_rtt"] <= statistics["smoothed_rtt"] < 0.4


def test_nothing_is_owed_for_bytes_acknowledged_twice() -> None:
    forger = Forger()
    forger.open_local().stream.write(bytes(5000))
    forger.hear()
    last = max(forger.numbers)
    for _ in range(20):
        forger.send(ack(last, last))
    assert forger.connection.statistics()["bytes_in_flight"] == 0


# --- Keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_updates_without_waiting_for_an_answer(role: str) -> None:
    """RFC 9001 §6.2: the second before we have sent anything under the first is one too many."""
    forger = Forger(role)
    for _ in range(2):
        forger.sealer.update()
        forger.put(frame(1) * 8)
    assert forger.hear().code == KEY_UPDATE


@pytest.mark.parametrize("role", ROLES)
def test_updates_that_wait(role: str) -> None:
    forger = Forger(role)
    for _ in range(10):
        forger.sealer.update()
        forger.send(frame(1), frame(1)).send(frame(1)).acknowledge()
    assert forger.code is None, forger.reason
    assert forger.connection.statistics()["key_updates"] == 10


def test_an_old_packet_under_new_keys() -> None:
    """RFC 9001 §6.4."""
    forger = Forger()
    forger.send(frame(1), frame(1), number=10)
    forger.sealer.update()
    forger.send(frame(1), frame(1), number=11)
    forger.wait(5.0)
    forger.send(frame(1))
    forger.sealer.update()
    forger.send(frame(1) * 8, number=5)
    assert forger.code == KEY_UPDATE


def test_frames_of_any_kind_in_one_packet_with_a_wrong_one() -> None:
    """What stood before the wrong one has been done; what stood behind has not."""
    forger = Forger()
    forger.send(stream(0, 0, b"first"), frame(0x20), stream(4, 0, b"second"), new_connection_id(1))
    assert forger.code == ENCODING
    assert [opened.id for opened in forger.opened] == []
