"""Plays a scenario between two ends of an engine, and checks every octet and what is left behind.

A run passes when each direction of each stream has ended at both ends as it had to, with the octets that were sent and no
others, without ever standing still for longer than the scenario's patience; and when afterwards nothing is under way, no
stream is open, both ends' counters agree, and both hubs are empty once the session is closed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from quicsocks.userspace.quic.aioquic_session import AioquicSession
from quicsocks.userspace.quic.errors import Ended
from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.types import (
    Address,
    DialConfig,
    ListenConfig,
    PathEvent,
    Session,
    SessionHandler,
    SessionStatistics,
    Stream,
    Trust,
)

from ..quic.keys import self_signed
from .pair import Pair
from .roads import CABLE, MOBILE, WIFI, Roads
from .scenario import BEGINS, Direction, Flow, Scenario

OCTETS = memoryview(random.Random(0).randbytes(1 << 20))
"""What streams carry: each its own part."""
PIECE = 4096
RESET_CODE, STOP_CODE = 77, 88
HANDSHAKE_PATIENCE = 200.0
"""Seconds: its timers back off from 0.2 s, and a fifth of all packets may be lost each way."""


class Failed(AssertionError):
    """A run has not gone as it must."""


def require(fact: bool, what: str) -> None:
    if not fact:
        raise Failed(what)


@dataclass
class Way:
    """One direction of a stream, and how far both ends have got with it. begin: where its octets stand in ``OCTETS``."""

    plan: Direction
    begin: int
    written: int = 0
    received: int = 0
    reset_by_sender: bool = False
    stopped: bool = False
    opened: bool = False
    sending_over: bool = False
    receiving_over: bool = False
    reset_seen: bool = False

    @property
    def is_over(self) -> bool:
        # Whoever has stopped a stream hears no more of it than that its sender has reset it, if that.
        return self.sending_over and (self.receiving_over or self.stopped)


@dataclass
class StreamEnd:
    """One end of a stream: sends on one way and receives on the other. Implements ``StreamHandler``."""

    run: Run
    stream: Stream
    out: Way | None
    into: Way | None
    paused: bool = False
    owed: int = 0
    finished: bool = False

    def begin(self) -> None:
        self.stream.set_handler(self)
        self.feed()
        now, at = self.run.pair.now, self.run.pair.at
        if self.out is not None and self.out.plan.reset_after is not None:
            at(now + self.out.plan.reset_after, lambda: self.reset(RESET_CODE))
        if self.into is not None and self.into.plan.stop_after is not None:
            at(now + self.into.plan.stop_after, self.stop)

    def feed(self) -> None:
        way = self.out
        if way is None or self.finished:
            return
        while not self.paused and way.written < way.plan.size and not way.reset_by_sender:
            size = min(PIECE, way.plan.size - way.written)
            at = way.begin + way.written
            way.written += size
            self.stream.write(OCTETS[at : at + size])
        if way.written == way.plan.size and not self.finished and not way.reset_by_sender:
            self.finished = True
            self.stream.finish()

    def reset(self, code: int) -> None:
        way = self.out
        assert way is not None
        if not way.sending_over and not way.reset_by_sender:
            way.reset_by_sender = self.finished = True
            self.stream.reset(code)

    def stop(self) -> None:
        way = self.into
        assert way is not None
        if not way.receiving_over:
            way.stopped = True
            self.stream.stop_sending(STOP_CODE)

    def give_credit(self) -> None:
        owed, self.owed = self.owed, 0
        self.stream.consumed(owed)

    def data_received(self, data: bytes) -> None:
        way = self.into
        assert way is not None
        at = way.begin + way.received
        way.received += len(data)
        self.run.require(not way.stopped and not way.receiving_over, f"data on stream {self.stream.id} after its end")
        self.run.require(way.received <= way.plan.size, f"stream {self.stream.id} brings more than was sent")
        self.run.require(
            data == OCTETS[at : at + len(data)], f"stream {self.stream.id} brings other octets at {at - way.begin}"
        )
        if way.plan.lag:
            if not self.owed:
                self.run.pair.at(self.run.pair.now + way.plan.lag, self.give_credit)
            self.owed += len(data)
        else:
            self.stream.consumed(len(data))
        self.run.progress()

    def eof_received(self) -> None:
        way = self.into
        assert way is not None
        self.run.require(not way.receiving_over and not way.stopped, f"an end of stream {self.stream.id} after its end")
        self.run.require(
            way.received == way.plan.size, f"stream {self.stream.id} ends at {way.received} of {way.plan.size}"
        )
        way.receiving_over = True
        self.run.progress()

    def reset_received(self, code: int) -> None:
        way = self.into
        assert way is not None
        self.run.require(way.reset_by_sender, f"stream {self.stream.id} was reset by nobody")
        self.run.require(code == (STOP_CODE if code == STOP_CODE and way.stopped else RESET_CODE), f"reset code {code}")
        self.run.require(not way.receiving_over, f"a reset of stream {self.stream.id} after its end")
        way.receiving_over = way.reset_seen = True
        self.run.progress()

    def stop_received(self, code: int) -> None:
        self.run.require(code == STOP_CODE and self.out is not None and self.out.stopped, f"stop code {code}")
        self.reset(code)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.feed()

    def send_completed(self) -> None:
        way = self.out
        assert way is not None
        self.run.require(not way.sending_over, f"stream {self.stream.id} completed twice")
        self.run.require(self.finished, f"stream {self.stream.id} completed before its end")
        way.sending_over = True
        self.run.progress()

    def connection_lost(self, ended: Ended) -> None:
        self.run.require(False, f"stream {self.stream.id} was lost: {ended}")


@dataclass
class SessionEnd:
    """One end of the session. Implements ``SessionHandler``."""

    run: Run
    is_client: bool
    session: Session | None = None
    completed: bool = False
    ended: Ended | None = None
    expected: dict[int, Way] = field(default_factory=dict)
    """Directions that the other end has to be given, by the datagram's number."""
    datagrams_sent: set[bytes] = field(default_factory=set)
    datagrams_seen: set[bytes] = field(default_factory=set)
    other: SessionEnd = field(init=False)

    def handshake_completed(self) -> None:
        self.completed = True
        self.run.progress()

    def stream_opened(self, stream: Stream) -> None:
        there, back = self.run.ways.pop((not self.is_client, stream.id))
        StreamEnd(self.run, stream, back, there).begin()

    def datagram_received(self, data: bytes, ecn: int) -> None:
        self.run.require(data in self.other.datagrams_sent, "a datagram that nobody sent")
        self.run.require(data not in self.datagrams_seen, "a datagram twice")
        self.datagrams_seen.add(data)

    def max_datagram_size_changed(self, size: int) -> None:
        self.run.require(1100 < size < 1500, f"datagrams of {size}")

    def path_changed(self, event: PathEvent) -> None:
        pass

    def session_ended(self, ended: Ended) -> None:
        self.ended = ended
        belated = self is not self.run.client and self is not self.run.server
        self.run.require(self.run.closing or belated, f"{'client' if self.is_client else 'server'}: {ended}")

    def send_datagram(self, number: int, size: int) -> None:
        assert self.session is not None
        data = number.to_bytes(2, "big") + bytes(OCTETS[number : number + size])
        if self.completed and self.session.send_datagram(data):
            self.datagrams_sent.add(data)

    def update_keys(self) -> None:
        if isinstance(self.session, NativeSession):
            self.session.connection.update_keys()
        elif isinstance(self.session, AioquicSession) and self.completed:
            self.session.connection.request_key_update()


@dataclass
class Outcome:
    """seconds: from the first datagram until all was over. worst: longest time without progress; its begin."""

    seconds: float
    worst: float
    worst_began: float
    steps: int


class Run:
    """One scenario under way."""

    def __init__(self, scenario: Scenario, engines: tuple[str, str] = ("native", "native")) -> None:
        self.scenario = scenario
        make = Roads if scenario.migrations else Pair
        self.pair = make(scenario.seed, scenario.up, scenario.down, engines)
        self.closing = False
        self.failure: str | None = None
        self.ways: dict[tuple[bool, int], tuple[Way, Way | None]] = {}
        self.all_ways: list[Way] = []
        self.client, self.server = SessionEnd(self, True), SessionEnd(self, False)
        self.client.other, self.server.other = self.server, self.client
        self._limits = scenario.limits
        if "aioquic" in engines and self._limits.congestion == "bbr":
            self._limits = replace(self._limits, congestion="cubic")
        self._unopened = len(scenario.flows)
        self._progressed_at = self.pair.now
        self._worst = (0.0, 0.0)

    def require(self, fact: bool, what: str) -> None:
        """For handlers, whose exceptions a session keeps to itself."""
        if not fact and self.failure is None:
            self.failure = what

    def progress(self) -> None:
        waited = self.pair.now - self._progressed_at
        if waited > self._worst[0]:
            self._worst = (waited, self._progressed_at - BEGINS)
        self._progressed_at = self.pair.now

    def play(self) -> Outcome:
        try:
            steps = self._play()
        finally:
            self.pair.close()
        return Outcome(self._progressed_at - BEGINS, *self._worst, steps)

    def _play(self) -> int:
        pair, scenario = self.pair, self.scenario
        identity = self_signed("ed25519")
        pair.listen(
            ListenConfig(
                ("sim/1",), identity.certificate, identity.private_key, bytes(32), self._limits,
                retry_above=0 if scenario.retry else 64,
            ),
            self._accept,
        )  # fmt: skip
        trust = Trust("server.example", (identity.pin,))
        self.client.session = pair.dial(DialConfig(("sim/1",), trust, self._limits), self.client)
        for number, flow in enumerate(scenario.flows):
            pair.at(BEGINS + flow.at, self._opening(number, flow))
        for number, (at, by_client, size) in enumerate(scenario.datagrams):
            pair.at(BEGINS + at, self._when_up(by_client, partial(_send_datagram, number, size)))
        for at, by_client in scenario.key_updates:
            pair.at(BEGINS + at, self._when_up(by_client, SessionEnd.update_keys))
        for at, address in scenario.rebinds:
            # RFC 9000 §9: an address may change once the handshake is confirmed; a Retry's token is of one address, too.
            pair.at(BEGINS + at, self._when_up(True, partial(_rebind, pair, address)))
        for at, number in scenario.migrations:
            pair.at(BEGINS + at, self._when_up(True, partial(_migrate, (WIFI, MOBILE, CABLE)[number])))
        steps = self._until(lambda: not self._unopened and all(way.is_over for way in self.all_ways))
        require(not self.ways, "streams that the other end has never seen")
        self._check_left_behind()
        self._check_unlinkable()
        self._close()
        return steps

    def _accept(self, session: Session) -> SessionHandler:
        if self.server.session is None or (not self.server.completed and self.server.session.ended is not None):
            self.server.session = session
            return self.server
        # A copy of the client's first packet that has come late begins a handshake that nobody goes on with.
        return SessionEnd(self, False, session)

    def _when_up(self, by_client: bool, action: Callable[[SessionEnd], None]) -> Callable[[], None]:
        """Action, put off until that end's handshake is complete."""

        def act() -> None:
            end = self.client if by_client else self.server
            if end.completed:
                action(end)
            else:
                self.pair.at(self.pair.now + 0.05, act)

        return act

    def _opening(self, number: int, flow: Flow) -> Callable[[], None]:
        begin = number * 1000
        there = Way(flow.there, begin)
        back = Way(flow.back, begin + 200_000) if flow.back is not None else None
        self.all_ways += [way for way in (there, back) if way is not None]

        def open_stream(end: SessionEnd) -> None:
            assert end.session is not None
            self._unopened -= 1
            if self._is_idle():
                self._progressed_at = self.pair.now
            stream = end.session.open_stream(bidirectional=back is not None, priority=flow.priority)
            self.ways[flow.by_client, stream.id] = there, back
            there.opened = True
            if back is not None:
                back.opened = True
            StreamEnd(self, stream, there, back).begin()

        return self._when_up(flow.by_client, open_stream)

    def _is_idle(self) -> bool:
        return (
            self.client.completed and self.server.completed and all(way.is_over for way in self.all_ways if way.opened)
        )

    def _until(self, done: Callable[[], bool]) -> int:
        pair = self.pair
        self._progressed_at = pair.now
        for step in range(400_000):
            if self.failure is not None:
                raise Failed(f"{self.failure} at {pair.now - BEGINS:.3f}")
            if done():
                return step
            shaken = self.client.completed and self.server.completed
            patience = self.scenario.patience if shaken else HANDSHAKE_PATIENCE
            if not pair.step(self._progressed_at + patience):
                raise Failed(f"no progress for {patience:.1f} s: {self._state()}")
        raise Failed(f"still busy after {step} steps: {self._state()}")

    def _state(self) -> str:
        waiting = [
            f"{way.plan} written={way.written} received={way.received} reset={way.reset_by_sender} "
            f"stopped={way.stopped} over={way.sending_over},{way.receiving_over}"
            for way in self.all_ways
            if not way.is_over
        ]
        ends = [end.session.statistics() for end in (self.client, self.server) if end.session is not None]
        return f"since {self._progressed_at - BEGINS:.3f}; {self._unopened} unopened; {waiting[:3]}; {ends}"

    @staticmethod
    def _in_flight(end: SessionStatistics) -> int:
        """aioquic goes on counting what it had under way in packet spaces that it has discarded."""
        return end.bytes_in_flight if end.engine == "native" else 0

    def _check_left_behind(self) -> None:
        pair = self.pair
        for _ in range(60):
            pair.pass_time(1.0)
            ends = [end.session.statistics() for end in (self.client, self.server) if end.session is not None]
            if all(not end.streams_open and not self._in_flight(end) for end in ends):
                break
        client, server = ends
        require(client.streams_open == 0 == server.streams_open, f"streams stay open: {client} {server}")
        require(
            not self._in_flight(client) and not self._in_flight(server), f"octets stay in flight: {client} {server}"
        )
        for sender, receiver, up in ((client, server, True), (server, client, False)):
            if sender.engine == receiver.engine == "native":
                require(sender.packets_lost <= sender.packets_sent, f"{sender}")
                # Handshake packets are counted by datagrams received, and not as packets sent.
                require(receiver.packets_received <= 2 * pair.datagrams_sent(up), f"{receiver}")
                require(receiver.stream_bytes_received <= sender.stream_bytes_sent, f"{sender} {receiver}")
                require(receiver.datagrams_received <= sender.datagrams_sent, f"{sender} {receiver}")
        clean = all(way.plan.reset_after is None and way.plan.stop_after is None for way in self.all_ways)
        for sender, receiver, sent in ((client, server, True), (server, client, False)):
            total = sum(way.received for way in self._ways_of(sent))
            require(receiver.stream_bytes_received >= total, f"{receiver} counts less than {total}")
            if clean:
                require(
                    sender.stream_bytes_sent == total == receiver.stream_bytes_received, f"{total}: {sender} {receiver}"
                )

    def _check_unlinkable(self) -> None:
        """RFC 9000 §9.5: no connection ID is seen in the networks of two of the client's addresses."""
        if isinstance(self.pair, Roads):
            for up in (True, False):
                used = [{sent.cid for sent in self.pair.used(local, up=up)} - {b""} for local in (WIFI, MOBILE, CABLE)]
                require(len(set().union(*used)) == sum(map(len, used)), f"a connection ID on two paths: {used}")

    def _ways_of(self, of_client: bool) -> list[Way]:
        """Those on which that end sends."""
        found, position = [], 0
        for flow in self.scenario.flows:
            ways = self.all_ways[position : position + (1 if flow.back is None else 2)]
            position += len(ways)
            found += ways[:1] if flow.by_client == of_client else ways[1:]
        return found

    def _close(self) -> None:
        self.closing = True
        assert self.client.session is not None
        self.client.session.close(3, "done")
        hubs = [host.hub for host in (self.pair.client, self.pair.server)]
        for _ in range(40):
            if not any(hub._entries for hub in hubs):
                break
            self.pair.pass_time(10.0)
        require(self.client.ended is not None and self.server.ended is not None, "the session has no end")
        for hub in hubs:
            require(self.failure is None, str(self.failure))
            require(not hub._entries and not hub._by_cid and not hub._dialled, "a hub keeps what is over")


def _send_datagram(number: int, size: int, end: SessionEnd) -> None:
    end.send_datagram(number, size)


def _rebind(pair: Pair, address: Address, client: SessionEnd) -> None:
    if isinstance(pair, Roads):
        assert client.session is not None
        pair.rebind(address, client.session.local_address)
    else:
        pair.rebind(address)


def _migrate(local: Address, client: SessionEnd) -> None:
    assert client.session is not None
    client.session.migrate(local)
