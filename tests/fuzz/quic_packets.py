"""Fuzz targets that face one connection of the native engine: frames in authentic packets, and packets of any kind.

``Forger`` lets nothing but PeerError pass, and reads what comes back; what holds whatever has happened is ``check``. A
target returns what an input has brought about, so that inputs that bring about something new are told from others.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from quicsocks.userspace.quic.errors import LocalError
from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.types import Limits
from tests.quic.native.forger import (
    CID,
    ROUTE,
    Forger,
    ack,
    crypto,
    frame,
    new_connection_id,
    parse,
    path_challenge,
    stream,
    varint,
)

from .octets import Cursor

OTHER = Route(ROUTE.local, ("203.0.113.77", 7))
CODES = {0x03, 0x04, 0x05, 0x06, 0x07, 0x09, 0x0A, 0x0D, 0x0E, 0x0F}
"""What a peer can be told that it did; INTERNAL_ERROR is not among them."""
LARGEST_PACKET = 1400
WAITS = (0.0, 0.001, 0.03, 2.0)
LIMITS = Limits(max_streams_bidi=20, max_streams_uni=3, initial_stream_window=20_000, session_window=60_000)
CONTROLLERS = ("cubic", "reno", "bbr")
Marks = frozenset[object]


def begin(choice: int) -> Forger:
    """choice: an octet, for the role, the controller and what the application does with what it gets."""
    role = ("server", "client")[choice & 1]
    limits = replace(LIMITS, congestion=CONTROLLERS[(choice >> 1) % 3])
    forger = Forger(role, limits, take=choice & 0x20 == 0, consume=choice & 0x40 == 0)
    for bidirectional in (True, False):
        log = forger.open_local(bidirectional)
        log.stream.write(b"x" * 3000)
    return forger.hear()


def act(forger: Forger, choice: int) -> None:
    """What an application might do meanwhile, to the stream that was opened last or one of its own."""
    streams = [*forger.opened, *(log.stream for log in forger.logs.values())]
    if not streams or not forger.connection.is_running:
        return
    one = streams[choice // 8 % len(streams)]
    try:
        match choice % 8:
            case 0:
                one.write(b"y" * 5000)
            case 1:
                one.finish()
            case 2:
                one.reset(choice)
            case 3:
                one.stop_sending(choice)
            case 4:
                forger.connection.send_datagram(b"d" * choice, forger.now)
            case 5:
                forger.connection.send_probe()
            case 6:
                forger.connection.update_keys()
            case _:
                forger.connection.lose_everything()
    except LocalError:
        return  # A one-way stream's other way, or one that has been finished.


def check(forger: Forger) -> None:
    """What holds whatever has happened."""
    statistics = forger.connection.statistics()
    assert statistics["bytes_in_flight"] < 1 << 32, "more has been taken off than was put on"
    assert 1000 <= statistics["congestion_window"] < 1 << 40
    assert 0.0 <= statistics["minimum_rtt"] <= 1000.0
    assert statistics["streams_open"] <= LIMITS.max_streams_bidi + LIMITS.max_streams_uni + 2
    assert statistics["stream_bytes_received"] <= 1 << 32
    if forger.reason:
        # It cannot say so on a path where all that it may send has been sent (RFC 9000 §8.1).
        assert forger.code in CODES or not forger.connection.route_validated, forger.reason
        assert not forger.connection.is_running
    for log in forger.logs.values():
        assert len([call for call in log.calls if call[0] in ("eof", "reset")]) <= 1, log.calls


def marks(forger: Forger) -> Marks:
    """What has been brought about, in coarse terms."""
    statistics = forger.connection.statistics()
    found: set[object] = {("refused", forger.reason), ("route", forger.connection.route == OTHER)}
    found |= {("answer", answer[0]) for answer in forger.received}
    found |= {("event", *(part for part in event[:2] if isinstance(part, str))) for event in forger.events}
    found |= {("call", call[0]) for log in forger.logs.values() for call in log.calls}
    found |= {
        (name, int(statistics[name]).bit_length())
        for name in ("packets_lost", "packets_spurious", "packets_dropped", "probe_timeouts", "key_updates", "mtu")
    }
    return frozenset(found)


@dataclass(frozen=True)
class Record:
    """How an input names a packet: an octet of choices, one for a deed, four of a number, two of length, the payload."""

    choice: int
    deed: int
    number: int
    payload: bytes

    @classmethod
    def read(cls, cursor: Cursor) -> Record:
        choice, deed, number = cursor.number(), cursor.number(), cursor.number(4)
        return cls(choice, deed, number, cursor.octets(min(cursor.number(2), LARGEST_PACKET)))

    def octets(self) -> bytes:
        head = bytes((self.choice, self.deed)) + self.number.to_bytes(4, "big")
        return head + len(self.payload).to_bytes(2, "big") + self.payload


def is_cut_short(payload: bytes) -> bool:
    """Whether the last frame does not end where the packet does, as far as ``parse`` knows frames."""
    try:
        parse(payload)
    except IndexError:
        return True
    except KeyError:
        return False
    return False


def frames(data: bytes) -> Marks:
    """An octet of choices; then records of packets, whose payload is frames."""
    cursor = Cursor(data)
    forger = begin(cursor.number())
    while not cursor.is_at_end and forger.connection.is_running:
        record = Record.read(cursor)
        choice = record.choice
        forger.number += choice >> 6 & 1
        route = OTHER if choice & 0x30 == 0x30 else ROUTE
        taken = forger.connection.statistics()["packets_received"]
        forger.send(record.payload, route=route)
        taken = forger.connection.statistics()["packets_received"] - taken
        if taken and is_cut_short(record.payload.ljust(4, b"\0")) and (route == ROUTE or forger.role == "server"):
            # Nothing behind a CONNECTION_CLOSE counts.
            assert forger.reason or any(event[0] == "closed" for event in forger.events), "a frame beyond its packet"
        if choice & 0x0C == 0x0C:
            act(forger, record.deed)
        if choice & 0x80:
            forger.acknowledge()
        forger.wait(WAITS[choice & 3])
        check(forger)
    return marks(forger)


def packets(data: bytes) -> Marks:
    """The same, with packets as they are, damaged, cut short or with numbers from anywhere. Only authentic ones may do
    anything."""
    cursor = Cursor(data)
    forger = begin(cursor.number())
    while not cursor.is_at_end and forger.connection.is_running:
        record = Record.read(cursor)
        choice, payload = record.choice, record.payload.ljust(4, b"\0")
        route = OTHER if choice & 8 else ROUTE
        before = forger.connection.statistics()["packets_received"]
        authentic = False
        match choice & 7:
            case 0:
                forger.give(record.payload or b"\x40", route)
            case 1:
                packet = bytearray(forger.sealer.seal(bytes(CID), payload, forger.number))
                # The connection ID is not looked at here, but is authenticated; so is all the rest.
                packet[record.number % len(packet)] ^= 1 << (record.deed & 7)
                forger.give(bytes(packet), route)
            case 2:
                packet = bytearray(forger.sealer.seal(bytes(CID), payload, forger.number))
                forger.give(bytes(packet[: 1 + record.number % (len(packet) - 1)]), route)
            case 3:
                # As a decoder that goes wrong would have it: sealed for a number that no four octets can hold.
                far = record.number << 32 | forger.number
                forger.give(forger.sealer.seal(bytes(CID), payload, far), route)
                authentic = far < 1 << 31
            case 4:
                forger.put(payload, number=record.number >> (record.deed & 31), route=route)
                authentic = True
            case 5:
                forger.put(payload, number=forger.number, bits=record.deed & 0x18, route=route)
                authentic = True
            case 6 if record.deed < 64:
                forger.sealer.update()
                forger.put(payload)
                authentic = True
            case _:
                forger.put(payload)
                authentic = True
        forger.hear()
        assert authentic or forger.connection.statistics()["packets_received"] == before, "it is not authentic"
        assert authentic or not forger.reason, forger.reason
        if record.deed & 0x80:
            forger.acknowledge()
        forger.wait(WAITS[choice >> 6])
        check(forger)
    return marks(forger)


# --- Inputs -----------------------------------------------------------------------------------------------------------


def some_number(draw: random.Random) -> int:
    kind = draw.random()
    if kind < 0.6:
        return draw.randrange(40)
    if kind < 0.85:
        return draw.randrange(25_000)
    return draw.choice([(1 << 62) - 1, 1 << 61, 1 << 60, 1 << 32, 65535, draw.randrange(1 << 62)])


def wild_frame(draw: random.Random) -> bytes:
    """Of any type, with any numbers: most connections do not outlive a few of them."""
    number = some_number(draw)
    small = draw.randrange(24)
    match draw.randrange(14):
        case 0:
            ranges = [(draw.randrange(3), draw.randrange(3)) for _ in range(draw.randrange(4))]
            return ack(draw.randrange(30), draw.randrange(4), *ranges, delay=number)
        case 1 | 2 | 3:
            data = draw.randbytes(draw.choice([0, 1, 10, 300]))
            return stream(small, draw.randrange(1200), data, fin=draw.random() < 0.2)
        case 4:
            return stream(small, number, draw.randbytes(draw.randrange(20)))
        case 5:
            return new_connection_id(draw.randrange(12), draw.randrange(6))
        case 6:
            return draw.choice([path_challenge(small), frame(0x1B, tail=draw.randbytes(8)), bytes(small), frame(1)])
        case 7:
            return crypto(draw.randrange(100), draw.randbytes(draw.randrange(50)))
        case 8:
            return frame(0x31, small, tail=draw.randbytes(small))
        case 9:
            return frame(4, small, number, draw.choice([draw.randrange(1500), number]))
        case 10:
            return frame(5, small, number)
        case 11:
            return frame(draw.choice([0x11, 0x15]), small, number)
        case 12:
            return frame(draw.choice([0x10, 0x12, 0x13, 0x14, 0x16, 0x17, 0x19]), number)
        case _:
            return varint(some_number(draw)) + draw.randbytes(draw.randrange(12))


def tame_frame(draw: random.Random, role: int, sent: int) -> bytes:
    """Such as a peer may send, if often late, twice or for nothing. role: 1 when the victim is a client. sent: packets
    so far. A stream's final size follows from its ID, so that frames that know nothing of each other agree."""
    peers = draw.randrange(20) * 4 + role if draw.random() < 0.8 else draw.randrange(3) * 4 + 2 + role
    final = 500 + peers * 29
    both = draw.choice([peers & ~2, 1 - role])
    match draw.randrange(12):
        case 0 | 1 | 2 | 3:
            begin = draw.randrange(final + 1)
            end = min(final, begin + draw.choice([0, 1, 40, 300, 1000]))
            return stream(peers, begin, draw.randbytes(end - begin), fin=end == final and draw.random() < 0.5)
        case 4:
            return ack(draw.randrange(min(2 + sent, 20)), 0, delay=draw.randrange(5000))
        case 5:
            return frame(0x31, peers, tail=draw.randbytes(peers))
        case 6:
            return frame(5, draw.choice([both, 2 + 1 - role]), draw.randrange(9))
        case 7:
            return frame(4, peers, draw.randrange(9), final)
        case 8:
            return frame(0x11, draw.choice([both, 2 + 1 - role]), draw.randrange(200_000))
        case 9:
            return frame(draw.choice([0x10, 0x12, 0x13, 0x14, 0x16, 0x17]), draw.randrange(1 << draw.randrange(1, 24)))
        case 10:
            return draw.choice([new_connection_id(draw.randrange(1, 4)), new_connection_id(5, 2), frame(0x19, 1)])
        case _:
            return draw.choice([
                path_challenge(peers), frame(0x1B, tail=draw.randbytes(8)), frame(1), bytes(peers),
                crypto(draw.randrange(100), draw.randbytes(draw.randrange(50))),
            ])  # fmt: skip


def some_packets(draw: random.Random) -> bytes:
    """For either target."""
    choice = draw.randrange(256)
    wildness = draw.choice((0.0, 0.003, 0.03, 0.3))
    out = bytearray([choice])
    for number in range(draw.randrange(1, 60)):
        made = [
            wild_frame(draw) if draw.random() < wildness else tame_frame(draw, choice & 1, number)
            for _ in range(draw.randrange(1, 6))
        ]
        while sum(map(len, made)) > LARGEST_PACKET:
            made.pop()
        payload = bytearray(b"".join(made))
        kind = draw.random()
        if payload and kind < wildness / 10:
            payload[draw.randrange(len(payload))] ^= 1 << draw.randrange(8)
        elif payload and kind < wildness / 6:
            del payload[draw.randrange(len(payload)) :]
        # Reserved bits end a connection, in one of the targets.
        deed = draw.randrange(256) if draw.random() < wildness else draw.randrange(256) & ~0x18
        out += Record(draw.randrange(256), deed, draw.getrandbits(32), bytes(payload)).octets()
    return bytes(out)
