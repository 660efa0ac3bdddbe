"""0-RTT packets that come ahead of their Initial: held for a moment, within bounds, for whoever they belong to."""

from __future__ import annotations

from quicsocks.userspace.quic.early_arrivals import MOST, MOST_OF_ONE, PATIENCE, EarlyArrivals, is_early
from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.types import Resumption

from ..sim.pair import CLIENT, SERVER
from .coming_back import Stage

PLAIN = Resumption()
HERE, THERE = Route(SERVER, CLIENT), Route(SERVER, ("192.0.2.9", 9))


def early(cid: bytes, rest: bytes = b"x") -> bytes:
    return b"\xd0\0\0\0\1" + bytes([len(cid)]) + cid + b"\0" + rest


def test_what_is_early() -> None:
    cid = bytes(8)
    assert is_early(early(cid))
    assert is_early(early(bytes(20)))
    assert not is_early(early(bytes(7))), "shorter than clients make them up"
    assert not is_early(b"\xc0" + early(cid)[1:]), "an Initial"
    assert not is_early(b"\x90" + early(cid)[1:]), "without the fixed bit"
    assert not is_early(early(cid)[:1] + b"\0\0\0\2" + early(cid)[5:])
    for size in range(14):
        assert not is_early(early(cid)[:size])


def test_early_arrivals_wait_for_their_initial() -> None:
    arrivals = EarlyArrivals()
    first, second = bytes([1]) * 8, bytes([2]) * 8
    assert arrivals.keep(early(first, b"a"), HERE, 1.0, 0)
    assert arrivals.keep(early(second, b"b"), THERE, 1.1, 2)
    assert arrivals.keep(early(first, b"c"), THERE, 1.2, 3)

    assert arrivals.take(first, 1.3) == [(early(first, b"a"), HERE, 0), (early(first, b"c"), THERE, 3)]
    assert arrivals.take(first, 1.3) == []
    assert len(arrivals) == 1
    assert arrivals.take(second, 1.1 + PATIENCE) == [], "too late"
    assert len(arrivals) == 0


def test_early_arrivals_have_bounds() -> None:
    arrivals = EarlyArrivals()
    cids = [bytes([number]) * 8 for number in range(200)]
    kept = [arrivals.keep(early(cids[0]), HERE, 1.0, 0) for _ in range(20)]
    assert kept == [True] * MOST_OF_ONE + [False] * (20 - MOST_OF_ONE)

    kept = [arrivals.keep(early(cid), HERE, 1.0, 0) for cid in cids[1:]]

    assert kept.count(True) == MOST - MOST_OF_ONE
    assert len(arrivals) == MOST
    assert arrivals.keep(early(cids[0]), HERE, 1.0 + PATIENCE, 0), "the old ones are gone"
    assert len(arrivals) == 1


def test_strangers_early_packets_are_counted() -> None:
    stage = Stage()
    for number in range(100):
        stage.pair.send_up(early(number.to_bytes(8, "big"), bytes(1200)))

    assert stage.counters["dropped_early"] == 100 - MOST
    assert not stage.accepted
    stage.visit()

    quiet = Stage(PLAIN)
    quiet.pair.send_up(early(bytes(8), bytes(1200)))
    assert quiet.counters["dropped_early"] == 1
    assert len(quiet.pair.server.hub._early) == 0


def test_early_packets_from_another_address_are_not_its_own() -> None:
    stage = Stage()
    stage.visit()
    stage.pair.record = True
    stage.sort(lambda found: None)
    client, _ = stage.dial()
    client.open_stream().write(b"x" * 3000)
    stage.pair._flush()
    flight = [data for direction, data in stage.pair.seen if direction == "up"]
    for data in flight[1:]:
        stage.pair.send_up(data, ("203.0.113.66", 6666))

    stage.pair.send_up(flight[0])

    session = stage.accepted[-1][0]
    assert session.reads_early
    assert session.connection.statistics()["zero_rtt_received"] == 0
