"""A fuzz target that uses the native engine as applications do: two connections, a bad network, and any sequence of calls.

The network is drawn from one octet pair, and may lose, repeat, delay and damage; timers come late, early and for nothing.
Whatever the calls were, in the end both applications finish and read all, the network becomes good, and then everything
must be over: each direction of each stream in the way that was asked for, with the octets that were written, nothing in
flight and nothing held.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator

from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.types import Address

from .octets import Cursor
from .quic_ends import CID, CLIENT, LIMITS, SERVER, EndPoint, Half, octets_of

VERBS = 36
"""Those without a meaning of their own let time pass."""
DELAY = 0.01
PATIENCE = 900.0
"""Seconds on the clock in which all must be over once both ends want it and the network lets it."""
MOST_STEPS = 60_000
DROP, TWICE, LATE, FLIP = range(4)
GOOD = (0, 0, 0, 0)


class Pair:
    """Two ends, the network between them, and a clock."""

    def __init__(self, seed: int, congestion: str) -> None:
        self.now = 100.0
        self.draw = random.Random(seed)
        self.nat = CLIENT
        self.weather = GOOD
        self.halves: dict[tuple[int, bool], Half] = {}
        self.flying: list[tuple[float, int, bool, bytes, Address]] = []
        self.sent = 0
        self.ends = {is_client: EndPoint(self, is_client) for is_client in (True, False)}
        for is_client, end in self.ends.items():
            end.other = self.ends[not is_client]
            end.begin(seed * 2 + is_client, congestion)
        for end in self.ends.values():
            end.meet()

    def route_of(self, is_client: bool) -> Route:
        return Route(CLIENT, SERVER) if is_client else Route(SERVER, self.nat)

    def _happens(self, what: int) -> bool:
        return self.draw.randrange(256) < self.weather[what]

    def flush(self) -> None:
        """Until nobody has anything to say."""
        for _ in range(2000):
            busy = False
            for is_client, end in self.ends.items():
                end.follow()
                for data, route in end.connection.datagrams_to_send(self.now):
                    busy = True
                    self._carry(is_client, data, route)
                busy = busy or end.connection.has_events
            if not busy:
                return
        raise AssertionError("they never come to rest")

    def _carry(self, by_client: bool, data: bytes, route: Route) -> None:
        assert len(data) <= LIMITS.max_udp_payload
        address = self.nat if by_client else route.remote
        for _ in range(1 + self._happens(TWICE)):
            if self._happens(DROP):
                continue
            form = data
            if self._happens(FLIP):
                changed = bytearray(data)
                changed[self.draw.randrange(len(data))] ^= 1 << self.draw.randrange(8)
                form = bytes(changed[: self.draw.randint(1, 2 * len(data))])
            arrives = self.now + DELAY * (1 + 4 * self.draw.random() * self._happens(LATE))
            self.sent += 1
            heapq.heappush(self.flying, (arrives, self.sent, by_client, form, address))

    def arrive(self) -> None:
        """What has come by now."""
        while self.flying and self.flying[0][0] <= self.now:
            _, _, by_client, data, address = heapq.heappop(self.flying)
            receiver = self.ends[not by_client]
            if data[1 : 1 + CID] not in receiver.cids:
                continue  # The hub knows nobody by that ID.
            if by_client:
                receiver.connection.receive(data, Route(SERVER, address), self.now)
            elif address == self.nat:
                receiver.connection.receive(data, Route(CLIENT, SERVER), self.now)

    def timers(self) -> Iterator[EndPoint]:
        for end in self.ends.values():
            if end.connection.next_timer() <= self.now:
                yield end

    def next_moment(self, with_timers: bool) -> float:
        moments = [self.flying[0][0]] if self.flying else []
        if with_timers:
            moments += [end.connection.next_timer() for end in self.ends.values()]
        return min(moments, default=float("inf"))

    def advance(self, seconds: float, with_timers: bool = True) -> None:
        """with_timers: else they are all late, and come at the end if at all."""
        latest = self.now + seconds
        for _ in range(MOST_STEPS):
            self.flush()
            moment = self.next_moment(with_timers)
            if moment > latest:
                self.now = latest
                return
            self.now = max(self.now + 1e-6, moment)
            self.arrive()
            if with_timers:
                for end in self.timers():
                    end.connection.handle_timer(self.now)
            self.check()
        raise AssertionError("their timers never come to rest")

    def check(self) -> None:
        for end in self.ends.values():
            statistics = end.connection.statistics()
            assert statistics["bytes_in_flight"] < 1 << 30
            assert 1000 <= statistics["congestion_window"] < 1 << 40
            assert end.connection.is_running

    def settle(self) -> None:
        """Let both ends end all streams, in good weather."""
        self.weather = GOOD
        for end in self.ends.values():
            end.greedy = True
        give_up = self.now + PATIENCE
        while self.now < give_up:
            for end in self.ends.values():
                for face in end.faces:
                    if face.out is not None:
                        face.finish()
                    if face.into is not None:
                        face.consume(face.into.received - face.into.consumed)
                    face.drain()
                    face.writable()
            # What keeps a session alive also tells a server of its client's new address.
            self.ends[True].connection.send_probe()
            self.advance(2.0)
            if all(half.is_settled for half in self.halves.values()) and not self._in_flight():
                break
        left = [half for half in self.halves.values() if not half.is_settled]
        assert not left, f"not over: {left[:3]}, {[end.connection.statistics() for end in self.ends.values()]}"
        assert not self._in_flight(), f"not over: {self._in_flight()} octets are in flight"
        for end in self.ends.values():
            assert end.connection.statistics()["streams_open"] == 0
            assert end.crypto_seen == end.other.crypto
            # MAX_STREAMS goes out when it gives more than there is.
            assert end.connection.streams_available(True) * 2 >= LIMITS.max_streams_bidi
            assert end.connection.streams_available(False) * 2 >= LIMITS.max_streams_uni

    def _in_flight(self) -> int:
        return sum(int(end.connection.statistics()["bytes_in_flight"]) for end in self.ends.values())

    def close(self, by_client: bool, code: int) -> None:
        """In good weather the other end hears of it, and both are gone after a while."""
        end = self.ends[by_client]
        end.connection.close(code, True, "over", self.now)
        for data, _ in end.connection.datagrams_to_send(self.now):
            end.other.connection.receive(data, self.route_of(not by_client), self.now)
        assert ("closed", True, code, "over") in end.other.connection.take_events()
        end.other.connection.drain(self.now)
        for one in self.ends.values():
            self.now = max(self.now, one.connection.next_timer())
            one.connection.handle_timer(self.now)
            assert one.connection.is_terminated
            assert one.connection.datagrams_to_send(self.now) == []


def perform(pair: Pair, verb: int, which: int, size: int) -> None:
    """One call. verb: an octet; which: another, for the end and the stream; size: 0 to 65535."""
    end = pair.ends[bool(which & 1)]
    connection = end.connection
    face = end.faces[(which >> 1) % len(end.faces)] if end.faces else None
    match verb % VERBS:
        case 0:
            end.open(size & 3 != 0, which >> 1 & 3)
        case 1 | 2 | 3 | 4 if face is not None:
            face.write(size % 20_000)
        case 5 if face is not None:
            face.finish()
        case 6 if face is not None:
            face.reset(size)
        case 7 if face is not None:
            face.stop(size)
        case 8 | 9 if face is not None:
            face.consume(size % 30_000)
        case 10:
            end.greedy = bool(size & 1)
        case 11:
            end.send_datagram(size % 1500)
        case 12:
            connection.send_probe()
        case 13:
            connection.update_keys()
        case 14:
            connection.lose_everything()
        case 15:
            pair.nat = (f"203.0.113.{size >> 8}", 1024 + (size & 255))
        case 16:
            connection.handle_timer(pair.now)  # For nothing, mostly.
        case 17:
            pair.weather = (which & 0x7F, size >> 8 & 0x7F, size & 0x7F, size >> 4 & 0x3F)
        case 18:
            pair.weather = GOOD
        case 19 if not end.is_client and end.crypto < 40_000:
            connection.write_crypto(octets_of(0, False, end.crypto, size % 3000))
            end.crypto += size % 3000
        case 20:
            pair.advance(size / 65536, with_timers=False)
        case 21:
            pair.flush()
        case 22 if face is not None:
            face.join()
        case 23 | 24 if face is not None:
            face.feed(size % 20_000)
        case 25 if face is not None:
            face.drain(size)
            face.writable()
        case 26 if face is not None:
            face.break_off()
        case 27 if face is not None:
            face.part()
        case _:
            pair.advance(size / (1 << (14 + (which >> 1) % 8)))


def operations(data: bytes) -> frozenset[object]:
    """Two octets for the seed of the network, one for the controller; then four for each call."""
    cursor = Cursor(data)
    pair = Pair(cursor.number(2), ("cubic", "reno", "bbr")[cursor.number() % 3])
    try:
        return _operate(pair, cursor)
    finally:
        for end in pair.ends.values():
            for one in end.sockets:
                one.close()


def _operate(pair: Pair, cursor: Cursor) -> frozenset[object]:
    verbs = set[object]()
    while not cursor.is_at_end:
        verb = cursor.number()
        verbs.add(verb % VERBS)
        perform(pair, verb, cursor.number(), cursor.number(2))
        pair.check()
    pair.settle()
    found: set[object] = {("verbs", len(verbs))}
    for half in pair.halves.values():
        found.add((half.over, half.reset is not None, half.stopped is not None, half.received.bit_length() // 3))
    for end in pair.ends.values():
        statistics = end.connection.statistics()
        found |= {
            (name, int(statistics[name]).bit_length())
            for name in ("packets_lost", "packets_spurious", "packets_dropped", "probe_timeouts", "key_updates", "mtu")
        }
        found |= {("joined", face.pump is not None, face.broken) for face in end.faces}
    pair.close(bool(cursor.at & 1), 7)
    return frozenset(found)


def some_operations(draw: random.Random) -> bytes:
    out = bytearray(draw.randbytes(3))
    # Each input likes some calls better than others.
    likely = [0, 1, 21, 28, 29, *(draw.randrange(VERBS) for _ in range(4))]
    for _ in range(draw.randrange(5, 200)):
        verb = draw.choice(likely) if draw.random() < 0.6 else draw.randrange(VERBS)
        out += bytes((verb, draw.randrange(256))) + draw.randrange(1 << draw.randrange(1, 17)).to_bytes(2, "big")
    return bytes(out)
