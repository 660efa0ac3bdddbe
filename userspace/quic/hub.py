"""An endpoint without sockets: finds the session of each datagram, and admits new ones.

Data flow: datagram -> first octet (RFC 9443) -> destination connection ID -> session; what has none is, in this order,
a stateless reset for one of ours, an Initial (then version, size, admission, Retry, and only now an object is made), or
dropped and counted. Driven like a session: ``receive_datagram``, ``datagrams_to_send``, ``get_timer``,
``handle_timer``. Read RFC 9000 §5.2, §8.1 and §10.3. This file must not import asyncio, socket, time or random.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aioquic.buffer import Buffer  # type: ignore[attr-defined] # re-exported without saying so
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    pull_quic_header,
)

from .admission import Admission, Verdict
from .aioquic_internals.common import SMALLEST_DATAGRAM
from .cid import LENGTH, ConnectionIdFactory
from .congestion import check as check_congestion
from .early_arrivals import EarlyArrivals, is_early
from .engines import SESSIONS, Beginning
from .errors import LocalError, PeerError
from .preferred import check_preferred
from .qlog_files import QlogFolder
from .reset import TokenBucket, is_reset, reset_packet, reset_token
from .resumption import ClientResumption, ServerResumption, ServerTickets, check_resumption
from .retry import RetryTokens
from .secrets import Secrets
from .session import BaseSession, Route
from .stateless import retry, version_negotiation
from .tls_profile import KeyLogs, client_configuration, profile, server_configuration, verifier
from .types import Address, DialConfig, ListenConfig, Session, SessionHandler

if TYPE_CHECKING:
    from .native.outlet import Outlet

logger = logging.getLogger(__name__)

LONG_HEADER = 0x80
FIXED_BIT = 0x40
SMALLEST_CLIENT_CID = 8
"""Octets of the shortest Destination Connection ID of a client's first Initial (RFC 9000 §7.2)."""
RESETS_PER_SECOND = 100.0
RESETS_AT_ONCE = 200.0
"""Stateless resets answer strangers' packets: enough for a fleet of clients after a restart, little for a flood."""


@dataclass(slots=True, eq=False)
class _Entry:
    """A session and what the hub keeps about it."""

    session: BaseSession | None = None
    cids: set[bytes] = field(default_factory=set)
    timer_at: float | None = None
    half_open: str = ""
    """The client's host while its handshake is counted as under way."""
    original_cid: bytes = b""
    """The Destination Connection ID of a client's first Initial, until the handshake completes."""
    dialled: Address | None = None

    @property
    def joined(self) -> BaseSession:
        assert self.session is not None
        return self.session


@dataclass(slots=True)
class _Listening:
    config: ListenConfig
    accept: Callable[[Session], SessionHandler]
    configuration: QuicConfiguration
    retry: RetryTokens
    tickets: ServerTickets | None

    @property
    def takes_early_data(self) -> bool:
        return self.tickets is not None and self.tickets.options.early_data


class Hub:
    """random_bytes: unpredictable octets. wall_clock: Unix time, for tokens that other processes must understand.
    wake: called when ``datagrams_to_send`` has something to do. engine: of ``engines``. server_id, workers: see ``cid``."""

    def __init__(
        self,
        *,
        random_bytes: Callable[[int], bytes],
        wall_clock: Callable[[], float],
        wake: Callable[[], None],
        engine: str = "aioquic",
        server_id: int = 0,
        workers: int = 0,
    ) -> None:
        self._engine = engine
        self._make_session = SESSIONS[engine]
        self._random_bytes = random_bytes
        self._wall_clock = wall_clock
        self._wake = wake
        self._cid_factory = ConnectionIdFactory(random_bytes, server_id=server_id, workers=workers)
        self._reset_key = random_bytes(32)
        self._former_reset_key: bytes | None = None
        self._reset_bucket = TokenBucket(RESETS_PER_SECOND, RESETS_AT_ONCE)
        self._by_cid: dict[bytes, _Entry] = {}
        self._entries: dict[_Entry, None] = {}
        self._dialled: dict[Address, list[_Entry]] = {}
        self._server_sessions = 0
        self._listening: _Listening | None = None
        self._admission = Admission()
        self._early = EarlyArrivals()
        self._hook: Callable[[bytes, Address], bool] | None = None
        self._keylogs = KeyLogs()
        self._qlog: QlogFolder | None = None
        self._timers: list[tuple[float, int, _Entry]] = []
        self._timer_count = 0
        self._dirty: dict[_Entry, None] = {}
        self._blocked: dict[_Entry, None] = {}
        self.find_route: Callable[[Address, Address], Route] = _no_route
        """From one of the adapter's local addresses to a remote one; raises LocalError when it does not have it."""
        self.outlet: Outlet | None = None
        """Where sessions put their packets that are not to become Python objects."""
        self._raw: list[tuple[bytes, Route]] = []
        self._flushing = False
        self._counters: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()
        """By sessions that are over."""

    # What the room above calls, through the adapter.

    def dial(self, route: Route, config: DialConfig, handler: SessionHandler, now: float) -> BaseSession:
        """Begin a handshake. Raises LocalError when config cannot work."""
        check_congestion(config.limits.congestion, self._engine)
        configuration = client_configuration(config, self._keylogs)
        resumption = None
        if config.tickets is not None:
            check_resumption(self._engine)
            resumption = ClientResumption(
                config.tickets,
                (config.trust, config.alpn, config.crypto_profile),
                self._wall_clock,
                early_data=config.early_data,
                lapses=not config.trust.pins,
            )
        entry = _Entry()
        session = self._make_session(
            Beginning(
                owner=self,
                configuration=configuration,
                profile=profile(config.crypto_profile),
                limits=config.limits,
                route=route,
                now=now,
                key=entry,
                new_cid=lambda: self._new_cid(entry),
                reset_token=lambda cid: reset_token(self._reset_key, cid),
                random_bytes=self._random_bytes,
                verify_peer=verifier(config.trust),
                resumption=resumption,
                spin_bit=config.spin_bit,
            )
        )
        session.set_handler(handler)
        entry.session = session
        self._entries[entry] = None
        entry.dialled = route.remote
        self._dialled.setdefault(route.remote, []).append(entry)
        session.connect(now)
        self.session_wakes(session)
        return session

    def listen(self, config: ListenConfig, accept: Callable[[Session], SessionHandler]) -> None:
        """Raises LocalError when config cannot work; what was in force before stays."""
        check_congestion(config.limits.congestion, self._engine)
        check_preferred(config.preferred_address, self._engine)
        configuration = server_configuration(config, self._keylogs)
        secrets = Secrets(config.secret)
        tickets = self._tickets_for(config)
        self._listening = _Listening(
            config, accept, configuration, RetryTokens(secrets.retry, self._random_bytes), tickets
        )
        self._reset_key = secrets.reset
        self._former_reset_key = Secrets(config.previous_secret).reset if config.previous_secret else None

    def stop_listening(self) -> None:
        self._listening = None

    def set_first_byte_hook(self, hook: Callable[[bytes, Address], bool] | None) -> None:
        self._hook = hook

    def send_raw(self, data: bytes, route: Route) -> None:
        self._raw.append((data, route))
        self._wake_once()

    def log_to(self, path: Path | None, now: float) -> None:
        """Log all sessions' events into files there from now on; None: no more. Raises LocalError."""
        if path is not None and self._engine != "native":
            raise LocalError(f"the {self._engine} engine writes no qlog; start with --engine native")
        self._qlog = QlogFolder(path, self._wall_clock) if path is not None else None
        for entry in self._entries:
            entry.joined.log_to(self._qlog, now)

    def close(self) -> None:
        """Close every session with code 0. Call ``datagrams_to_send`` once more, then ``forget``."""
        self._listening = None
        for entry in list(self._entries):
            entry.joined.close()

    def forget(self) -> None:
        """Drop all state; nothing may be called afterwards."""
        for entry in list(self._entries):
            self._drop(entry)
        self._keylogs.close()

    def statistics(self) -> dict[str, int]:
        counted = Counter(self._counted)
        for entry in self._entries:
            counted.update(entry.joined.counters())
        return {
            **counted,
            **self._counters,
            "half_open": self._admission.half_open,
            "sessions": sum(1 for entry in self._entries if entry.joined.ended is None),
        }

    # What drives the hub.

    def receive_datagram(self, data: bytes, route: Route, now: float, ecn: int = 0) -> None:
        """ecn: the codepoint that it came with."""
        if not data:
            self._counters["dropped_empty"] += 1
            return
        first = data[0]
        if first & LONG_HEADER:
            self._receive_long(data, route, now, ecn)
        elif first & FIXED_BIT:
            entry = self._by_cid.get(data[1 : 1 + LENGTH])
            if entry is not None:
                self._pass_on(entry, data, route, now, ecn)
                if self.outlet is not None:
                    # From now on its packets find their way without us.
                    entry.joined.join(self.outlet, data[1 : 1 + LENGTH])
            else:
                self._receive_unknown(data, route, now)
        else:
            self._receive_foreign(data, route)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Route]]:
        self._flushing = True
        datagrams, self._raw = self._raw, []
        dirty, self._dirty = self._dirty, {}
        for entry in dirty:
            session = entry.joined
            datagrams += session.datagrams_to_send(now)
            if session.is_terminated:
                self._drop(entry)
            else:
                self._set_timer(entry)
        self._flushing = False
        if self._dirty or self._raw:
            self._wake()
        return datagrams

    def get_timer(self) -> float | None:
        while self._timers and self._timers[0][2].timer_at != self._timers[0][0]:
            heapq.heappop(self._timers)  # Overtaken by an earlier one, or its session is gone.
        return self._timers[0][0] if self._timers else None

    def resume(self) -> None:
        """The outlet takes packets again."""
        self._dirty.update(self._blocked)
        self._blocked.clear()

    def handle_timer(self, now: float) -> None:
        while (at := self.get_timer()) is not None and at <= now:
            entry = heapq.heappop(self._timers)[2]
            entry.timer_at = None
            due = entry.joined.get_timer()
            if due is not None and due <= now:
                entry.joined.handle_timer(now)
                self._dirty[entry] = None
            elif due is not None:
                self._set_timer(entry)
            else:
                self._drop(entry)
        if self._dirty:
            self._wake_once()

    def network_error(self, remote: Address, reason: str, now: float) -> None:
        """The network said that datagrams to remote do not arrive."""
        self._counters["network_errors"] += 1
        for entry in list(self._dialled.get(remote, ())):
            session = entry.joined
            if session.is_established:
                session.suspect(now)
            else:
                session.receive_unreachable(reason)
                self._dirty[entry] = None
        if self._dirty:
            self._wake_once()

    # What sessions call.

    def session_wakes(self, session: BaseSession) -> None:
        self._dirty[_entry_of(session)] = None
        self._wake_once()

    def session_blocked(self, session: BaseSession) -> None:
        """The outlet is full: wake it at ``resume``."""
        self._blocked[_entry_of(session)] = None

    def session_established(self, session: BaseSession) -> None:
        entry = _entry_of(session)
        self._end_half_open(entry)
        if self._qlog is not None:
            session.log_to(self._qlog, session.now)
        if session.is_resumed:
            self._counters["resumed"] += 1
        if not session.reads_early:
            self._forget_original(entry)

    def early_over(self, session: BaseSession) -> None:
        self._forget_original(_entry_of(session))

    def _forget_original(self, entry: _Entry) -> None:
        if entry.original_cid:
            # The client knows our connection ID by now.
            self._by_cid.pop(entry.original_cid, None)
            entry.cids.discard(entry.original_cid)
            entry.original_cid = b""

    def session_over(self, session: BaseSession) -> None:
        entry = _entry_of(session)
        self._end_half_open(entry)
        if not session.is_client:
            self._server_sessions -= 1
        self._dirty[entry] = None
        self._wake_once()

    def cid_retired(self, session: BaseSession, cid: bytes) -> None:
        entry = _entry_of(session)
        entry.cids.discard(cid)
        self._forget_cid(cid)

    def session_moved(self, session: BaseSession) -> None:
        entry = _entry_of(session)
        if entry.dialled not in (None, session.route.remote):
            self._forget_dialled(entry)
            entry.dialled = session.route.remote
            self._dialled.setdefault(entry.dialled, []).append(entry)

    def route_from(self, local: Address, remote: Address) -> Route:
        return self.find_route(local, remote)

    # Below.

    def _tickets_for(self, config: ListenConfig) -> ServerTickets | None:
        if config.resumption is None:
            return None
        check_resumption(self._engine)
        former = self._listening
        if former is not None and former.tickets is not None and former.tickets.outlive(former.config, config):
            return former.tickets
        return ServerTickets(config.resumption, self._random_bytes, self._wall_clock)

    def _forget_cid(self, cid: bytes) -> None:
        self._by_cid.pop(cid, None)
        if self.outlet is not None and len(cid) == LENGTH:
            self.outlet.drop_cid(cid)

    def _wake_once(self) -> None:
        if not self._flushing:
            self._wake()

    def _pass_on(self, entry: _Entry, data: bytes, route: Route, now: float, ecn: int) -> None:
        session = entry.joined
        if session.is_client and route.remote == session.route.remote and route.socket == session.route.socket:
            route = session.route  # A wildcard socket may know its own address better than when we dialled.
        session.receive_datagram(data, route, now, ecn)
        self._dirty[entry] = None

    def _receive_long(self, data: bytes, route: Route, now: float, ecn: int) -> None:
        entry = self._by_cid.get(data[6 : 6 + data[5]]) if len(data) > 6 else None
        if entry is not None:
            self._pass_on(entry, data, route, now, ecn)
        elif not data[0] & FIXED_BIT:
            self._receive_foreign(data, route)
        elif self._listening is None:
            self._counters["dropped_unknown"] += 1
        elif is_early(data):
            # Its Initial may come yet.
            if not self._listening.takes_early_data or not self._early.keep(data, route, now, ecn):
                self._counters["dropped_early"] += 1
        elif len(data) < SMALLEST_DATAGRAM:
            # RFC 9000 §14.1: also what keeps every answer below from being larger than its cause.
            self._counters["dropped_small"] += 1
        else:
            self._receive_first(data, route, now, self._listening)

    def _receive_first(self, data: bytes, route: Route, now: float, listening: _Listening) -> None:
        """A large enough long-header packet to a connection ID that we do not know."""
        version, versions = int.from_bytes(data[1:5], "big"), listening.config.versions
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=LENGTH)
        except ValueError:
            if version in versions or version == 0:
                self._counters["dropped_malformed"] += 1
                return
            header = None  # Another version: only the invariant part can be read (RFC 8999 §5.1).
        if version not in versions:
            self._negotiate_version(data, route, versions)
            return
        assert header is not None
        if header.packet_type is not QuicPacketType.INITIAL or len(header.destination_cid) < SMALLEST_CLIENT_CID:
            self._counters["dropped_unknown"] += 1
            return
        original_cid, validated = header.destination_cid, False
        if header.token:
            try:
                original_cid = listening.retry.verify(
                    header.token, route.remote, header.destination_cid, self._wall_clock()
                )
                validated = True
            except PeerError:
                # RFC 9000 §8.1.3: a client takes only one Retry, so it has to begin anew.
                self._counters["dropped_token"] += 1
                return
        verdict = self._admission.judge(route.remote[0], listening.config, self._server_sessions, validated=validated)
        if verdict is Verdict.RETRY:
            self._send_retry(header, route, listening)
        elif verdict is not Verdict.ADMIT:
            self._counters[f"refused_{verdict.name.lower()}"] += 1
        else:
            retry_cid = header.destination_cid if validated else None
            self._begin(data, route, now, listening, original_cid, retry_cid)

    def _begin(
        self, data: bytes, route: Route, now: float, listening: _Listening, original_cid: bytes, retry_cid: bytes | None
    ) -> None:
        config = listening.config
        entry = _Entry()
        session = self._make_session(
            Beginning(
                owner=self,
                configuration=listening.configuration,
                profile=profile(config.crypto_profile),
                limits=config.limits,
                route=route,
                now=now,
                key=entry,
                new_cid=lambda: self._new_cid(entry),
                reset_token=lambda cid: reset_token(self._reset_key, cid),
                random_bytes=self._random_bytes,
                original_cid=original_cid,
                retry_cid=retry_cid,
                resumption=ServerResumption(listening.tickets) if listening.tickets is not None else None,
                preferred_address=config.preferred_address,
                spin_bit=config.spin_bit,
            )
        )
        entry.session = session
        entry.original_cid = retry_cid or original_cid
        entry.cids.add(entry.original_cid)
        entry.half_open = route.remote[0]
        self._by_cid[entry.original_cid] = entry
        self._entries[entry] = None
        self._admission.begin(entry.half_open)
        self._server_sessions += 1
        session.receive_datagram(data, route, now)
        if not session.is_heard:
            # It could not be decrypted: it never was an Initial.
            self._counters["dropped_undecryptable"] += 1
            session.abandon()
        elif session.ended is None:
            self._counters["accepted"] += 1
            try:
                session.set_handler(listening.accept(session))
            except Exception:
                logger.exception("internal error while accepting a connection from %s", route.remote)
                session.abandon()
        for held, came_from, ecn in self._early.take(entry.original_cid, now):
            if session.ended is None and came_from == route:
                session.receive_datagram(held, route, now, ecn)
        self._dirty[entry] = None

    def _send_retry(self, header: QuicHeader, route: Route, listening: _Listening) -> None:
        """header: of the Initial."""
        cid = self._cid_factory.new(self._by_cid)
        token = listening.retry.issue(route.remote, header.destination_cid, cid, self._wall_clock())
        self._counters["retries_sent"] += 1
        self._raw.append((retry(header, cid, token), route))

    def _negotiate_version(self, data: bytes, route: Route, versions: tuple[int, ...]) -> None:
        packet = version_negotiation(data, versions)
        if packet is None:
            self._counters["dropped_malformed"] += 1
            return
        self._counters["version_negotiations_sent"] += 1
        self._raw.append((packet, route))

    def _receive_unknown(self, data: bytes, route: Route, now: float) -> None:
        """A short header with a connection ID that is not ours, or not any more."""
        for entry in self._dialled.get(route.remote, ()):
            if is_reset(data, entry.joined.peer_reset_tokens):
                self._counters["resets_received"] += 1
                entry.joined.receive_stateless_reset()
                return
        self._counters["dropped_unknown"] += 1
        cid = data[1 : 1 + LENGTH]
        if self._listening is None or not self._cid_factory.is_ours(cid) or not self._reset_bucket.take(now):
            return
        # A connection ID does not say under which secret it was given out; a client knows one token and drops the other.
        for key in (self._reset_key, self._former_reset_key):
            packet = reset_packet(reset_token(key, cid), len(data), self._random_bytes) if key is not None else None
            if packet is not None:
                self._counters["resets_sent"] += 1
                self._raw.append((packet, route))

    def _receive_foreign(self, data: bytes, route: Route) -> None:
        taken = False
        if self._hook is not None:
            try:
                taken = self._hook(data, route.remote)
            except Exception:
                logger.exception("internal error in the first-byte hook")
        self._counters["taken_by_hook" if taken else "dropped_not_quic"] += 1

    def _new_cid(self, entry: _Entry) -> bytes:
        cid = self._cid_factory.new(self._by_cid)
        self._by_cid[cid] = entry
        entry.cids.add(cid)
        return cid

    def _set_timer(self, entry: _Entry) -> None:
        due = entry.joined.get_timer()
        # One that comes too early is asked again when it fires: most timers only ever move on.
        if due is not None and (entry.timer_at is None or due < entry.timer_at):
            entry.timer_at = due
            self._timer_count += 1
            heapq.heappush(self._timers, (due, self._timer_count, entry))

    def _end_half_open(self, entry: _Entry) -> None:
        if entry.half_open:
            self._admission.end(entry.half_open)
            entry.half_open = ""

    def _drop(self, entry: _Entry) -> None:
        self._end_half_open(entry)
        if entry in self._entries:
            del self._entries[entry]
            self._counted.update(entry.joined.counters())
            entry.joined.log_to(None, entry.joined.now)
        self._dirty.pop(entry, None)
        entry.timer_at = None
        for cid in entry.cids:
            self._forget_cid(cid)
        self._blocked.pop(entry, None)
        self._forget_dialled(entry)

    def _forget_dialled(self, entry: _Entry) -> None:
        if entry.dialled is not None:
            dialled = self._dialled.get(entry.dialled, [])
            if entry in dialled:
                dialled.remove(entry)
            if not dialled:
                self._dialled.pop(entry.dialled, None)


def _no_route(local: Address, remote: Address) -> Route:
    raise LocalError("the sockets are not ours to choose from")


def _entry_of(session: BaseSession) -> _Entry:
    entry = session.key
    assert isinstance(entry, _Entry)
    return entry
