"""A fuzz target that meddles with a handshake: whole sessions of the native engine, and somebody on the path between them.

Whoever is on the path may damage, cut, drop, repeat, mix and join datagrams as long as he likes: the handshake goes on.
He can also read the keys of Initial packets (RFC 9001 §5.2) and say what he likes there; that may end a handshake, but
only in ways that are known.
"""

from __future__ import annotations

import random

from aioquic.quic.crypto import CryptoPair

from quicsocks.userspace.quic.aioquic_internals.handshaker import walk
from quicsocks.userspace.quic.cid import LENGTH
from quicsocks.userspace.quic.errors import End
from quicsocks.userspace.quic.types import DialConfig, Limits, ListenConfig, Session, Trust
from tests.quic.keys import self_signed
from tests.quic.recorders import SessionLog, StreamLog
from tests.sim.link import Conditions, Link
from tests.sim.pair import Pair

from .octets import Cursor
from .quic_packets import wild_frame

LIMITS = Limits(handshake_timeout=300.0, idle_timeout=600.0)
MOST_LOST = 7
"""Datagrams that are lost at most: timers back off from 0.2 s, and all of them may be one end's."""
MOST_LOST_WITH_RETRY = 2
"""A token is of no use any more after a while."""
SIZE = 3000
VERSIONS = (0, 1, 0x6B3343CF, 0x0A1A2A3A)
INITIAL = b"\xc1"
"""With a packet number of two octets."""


class Meddler:
    """What there is on the path: both links, one input, and what has been seen so far."""

    def __init__(self, cursor: Cursor, most_lost: int) -> None:
        self.cursor = cursor
        self.most_lost = most_lost
        self.lost = 0
        self.forged = False
        self.seen: list[tuple[bool, bytes]] = []
        self.verbs = set[int]()

    def meddle(self, up: bool, data: bytes) -> list[bytes]:
        """What arrives instead of data."""
        if self.cursor.is_at_end:
            return [data]
        verb, detail, number = self.cursor.number(), self.cursor.number(), self.cursor.number(2)
        self.verbs.add(verb & 15)
        self.seen.append((up, data))
        match verb & 15:
            case 0:
                changed = bytearray(data)
                changed[number % len(data)] ^= 1 << (detail & 7)
                return self._instead(data, bytes(changed))
            case 1:
                return self._instead(data, data[: 1 + number % len(data)])
            case 2:
                return self._instead(data, b"")
            case 3:
                return [data + random.Random(number).randbytes(1 + detail)]
            case 4:
                return [data, data]
            case 5:
                return [self._earlier(number), data]
            case 6:
                return [data, self._earlier(number)]
            case 7:
                return [(data + self._earlier(number))[: 2 * 1472]]
            case 8:
                parts = [data[start:end] for _, start, end in walk(data, LENGTH)]
                random.Random(number).shuffle(parts)
                if detail & 1:
                    return self._instead(data, b"".join(parts[1:]))
                return parts or [data]
            case 9 if data[0] & 0x80:
                version = VERSIONS[detail % len(VERSIONS)] or number
                return self._instead(data, data[:1] + version.to_bytes(4, "big") + data[5:])
            case 10 if data[0] & 0x80:
                return [data[:1] + bytes(4) + data[5 : 5 + detail], data] if self._may_forge() else [data]
            case 11 | 12:
                forgery = self._initial(up, number, detail)
                return [data, forgery] if verb & 16 else [forgery, data]
            case _:
                return [data]

    def _instead(self, data: bytes, other: bytes) -> list[bytes]:
        if other == data or self.lost >= self.most_lost:
            return [data]
        if other[:1] >= b"\x80" and other[1:5] == bytes(4):
            self.forged = True  # Version negotiation cannot be told from the server's.
        self.lost += 1
        return [other] if other else []

    def _earlier(self, number: int) -> bytes:
        return self.seen[number % len(self.seen)][1]

    def _may_forge(self) -> bool:
        self.forged = True
        return True

    def _initial(self, up: bool, number: int, detail: int) -> bytes:
        """An Initial packet of frames that are made up, protected as its receiver expects it."""
        self.forged = True
        client = [data for by_client, data in self.seen if by_client and data[0] & 0xF0 == 0xC0]
        server = [data for by_client, data in self.seen if not by_client and data[0] & 0xF0 == 0xC0]
        if not client:
            return b"\xc0"
        # After a Retry the keys are others.
        original, own = _cids(client[0] if detail & 1 else client[-1])
        theirs = _cids(server[0])[1] if server else random.Random(number).randbytes(LENGTH)
        to, source = (theirs if detail & 2 and server else original, own) if up else (own, theirs)
        draw = random.Random(f"{number} {detail}")
        payload = b"".join(wild_frame(draw) for _ in range(draw.randrange(1, 6)))[:1000]
        payload = payload.ljust(draw.choice((20, 1150)), b"\0")
        header = INITIAL + (1).to_bytes(4, "big") + bytes([len(to)]) + to + bytes([len(source)]) + source + b"\0"
        header += (0x4000 | len(payload) + 2 + 16).to_bytes(2, "big") + (number % 1000).to_bytes(2, "big")
        keys = CryptoPair()
        keys.setup_initial(original, is_client=up, version=1)
        return keys.encrypt_packet(header, payload, number % 1000)


def _cids(packet: bytes) -> tuple[bytes, bytes]:
    """Destination and source of a long header."""
    to = packet[6 : 6 + packet[5]]
    at = 7 + len(to)
    return to, packet[at : at + packet[at - 1]]


class MeddledLink(Link):
    def __init__(self, meddler: Meddler, up: bool) -> None:
        super().__init__(Conditions(delay=0.01), 0)
        self.meddler = meddler
        self.up = up

    def carry(self, data: bytes, now: float, ecn: int = 0) -> list[tuple[float, bytes, int]]:
        return [(now + 0.01, form, ecn) for form in self.meddler.meddle(self.up, data)]


def handshake(data: bytes) -> frozenset[object]:
    """An octet of choices; then four for each datagram that is sent, until the input ends."""
    cursor = Cursor(data)
    choice = cursor.number()
    retry = choice & 1 == 1
    meddler = Meddler(cursor, MOST_LOST_WITH_RETRY if retry else MOST_LOST)
    pair = Pair(choice, engines=("native", "native"))
    pair.up, pair.down = MeddledLink(meddler, True), MeddledLink(meddler, False)
    identity = self_signed("ed25519")
    servers: list[tuple[Session, SessionLog]] = []

    def accept(session: Session) -> SessionLog:
        servers.append((session, SessionLog()))
        return servers[-1][1]

    listening = ListenConfig(
        ("fuzz/1",), identity.certificate, identity.private_key, bytes(32), LIMITS, retry_above=0 if retry else 64
    )
    pair.listen(listening, accept)
    log = SessionLog()
    client = pair.dial(DialConfig(("fuzz/1",), Trust("server.example", (identity.pin,)), LIMITS), log)
    try:
        pair.drive(lambda: log.completed or log.ended is not None, 400.0)
        if log.completed and not meddler.forged:
            _exchange(pair, client, servers)
        pair.pass_time(1.0)
        client.close(3, "over")
        pair.pass_time(10.0)
    finally:
        pair.close()
    ends = [log.ended, *(server.ended for _, server in servers)]
    for ended in ends:
        assert ended is None or ended.reason != "internal error", ends
        # A server may find its client's handshake made worse by others; what has been forged may look like a peer's fault.
        assert ended is None or ended.end is not End.LOCAL_TRANSPORT or meddler.forged, ends
    assert meddler.forged or log.completed, log.ended
    found: set[object] = {("verbs", len(meddler.verbs)), ("completed", log.completed), ("sessions", len(servers))}
    found |= {("ended", ended and ended.end, ended and ended.reason[:30]) for ended in ends}
    return frozenset(found)


def _exchange(pair: Pair, client: Session, servers: list[tuple[Session, SessionLog]]) -> None:
    near = StreamLog(client.open_stream())
    near.stream.write(bytes(SIZE))
    near.stream.finish()
    far = [server for _, server in servers]
    pair.drive(lambda: any(one.data == bytes(SIZE) for server in far for one in server.logs.values()), 400.0)
    for server in far:
        for one in server.logs.values():
            one.stream.write(one.data)
            one.stream.finish()
    pair.drive(lambda: near.data == bytes(SIZE) and ("eof",) in near.calls, 400.0)


def some_meddling(draw: random.Random) -> bytes:
    out = bytearray(draw.randbytes(1))
    forges = draw.random() < 0.3
    for _ in range(draw.randrange(1, 60)):
        verb = draw.randrange(256)
        if not forges and verb & 15 in (10, 11, 12):
            verb |= 15
        out += bytes((verb, draw.randrange(256))) + draw.randrange(1500).to_bytes(2, "big")
    return bytes(out)
