"""When packets are acknowledged: RFC 9000 §13.2, what draft-ietf-quic-ack-frequency changes, and frames of other extensions."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from functools import partial

import pytest

from quicsocks.userspace.quic.aioquic_internals.handshaker_parameters import parse_parameters
from quicsocks.userspace.quic.errors import LocalError, PeerError
from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.session import Route

from ...sim.link import Conditions
from ..dialled import dial
from ..recorders import StreamLog
from .forger import PARAMETERS, ROUTE, Forger, ack, frame, stream, varint

PING, IMMEDIATE_ACK, ACK_FREQUENCY = frame(0x01), frame(0x1F), 0xAF
VIOLATION, ENCODING = 0x0A, 0x07
CE = 3
MAX_ACK_DELAY = 0.025
KNOWING = replace(PARAMETERS, min_ack_delay=0.001, initial_max_data=1 << 24, initial_max_stream_data_bidi_local=1 << 24)
"""Parameters of a peer that takes ACK_FREQUENCY."""
ROLES = ("server", "client")


def quiet(role: str = "server") -> Forger:
    """A victim that has said what it has to say, and had it acknowledged."""
    return Forger(role).hear().acknowledge().wait(1.0)


def asked(forger: Forger, sequence: int, threshold: int, delay: int = 25_000, reordering: int = 1) -> Forger:
    """Put an ACK_FREQUENCY frame to it, and let it have acknowledged that."""
    forger.send(frame(ACK_FREQUENCY, sequence, threshold, delay, reordering))
    return forger.wait(1.0)


def acks(forger: Forger) -> int:
    return len(forger.kinds(0x02)) + len(forger.kinds(0x03))


def pings_until_ack(forger: Forger, most: int = 100) -> int:
    """How many PINGs, each in a packet, bring the next ACK, without time passing."""
    begun = acks(forger)
    for count in range(1, most + 1):
        forger.send(PING)
        if acks(forger) > begun:
            return count
    raise AssertionError(f"no ACK of {most} packets")


# --- What is acknowledged when ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_every_second_packet_when_nothing_is_asked_for(role: str) -> None:
    forger = quiet(role)
    assert [pings_until_ack(forger) for _ in range(20)] == [2] * 20


@pytest.mark.parametrize("threshold", [0, 1, 2, 9, 63])
def test_as_many_as_are_asked_for(threshold: int) -> None:
    forger = asked(quiet(), 0, threshold)
    assert [pings_until_ack(forger) for _ in range(5)] == [threshold + 1] * 5


def test_a_lone_packet_waits_no_longer_than_is_asked_for() -> None:
    forger = asked(quiet(), 0, 63, 5_000)
    forger.send(PING)
    begun = acks(forger)
    forger.wait(0.0049)
    assert acks(forger) == begun
    forger.wait(0.0002)
    assert acks(forger) == begun + 1


def test_the_latest_request_holds_whatever_the_order() -> None:
    forger = asked(asked(quiet(), 7, 9), 6, 30)
    assert pings_until_ack(forger) == 10
    asked(forger, 7, 30)
    assert pings_until_ack(forger) == 10
    asked(forger, 8, 30)
    assert pings_until_ack(forger) == 31


def test_immediate_ack() -> None:
    forger = asked(quiet(), 0, 63)
    begun = acks(forger)
    forger.send(PING)
    assert acks(forger) == begun
    forger.send(IMMEDIATE_ACK)
    assert acks(forger) == begun + 1


@pytest.mark.parametrize("threshold", [1, 2, 3, 8])
def test_reordering_is_told_at_the_threshold(threshold: int) -> None:
    """One packet is missing: the ACK comes with the packet that is so far beyond it."""
    forger = asked(quiet(), 0, 60, reordering=threshold)
    missing = forger.number
    begun = acks(forger)
    for number in itertools.count(missing + 1):
        forger.send(PING, number=number)
        if acks(forger) > begun:
            break
    assert number - missing == threshold
    assert forger.kinds(0x02)[-1][4] == number - missing - 1, "the first range reaches down to the gap"


def test_reordering_that_has_been_told_needs_no_second_ack() -> None:
    forger = asked(quiet(), 0, 60, reordering=3)
    missing = forger.number
    for number in range(missing + 1, missing + 4):
        forger.send(PING, number=number)
    told = acks(forger)
    for number in range(missing + 4, missing + 30):
        forger.send(PING, number=number)
    assert acks(forger) == told


def test_reordering_may_be_of_no_interest() -> None:
    forger = asked(quiet(), 0, 60, reordering=0)
    begun, first = acks(forger), forger.number
    for number in range(first + 1, first + 40):
        forger.send(PING, number=number)
    forger.send(PING, number=first)
    assert acks(forger) == begun
    forger.wait(MAX_ACK_DELAY)
    assert acks(forger) == begun + 1


def test_the_first_mark_of_a_run_is_told_at_once() -> None:
    forger = asked(quiet(), 0, 63)

    def give(ecn: int) -> bool:
        begun = acks(forger)
        packet = forger.sealer.seal(bytes(8), PING.ljust(4, b"\0"), forger.number)
        forger.number += 1
        forger.connection.receive(packet, ROUTE, forger.now, ecn)
        forger.hear()
        return acks(forger) > begun

    assert [give(ecn) for ecn in (2, CE, CE, CE, 2, 2, CE, 2)] == [False, True, False, False, False, False, True, False]


def test_two_ends_whose_packets_are_all_marked_come_to_rest() -> None:
    forger = Forger()
    forger.send(PING, PING)
    for _ in range(10):
        packet = forger.sealer.seal(bytes(8), ack(max(forger.numbers)).ljust(4, b"\0"), forger.number)
        forger.number += 1
        begun = len(forger.numbers)
        forger.connection.receive(packet, ROUTE, forger.now, CE)
        forger.hear()
        assert len(forger.numbers) == begun, "an ACK was answered"


# --- What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_a_delay_below_our_min_ack_delay_is_refused(role: str) -> None:
    assert Forger(role).send(frame(ACK_FREQUENCY, 0, 1, 1000, 1)).code is None
    assert Forger(role).send(frame(ACK_FREQUENCY, 0, 1, 999, 1)).code == VIOLATION


@pytest.mark.parametrize("octets", range(2, 6))
def test_a_truncated_request_is_refused(octets: int) -> None:
    data = frame(ACK_FREQUENCY, 0, 1, 40, 1)
    forger = Forger()
    forger.put(PING + PING + data[:octets])
    assert forger.hear().code == ENCODING


def test_its_type_takes_two_octets_and_no_more() -> None:
    assert Forger().send(b"\x80\x00\x00\xaf" + frame(0, 1, 25_000, 1)).code == VIOLATION


def test_absurd_values_are_borne() -> None:
    largest = (1 << 62) - 1
    forger = asked(quiet(), largest, largest, largest, largest)
    for _ in range(2000):
        forger.send(PING)
    assert forger.code is None
    forger.wait(17.0)
    assert acks(forger), "it never acknowledges"


# aioquic's decoder of parameters: ID, length, value.
@pytest.mark.parametrize(
    ("value", "delay"),
    [
        (varint(0), 0.0),
        (varint(1000), 0.001),
        (varint(25_000), 0.025),
        (varint(25_001), None),  # Above max_ack_delay.
        (varint(1 << 24), None),
        (varint(1000) + b"\0", None),
        (b"\x80", None),
        (b"", None),
    ],
)
def test_min_ack_delay_is_read_and_checked(value: bytes, delay: float | None) -> None:
    data = varint(0xFF04DE1B) + varint(len(value)) + value
    if delay is None:
        with pytest.raises(ValueError, match=r"."):
            parse_parameters(data)
    else:
        assert parse_parameters(data).min_ack_delay == pytest.approx(delay)
        assert 0xFF04DE1B not in parse_parameters(data).unknown
    assert parse_parameters(b"").min_ack_delay is None


# --- What is asked for --------------------------------------------------------------------------------------------------


def transfer(loss: float, size: int = 3_000_000) -> tuple[NativeSession, NativeSession]:
    """From the client to the server, which are returned, over 20 ms each way."""
    dialled = dial(1, Conditions(delay=0.02, loss=loss), engines=("native", "native")).complete(60.0)
    near = StreamLog(dialled.client.open_stream())
    payload = random.Random(5).randbytes(size)
    near.stream.write(payload)
    logs = dialled.server_log.logs
    dialled.pair.drive(lambda: near.stream.id in logs and len(logs[near.stream.id].data) == size, 600.0)
    assert bytes(logs[near.stream.id].data) == payload
    dialled.pair.drive(lambda: not dialled.client.statistics().bytes_in_flight, 60.0)
    assert isinstance(dialled.client, NativeSession)
    assert isinstance(dialled.server, NativeSession)
    return dialled.client, dialled.server


def test_a_large_window_asks_for_fewer_acknowledgements() -> None:
    client, server = transfer(0.0)
    sent, back = client.statistics().packets_sent, server.statistics().packets_sent
    assert back < sent / 6, f"{back} packets came back for {sent}"


def test_a_request_that_is_lost_is_repeated() -> None:
    client, server = transfer(0.2, 300_000)
    assert server.connection.statistics()["ack_threshold"] == client.connection.statistics()["ack_threshold_asked"]


def test_a_peer_that_does_not_know_is_not_asked() -> None:
    forger = Forger(parameters=PARAMETERS)
    for _ in range(200):
        forger.send(PING, PING)
        forger.acknowledge()
    assert not forger.kinds(ACK_FREQUENCY)


def grown(forger: Forger) -> Forger:
    """Its stream's data arrives, and its window grows."""
    forger.send(stream(forger.ours, 0, b"x"))
    number = next(iter(forger.logs))
    forger.logs[number].stream.write(bytes(1_000_000))
    for _ in range(40):
        forger.wait(0.01)
        forger.acknowledge()
    return forger


def test_a_request_is_renewed_when_the_window_has_changed_much() -> None:
    forger = grown(Forger(parameters=KNOWING))
    requests = forger.kinds(ACK_FREQUENCY)
    assert requests, "nothing was asked for"
    assert [found[1] for found in requests] == list(range(len(requests)))
    thresholds = [threshold for threshold, _ in itertools.groupby(found[2] for found in requests)]
    assert len(thresholds) >= 3
    assert all(1 <= threshold <= 63 for threshold in thresholds)
    assert all(b >= 2 * a or a >= 2 * b for a, b in itertools.pairwise([1, *thresholds]))
    assert all(found[3:] == (25_000, 1) for found in requests)


def test_probes_ask_for_an_answer_at_once() -> None:
    for parameters, expected in ((KNOWING, True), (PARAMETERS, False)):
        forger = Forger(parameters=parameters)
        forger.send(PING, PING)
        forger.acknowledge()
        forger.wait(1.0)
        forger.connection.send_datagram(b"x", forger.now)
        forger.hear()
        assert not forger.kinds(0x1F)
        forger.wait(3.0)
        assert bool(forger.kinds(0x1F)) == expected


# --- Frames of extensions -----------------------------------------------------------------------------------------------

EXTENSION = 0x3D7E90


def test_an_extensions_frames_are_read_where_they_end() -> None:
    seen: list[bytes] = []

    def read(data: bytes) -> int:
        if data[0] == 0xFF:
            raise PeerError("a frame of ours that is wrong", 0x1234)
        seen.append(data[1 : 1 + data[0]])
        return 1 + data[0] if len(data) > data[0] else -1

    forger = Forger()
    forger.connection.register_frame(EXTENSION, read)
    forger.send(PING, varint(EXTENSION) + b"\x03abc", varint(EXTENSION) + b"\x01d", PING)
    assert seen == [b"abc", b"d"]
    assert forger.code is None
    forger.wait(1.0)
    assert acks(forger) == 1, "it elicits an ACK"
    forger.put(PING * 4 + varint(EXTENSION) + b"\x03ab")
    assert forger.hear().code == ENCODING

    forger = Forger()
    forger.connection.register_frame(EXTENSION, read)
    assert forger.send(varint(EXTENSION) + b"\xff").code == 0x1234


@pytest.mark.parametrize("kind", [0x20, 0x2F, 0x32, 0x3F, 0x40, 0xAE, 0xB0, EXTENSION, (1 << 62) - 1])
def test_a_type_that_nobody_has_registered_is_refused(kind: int) -> None:
    assert Forger().send(varint(kind), PING).code == ENCODING


@pytest.mark.parametrize("kind", [0x00, 0x01, 0x08, 0x1F, 0x30, 0x31, 0xAF])
def test_the_engines_own_types_cannot_be_taken(kind: int) -> None:
    with pytest.raises(LocalError, match="own"):
        Forger().connection.register_frame(kind, lambda data: 0)


def test_an_extensions_frame_arrives_once_acknowledged_whatever_is_lost() -> None:
    dialled = dial(3, Conditions(delay=0.02, loss=0.3), engines=("native", "native")).complete(60.0)
    client, server = dialled.client, dialled.server
    assert isinstance(client, NativeSession)
    assert isinstance(server, NativeSession)
    seen = set[int]()
    acknowledged = list[int]()

    def read(data: bytes) -> int:
        seen.add(data[0])
        return 1

    server.connection.register_frame(EXTENSION, read)
    for number in range(100):
        client.connection.send_frame(varint(EXTENSION) + bytes([number]), partial(acknowledged.append, number))
    dialled.pair.drive(lambda: len(acknowledged) == 100, 60.0)
    assert seen == set(range(100))
    assert sorted(acknowledged) == list(range(100))


def test_frames_that_wait_are_bounded_in_size_and_number() -> None:
    connection = Forger().connection
    for frame_ in (b"", bytes(1025)):
        with pytest.raises(LocalError, match="octets"):
            connection.send_frame(frame_)
    for _ in range(256):
        connection.send_frame(bytes(1024))
    with pytest.raises(LocalError, match="wait"):
        connection.send_frame(b"x")


def test_an_extensions_frame_is_no_probing_frame() -> None:
    """RFC 9000 §9.1: on a new path, it moves the connection as others do."""
    forger = Forger()
    forger.connection.register_frame(EXTENSION, lambda data: 0)
    moved = Route(ROUTE.local, ("203.0.113.77", 9))
    forger.send(varint(EXTENSION), route=moved)
    assert forger.connection.route == moved
