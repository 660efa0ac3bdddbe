"""aioquic as it is comes back to our server with a ticket and early data, over good paths and bad, every octet checked."""

from __future__ import annotations

import heapq
import ssl
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aioquic import tls
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.types import Limits

from ..sim.link import Conditions, Link
from ..sim.pair import SERVER
from .coming_back import AT_ONCE, EARLY, NAT, OCTETS, EarlyLog, Stage, kinds

REMOTE: Any = SERVER
BAD = Conditions(delay=0.02, jitter=0.01, loss=0.15, duplicate=0.1, reorder=0.3, reorder_by=0.02)
FIRST, SECOND = OCTETS[:5000], OCTETS[5000:40_000]


@dataclass
class Aioquic:
    """A client of aioquic's, at the end of the stage's links. It writes FIRST on its first stream before anything else, and
    SECOND on another when the handshake is complete."""

    stage: Stage
    ticket: tls.SessionTicket | None = None
    came: dict[int, bytes] = field(default_factory=dict)
    complete: events.HandshakeCompleted | None = None
    ended: bool = False

    def __post_init__(self) -> None:
        self.new_ticket: tls.SessionTicket | None = None
        self.connection = QuicConnection(
            configuration=QuicConfiguration(
                alpn_protocols=["test/1"],
                is_client=True,
                server_name="server.example",
                session_ticket=self.ticket,
                verify_mode=ssl.CERT_NONE,
            ),
            session_ticket_handler=self._keep,
        )
        self._links = Link(self.stage.conditions, self.stage.seed + 1), Link(self.stage.conditions, self.stage.seed + 2)
        self._flying: list[tuple[float, int, bool, bytes]] = []
        self._count = 0
        self.sent: list[bytes] = []

    def _keep(self, ticket: tls.SessionTicket) -> None:
        self.new_ticket = ticket

    def run(self) -> EarlyLog:
        """Until both streams have come whole and a ticket is there; then it closes. The server's log."""
        pair, connection = self.stage.pair, self.connection
        seen = len(self.stage.accepted)
        connection.connect(REMOTE, pair.now)
        connection.send_stream_data(0, FIRST, end_stream=True)
        for _ in range(20_000):
            self._flush()
            if self.ended:
                break
            if self.complete is not None and not connection._events and 4 not in connection._streams:
                connection.send_stream_data(4, SECOND, end_stream=True)
                continue
            log = self._log(seen)
            if log is not None and self.new_ticket is not None and self._is_whole(log):
                connection.close()
                self.new_ticket, self.stage_ticket = None, self.new_ticket
            self._step()
        assert self.ended, "never done"
        log = self._log(seen)
        assert log is not None
        assert bytes(log.logs[0].data) == FIRST
        assert bytes(log.logs[4].data) == SECOND
        pair.pass_time(60.0)
        return log

    @staticmethod
    def _is_whole(log: EarlyLog) -> bool:
        return all(("eof",) in each.calls for each in log.logs.values()) and set(log.logs) == {0, 4}

    def _log(self, seen: int) -> EarlyLog | None:
        found = [log for _, log in self.stage.accepted[seen:] if log.completed or log.logs]
        return found[0] if found else None

    def _step(self) -> None:
        pair, hub = self.stage.pair, self.stage.pair.server.hub
        times = [at for at in (self.connection.get_timer(), hub.get_timer()) if at is not None]
        times += [self._flying[0][0]] if self._flying else []
        pair.now = max(pair.now + 1e-6, min(times))
        while self._flying and self._flying[0][0] <= pair.now:
            _, _, up, data = heapq.heappop(self._flying)
            if up:
                hub.receive_datagram(data, Route(SERVER, NAT), pair.now)
            else:
                self.connection.receive_datagram(data, REMOTE, pair.now)
        timer = self.connection.get_timer()
        if timer is not None and timer <= pair.now:
            self.connection.handle_timer(pair.now)
        hub.handle_timer(pair.now)

    def _flush(self) -> None:
        now = self.stage.pair.now
        while True:
            up = [data for data, _ in self.connection.datagrams_to_send(now)]
            down = [data for data, _, _ in self.stage.pair.server.send(now)]
            self.sent += up
            for is_up, datagrams in ((True, up), (False, down)):
                for datagram in datagrams:
                    for arrives, form, _ in self._links[not is_up].carry(datagram, now):
                        self._count += 1
                        heapq.heappush(self._flying, (arrives, self._count, is_up, form))
            while (event := self.connection.next_event()) is not None:
                if isinstance(event, events.HandshakeCompleted):
                    self.complete = event
                elif isinstance(event, events.ConnectionTerminated):
                    self.ended = True
            if not up and not down:
                return


def come_back(stage: Stage) -> tuple[Aioquic, EarlyLog, dict[str, Any]]:
    """Once for a ticket, and once with it."""
    first = Aioquic(stage)
    first.run()
    again = Aioquic(stage, first.stage_ticket)
    log = again.run()
    server = next(session for session, each in stage.accepted if each is log)
    return again, log, server.connection.statistics()


def test_zerortt() -> None:
    again, log, counted = come_back(Stage(EARLY))

    assert again.complete is not None
    assert again.complete.session_resumed
    assert again.complete.early_data_accepted
    assert any("zero_rtt" in kinds(data) for data in again.sent)
    assert counted["zero_rtt_received"] >= 4
    assert log.early == {}


def test_zerortt_at_once() -> None:
    _, log, _ = come_back(Stage(AT_ONCE))

    assert log.early == {0: FIRST}


def test_resumption() -> None:
    again, _, counted = come_back(Stage(replace(EARLY, early_data=False)))

    assert again.complete is not None
    assert again.complete.session_resumed
    assert not again.complete.early_data_accepted
    assert not any("zero_rtt" in kinds(data) for data in again.sent), "the ticket does not allow it"
    assert counted["zero_rtt_received"] == 0


@pytest.mark.parametrize("at_once", [False, True], ids=["held", "at once"])
def test_zerortt_on_bad_paths(at_once: bool) -> None:
    accepted = 0
    for seed in range(40):
        again, _, counted = come_back(Stage(AT_ONCE if at_once else EARLY, seed, BAD))
        assert again.complete is not None
        accepted += counted["zero_rtt_received"] > 0
    assert accepted > 25


def test_rejected() -> None:
    stage = Stage(EARLY)
    first = Aioquic(stage)
    first.run()
    stage.pair.restart_server(3)
    stage.listen()

    again = Aioquic(stage, first.stage_ticket)
    again.run()

    assert again.complete is not None
    assert not again.complete.early_data_accepted
    assert stage.accepted[-1][0].connection.statistics()["zero_rtt_dropped"] >= 4


def test_rejected_for_lower_limits() -> None:
    stage = Stage(EARLY)
    first = Aioquic(stage)
    first.run()
    stage.listen(limits=replace(Limits(), session_window=1 << 20))

    again = Aioquic(stage, first.stage_ticket)
    again.run()

    assert again.complete is not None
    assert again.complete.session_resumed
    assert not again.complete.early_data_accepted
