"""A client that comes back to a server with a ticket, on a simulated pair: ours at both ends, or aioquic's as the client."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from quicsocks.userspace.quic.aioquic_internals.handshaker import walk
from quicsocks.userspace.quic.cid import LENGTH
from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.resumption import ClientTickets
from quicsocks.userspace.quic.types import (
    Address,
    DialConfig,
    Limits,
    ListenConfig,
    Resumption,
    Session,
    Stream,
    Trust,
)

from ..sim.link import NOT_ECT, Conditions, Link
from ..sim.pair import Pair
from .keys import Identity, self_signed
from .recorders import SessionLog, StreamLog

EARLY = Resumption(early_data=True)
AT_ONCE = Resumption(early_data=True, early_data_at_once=True)
OCTETS = random.Random(7).randbytes(1 << 17)


def kinds(datagram: bytes) -> list[str]:
    """Of the packets in a datagram."""
    return [kind for kind, _, _ in walk(datagram, LENGTH)]


class SortingLink(Link):
    """A link on which some datagrams take longer, or never arrive. hold: seconds more; None: lost."""

    def __init__(self, conditions: Conditions, seed: int, hold: Callable[[list[str]], float | None]) -> None:
        super().__init__(conditions, seed)
        self._hold = hold

    def carry(self, data: bytes, now: float, ecn: int = NOT_ECT) -> list[tuple[float, bytes, int]]:
        more = self._hold(kinds(data))
        if more is None:
            return []
        return [(arrives + more, form, marked) for arrives, form, marked in super().carry(data, now, ecn)]


@dataclass
class EarlyLog(SessionLog):
    """early: octets that streams brought before the handshake was complete, by stream; may: there may be some."""

    may: bool = False
    early: dict[int, bytes] = field(default_factory=dict)

    def stream_opened(self, stream: Stream) -> None:
        if self.may and not self.completed:
            self.logs[stream.id] = StreamLog(stream, self.consume)
        else:
            super().stream_opened(stream)

    def handshake_completed(self) -> None:
        self.early = {number: bytes(log.data) for number, log in self.logs.items()}
        super().handshake_completed()


@dataclass
class Visit:
    """One connection. client: None when it is aioquic's."""

    client: NativeSession
    log: SessionLog
    server: NativeSession
    server_log: EarlyLog

    @property
    def counted(self) -> dict[str, Any]:
        return self.server.connection.statistics()


@dataclass
class Stage:
    """resumption: the server's."""

    resumption: Resumption | None = EARLY
    seed: int = 0
    conditions: Conditions = field(default_factory=Conditions)
    identity: Identity = field(default_factory=self_signed)
    limits: Limits = field(default_factory=Limits)
    retry: bool = False
    alpn: tuple[str, ...] = ("test/1",)

    def __post_init__(self) -> None:
        self.pair = Pair(self.seed, self.conditions, engines=("native", "native"))
        self.tickets = ClientTickets()
        self.accepted: list[tuple[NativeSession, EarlyLog]] = []
        self.listen()

    def listen(self, **changes: Any) -> None:
        """Again, with other values of ListenConfig's."""
        config = ListenConfig(
            self.alpn,
            self.identity.certificate,
            self.identity.private_key,
            bytes(32),
            self.limits,
            retry_above=0 if self.retry else 64,
            resumption=self.resumption,
        )
        self.pair.listen(replace(config, **changes), self._accept)

    def _accept(self, session: Session) -> EarlyLog:
        assert isinstance(session, NativeSession)
        at_once = self.resumption is not None and self.resumption.early_data_at_once
        self.accepted.append((session, EarlyLog(may=at_once)))
        return self.accepted[-1][1]

    def dial_config(self, **changes: Any) -> DialConfig:
        config = DialConfig(
            self.alpn, Trust("server.example", (self.identity.pin,)), self.limits, tickets=self.tickets, early_data=True
        )
        return replace(config, **changes)

    def dial(self, **changes: Any) -> tuple[NativeSession, SessionLog]:
        log = SessionLog()
        session = self.pair.dial(self.dial_config(**changes), log)
        assert isinstance(session, NativeSession)
        return session, log

    def visit(self, size: int = 5000, *, close: bool = True, streams: int = 2, **changes: Any) -> Visit:
        """Dial, write at once, and wait until every octet has come back from an echoing server. Then close."""
        seen = len(self.accepted)
        client, log = self.dial(**changes)
        sent = [(StreamLog(client.open_stream()), OCTETS[i : i + size]) for i in range(streams)]
        for ours, data in sent:
            ours.stream.write(data)
            ours.stream.finish()
        self.pair.drive(lambda: self._echo(seen, [ours for ours, _ in sent]))
        found = [pair for pair in self.accepted[seen:] if pair[1].logs]
        assert len(found) == 1, "nobody else has seen any data"
        server, server_log = found[0]
        for ours, data in sent:
            assert bytes(server_log.logs[ours.stream.id].data) == data == bytes(ours.data)
        visit = Visit(client, log, server, server_log)
        if close:
            self.pair.settle()
            client.close()
            self.pair.pass_time(60.0)
        return visit

    def _echo(self, seen: int, sent: list[StreamLog]) -> bool:
        for _, log in self.accepted[seen:]:
            for each in log.logs.values():
                if ("eof",) in each.calls and not getattr(each, "echoed", False):
                    each.echoed = True  # type: ignore[attr-defined] # a mark of ours
                    each.stream.write(bytes(each.data))
                    each.stream.finish()
        return all(("eof",) in ours.calls for ours in sent)

    def sort(self, hold: Callable[[list[str]], float | None]) -> None:
        """From now on, let datagrams of the client's that hold such packets take longer."""
        self.pair.up = SortingLink(self.conditions, self.seed, hold)

    @property
    def counters(self) -> dict[str, int]:
        return self.pair.server.hub.statistics()


NAT: Address = ("203.0.113.9", 61000)
