"""One QUIC connection of the native engine: aioquic's handshake, and our own datapath for application data.

Until the handshake is confirmed there are two state machines. Datagrams that begin with a long header go to the
handshaker, whole, and what is coalesced behind to the connection; secrets, transport parameters, CRYPTO data and the end
of either cross between them here. Then the handshaker is stripped. Read ``session`` first; this file must not import
asyncio, socket, time or random.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode

from .aioquic_internals.common import ClosedBy, public_key_of
from .aioquic_internals.handshaker import Handshaker, Secret, walk
from .aioquic_internals.handshaker_parameters import PeerParameters
from .cid import LENGTH
from .endings import ended_of
from .errors import End, Ended, LocalError, PeerError
from .exporter import Exporter
from .native.connection import Connection
from .native.qlog import Qlog
from .preferred import preferred_of
from .qlog_events import log_beginning, log_end
from .resumption import ClientResumption, ServerResumption, is_reduced, remembered
from .session import BaseSession, Route, SessionOwner
from .types import Address, Limits, NetworkPath, PathChange, PathEvent, Priority, SessionStatistics, Stream

if TYPE_CHECKING:
    from .native.outlet import Outlet
    from .qlog_files import QlogFile, QlogFolder

logger = logging.getLogger(__name__)

LONG_HEADER = 0x80
MOST_EARLY = 16
"""0-RTT packets kept that came before the whole ClientHello: more than an initial window."""


class NativeSession(BaseSession):
    """Implements ``types.Session``."""

    def __init__(
        self,
        handshaker: Handshaker,
        connection: Connection,
        owner: SessionOwner,
        *,
        limits: Limits,
        is_client: bool,
        route: Route,
        begun: float,
        key: object = None,
        resumption: ClientResumption | ServerResumption | None = None,
    ) -> None:
        super().__init__(owner, limits=limits, is_client=is_client, route=route, begun=begun, key=key)
        self.handshaker = handshaker
        self.connection = connection
        self._detached = False
        self._resumption = resumption
        self._early_parameters: PeerParameters | None = None  # Of the peer, by which early data goes.
        self._early_packets: list[tuple[bytes, int]] = []
        self._handshake_received = [0, 0]  # Datagrams and octets.
        self._qlog_file: QlogFile | None = None
        connection.set_on_failure(self._receive_failed)

    # What the room above calls.

    def open_stream(self, *, bidirectional: bool = True, priority: Priority = Priority.NORMAL) -> Stream:
        if self._ended is not None:
            raise LocalError(f"the session has ended: {self._ended}")
        if -self.connection.streams_available(bidirectional) >= self.limits.streams_waiting:
            raise LocalError(f"{self.limits.streams_waiting} streams wait for the peer's limit already")
        return self.connection.open_stream(bidirectional, priority)

    def streams_available(self, *, bidirectional: bool = True) -> int:
        if self._ended is not None or not self._established:
            return 0
        return max(0, self.connection.streams_available(bidirectional))

    def send_datagram(self, data: bytes | bytearray | memoryview, ecn: int = 0) -> bool:
        if self._ended is not None or len(data) > self._max_datagram_size:
            return False
        return self.connection.send_datagram(bytes(data), self.now)

    def paths(self) -> tuple[NetworkPath, ...]:
        if self._ended is not None or not self._established:
            return ()
        return (_network_path(self.connection.route, self.connection.route_validated),)

    def statistics(self) -> SessionStatistics:
        counted = self.connection.statistics()
        return SessionStatistics(
            smoothed_rtt=counted["smoothed_rtt"],
            minimum_rtt=counted["minimum_rtt"],
            congestion_window=counted["congestion_window"],
            bytes_in_flight=counted["bytes_in_flight"],
            bytes_sent=counted["bytes_sent"],
            bytes_received=counted["bytes_received"] + self._handshake_received[1],
            packets_sent=counted["packets_sent"],
            packets_received=counted["packets_received"] + self._handshake_received[0],
            packets_lost=counted["packets_lost"],
            streams_open=counted["streams_open"],
            stream_bytes_sent=counted["stream_bytes_sent"],
            stream_bytes_received=counted["stream_bytes_received"],
            datagrams_sent=counted["datagrams_sent"],
            datagrams_received=counted["datagrams_received"],
            datagrams_dropped=counted["datagrams_dropped"],
            engine="native",
            congestion=counted["congestion"],
            pacing_rate=counted["pacing_rate"],
            path_mtu=counted["mtu"],
            ecn=counted["ecn"],
            ecn_state=counted["ecn_state"],
        )

    def migrate(self, local: Address) -> bool:
        if self._ended is not None or not self._established or not self._is_client:
            return False
        return self.connection.migrate(self._owner.route_from(local, self._route.remote), False)

    def counters(self) -> dict[str, int]:
        counted = self.connection.counted()
        counted["packets_received"] += self._handshake_received[0]
        counted["bytes_received"] += self._handshake_received[1]
        return counted

    def probe(self) -> None:
        if self._ended is None and self._established:
            self.connection.send_probe()

    def close(self, code: int = 0, reason: str = "") -> None:
        if self._ended is not None:
            return
        if not self._detached:
            self.handshaker.close_by_application(code, reason)
        if self._established:
            self.connection.close(code, True, reason, self.now)
        self._end(Ended(End.LOCALLY_CLOSED, code, reason))
        self.wake()

    # What drives the session.

    @property
    def is_terminated(self) -> bool:
        if self.connection.is_terminated:
            return True
        # Before that, the handshaker's closing period is all there is.
        return not self._established and self.handshaker.is_terminated

    @property
    def is_heard(self) -> bool:
        return self._detached or self.handshaker.is_heard

    @property
    def is_resumed(self) -> bool:
        return self._established and self.handshaker.is_resumed

    @property
    def early_data_accepted(self) -> bool:
        """Whether the server reads what a client sends early; from the end of the handshake on."""
        return self._established and self.handshaker.early_data_accepted

    @property
    def reads_early(self) -> bool:
        return self.connection.reads_early

    @property
    def peer_reset_tokens(self) -> list[bytes]:
        return self.connection.peer_reset_tokens

    def connect(self, now: float) -> None:
        self.handshaker.connect(self._route, now)

    def receive_datagram(self, data: bytes, route: Route, now: float, ecn: int = 0) -> None:
        self.now = now
        try:
            if not data[0] & LONG_HEADER:
                self.connection.receive(data, route, now, ecn)
            elif not self._detached:
                self._receive_long(data, route, now, ecn)
            else:
                self._receive_zero_rtt(data, now, ecn)
            if self.connection.has_events:
                self._handle_events()
        except PeerError as error:
            self._refuse(error)
        except Exception:
            self._fail("handling a datagram")

    def join(self, outlet: Outlet, cid: bytes) -> None:
        if self._detached:
            outlet.add_cid(cid, self.connection)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Route]]:
        self.now = now
        connection, outlet = self.connection, self._owner.outlet
        datagrams: list[tuple[bytes, Route]] = []
        made = 0
        connection.stay_awake()
        try:
            if connection.has_events:
                self._handle_events()
            self._tell()
            if not self._detached:
                datagrams += self.handshaker.datagrams_to_send(now)
                if self._ended is None:
                    self._follow_handshake(now)
                    if connection.confirmed:
                        self._detach()
            if not self._speaks:
                pass
            elif outlet is None:
                packets = connection.datagrams_to_send(now)
                made = len(packets)
                datagrams += packets
            else:
                made = connection.send_into(outlet, now)
            if connection.has_events:
                self._handle_events()
        except PeerError as error:
            self._refuse(error)
        except Exception:
            self._fail("making datagrams")
        connection.rest()
        if made < 0:
            self._owner.session_blocked(self)
        elif made >= MOST_DATAGRAMS or (connection.has_events and self._established and self._ended is None):
            self.wake()
        return datagrams

    def get_timer(self) -> float | None:
        if self.is_terminated:
            return None
        timer = self.connection.next_timer() if self._speaks else float("inf")
        if not self._detached and (theirs := self.handshaker.get_timer()) is not None:
            timer = min(timer, theirs)
        if self._ended is None:
            if not self._established:
                timer = min(timer, self._handshake_deadline)
            elif self._keeps_alive:
                timer = min(timer, self._keepalive_at())
        return timer if timer != float("inf") else None

    def handle_timer(self, now: float) -> None:
        self.now = now
        try:
            if not self._detached:
                theirs = self.handshaker.get_timer()
                self.handshaker.handle_timer(now)
                if theirs is not None and theirs <= now and self._established and not self.connection.confirmed:
                    self.connection.probe_with_handshake()
                if self._ended is None:
                    self._follow_handshake(now)
            if self._speaks:
                self.connection.handle_timer(now)
            if self.connection.has_events:
                self._handle_events()
        except PeerError as error:
            self._refuse(error)
        except Exception:
            self._fail("handling a timer")
        if self._ended is not None:
            return
        if not self._established:
            if now >= self._handshake_deadline:
                self.handshaker.close_by_engine(QuicErrorCode.NO_ERROR, "handshake timeout")
                self._end(Ended(End.HANDSHAKE_TIMED_OUT))
        elif self._keeps_alive and now >= self._keepalive_at():
            self._alive_at = now
            self.connection.send_probe()  # With a full congestion window, too: that is when it is needed.

    def log_to(self, folder: QlogFolder | None, now: float) -> None:
        log, file = self.connection.end_log(), self._qlog_file
        if log is not None:
            log.flush()
        if file is not None:
            file.close()
        self._qlog_file = None
        if folder is None or not self._established or self._ended is not None:
            return
        self._qlog_file = file = folder.open(self.handshaker.original_cid, is_client=self._is_client)
        if file is not None:
            log = Qlog(file.write, file.limit, now)
            log_beginning(log, self.handshaker, self.connection.route, now)
            self.connection.begin_log(log, now)

    # What the base asks.

    def _exporter(self) -> Exporter | None:
        return self.handshaker.exporter

    def _last_heard(self) -> float | None:
        return self.connection.last_heard

    def _lose_streams(self, ended: Ended) -> None:
        for stream in self.connection.end_streams(ended):
            self._guard(lambda stream=stream: stream.end(ended))  # type: ignore[misc] # the default binds it now

    def _close_by_engine(self, code: int, reason: str) -> None:
        if not self._detached:
            self.handshaker.close_by_engine(code, reason)
        if self._established:
            self.connection.close(code, False, reason, self.now)

    def _discard(self) -> None:
        if not self._detached:
            self.handshaker.discard()
        self.connection.discard()

    def _receive_failed(self, error: Exception) -> None:
        """A packet that came straight from a socket."""
        if isinstance(error, PeerError):
            self._refuse(error)
            return
        try:
            raise error
        except Exception:
            self._fail("handling a packet")

    def _log_end(self, ended: Ended) -> None:
        if (log := self.connection.log) is not None:
            log_end(log, ended, self.now)
            log.flush()

    # The border.

    def _receive_long(self, data: bytes, route: Route, now: float, ecn: int) -> None:
        self._handshake_received[0] += 1
        self._handshake_received[1] += len(data)
        self.handshaker.receive_datagram(data, route, now)
        if self._ended is None:
            self._follow_handshake(now)
        for kind, start, end in walk(data, LENGTH):
            if kind == "one_rtt":
                self.connection.receive(data[start:end], route, now, ecn)
        self._receive_zero_rtt(data, now, ecn)

    def _follow_handshake(self, now: float) -> None:
        """Take over what the handshake has brought up."""
        handshaker, connection = self.handshaker, self.connection
        for secret in handshaker.take_secrets():
            if secret.early:
                self._begin_early(secret)
            else:
                connection.install_key(secret.encrypt, secret.suite, secret.secret, secret.version)
        if not self._established and handshaker.is_complete and not handshaker.is_closing:
            self._establish(now)
        if tickets := handshaker.take_crypto():
            connection.write_crypto(tickets)
        self._read_early(now)
        if connection.sends_early:
            connection.set_peer_cid(handshaker.peer_cid)
        if self._established:
            connection.receive_early(now)
            if connection.any_acknowledged:
                handshaker.note_one_rtt_acked()
        if self._ended is None and (event := handshaker.close_event) is not None:
            self._end(ended_of(event, handshaker.closed_by, self._established))

    def _establish(self, now: float) -> None:
        handshaker, connection, handler = self.handshaker, self.connection, self._handler
        assert handler is not None
        parameters = handshaker.peer_parameters
        assert parameters is not None
        connection.set_route(handshaker.active_route, True)
        if self._early_parameters is None or self._is_client:
            connection.set_peer(parameters, handshaker.peer_cid, parameters.stateless_reset_token)
        if handshaker.rtt is not None:
            connection.set_rtt(handshaker.rtt)
        self._route = connection.route
        self._established = True
        self._alive_at = now
        self._alpn = handshaker.alpn or ""
        certificate = handshaker.peer_certificate
        self._peer_key = public_key_of(certificate) if certificate is not None else b""
        self._owner.session_established(self)
        if not self._is_client:
            connection.confirm(now)
            connection.send_handshake_done()
            connection.end_early(now)
            if isinstance(self._resumption, ServerResumption):
                self._resumption.issue(handshaker)
        elif self._early_parameters is not None:
            self._end_early(self._early_parameters, parameters)
            if self._ended is not None:
                return
        handler.handshake_completed()
        self._notice_datagram_size()

    # Early data (RFC 9001 §4.6).

    def _begin_early(self, secret: Secret) -> None:
        handshaker, connection = self.handshaker, self.connection
        parameters = handshaker.peer_parameters
        assert parameters is not None
        if self._is_client:
            parameters = remembered(parameters)
        if self._early_parameters is None:
            connection.set_peer(parameters, handshaker.peer_cid, None)
            self._early_parameters = parameters
        connection.install_early_key(secret.suite, secret.secret, secret.version)

    def _end_early(self, before: PeerParameters, parameters: PeerParameters) -> None:
        """A client has the server's word on its early data."""
        if self.handshaker.early_data_accepted:
            if is_reduced(before, parameters):
                raise PeerError(
                    "lower limits than those that early data was accepted for", QuicErrorCode.PROTOCOL_VIOLATION
                )
            return
        self.connection.early_rejected()
        if is_reduced(before, parameters):
            # RFC 9001 §4.6.2: what is open keeps to limits that do not hold any more.
            self.close(0, "early data was rejected, and the limits are lower now")

    def _receive_zero_rtt(self, data: bytes, now: float, ecn: int) -> None:
        """The 0-RTT packets of a datagram. A client discards them (RFC 9001 §5.6)."""
        if self._is_client or self._ended is not None:
            return
        packets = [(data[start:end], ecn) for kind, start, end in walk(data, LENGTH) if kind == "zero_rtt"]
        room = MOST_EARLY - len(self._early_packets)
        self._early_packets += packets[:room]
        self.connection.count_early_dropped(max(0, len(packets) - room))
        self._read_early(now)

    def _read_early(self, now: float) -> None:
        """What has come early, once it is known whether there are keys for it."""
        connection = self.connection
        if not self._early_packets or not (connection.reads_early or connection.can_send):
            return
        packets, self._early_packets = self._early_packets, []
        for packet, ecn in packets:
            connection.receive_early_packet(packet, now, ecn)

    def _detach(self) -> None:
        self._detached = True
        self.handshaker.detach()

    # Events.

    def _tell(self) -> None:
        handler = self._handler
        if handler is not None and self._tells and self._ended is None:
            self.connection.tell(handler.stream_opened)

    @property
    def _speaks(self) -> bool:
        """Whether the connection makes packets: a server not before the client's address is validated."""
        return self._established or self.connection.sends_early

    @property
    def _tells(self) -> bool:
        """Whether the handler may hear of what has come. Early data waits, unless it has been asked for."""
        if self._speaks:
            return True
        at_once = isinstance(self._resumption, ServerResumption) and self._resumption.hands_on_at_once
        return at_once and self._handler is not None

    def _handle_events(self) -> None:
        if not self._tells:
            return
        for event in self.connection.take_events():
            if self._ended is None:
                self._handle_event(event)

    def _handle_event(self, event: tuple[Any, ...]) -> None:
        handler = self._handler
        assert handler is not None
        match event:
            case ("datagram", data):
                handler.datagram_received(data, 0)
            case ("handshake_done",):
                self.handshaker.handshake_done_received()
                self.connection.confirm(self.now)
                self._go_where_preferred()
            case ("closed", application, code, reason):
                self._tell()
                self.connection.drain(self.now)
                by = ClosedBy.PEER_APPLICATION if application else ClosedBy.PEER_ENGINE
                self._end(ended_of(ConnectionTerminated(code, None, reason), by, self._established))
            case ("idle",):
                self._end(Ended(End.TIMED_OUT))
            case ("crypto", data):
                self.handshaker.receive_crypto(data)
            case ("early_over",):
                self._owner.early_over(self)
            case ("cid_retired", cid):
                self._owner.cid_retired(self, cid)
            case ("path", change, route, validated):
                self._route = self.connection.route
                self._owner.session_moved(self)
                handler.path_changed(PathEvent(PathChange[change.upper()], _network_path(route, validated)))
            case ("extra_acked", on_acked):
                on_acked()
            case ("datagram_size",):
                self._notice_datagram_size()

    def _go_where_preferred(self) -> None:
        parameters = self.handshaker.peer_parameters
        announced = parameters.preferred_address if parameters is not None else None
        if announced is None:
            return
        remote = preferred_of(announced.ipv4_address, announced.ipv6_address, self._route.remote)
        if remote is not None:
            self.connection.migrate(Route(self._route.local, remote, self._route.socket), True)

    def _notice_datagram_size(self) -> None:
        size = self.connection.max_datagram_size
        if size != self._max_datagram_size and self._established and self._ended is None and self._handler is not None:
            self._max_datagram_size = size
            self._handler.max_datagram_size_changed(size)

    def _refuse(self, error: PeerError) -> None:
        """The peer has broken the protocol."""
        self._close_by_engine(error.code or QuicErrorCode.PROTOCOL_VIOLATION, str(error))
        if self._ended is None:
            self._tell_what_came()
            self._end(ended_of(ConnectionTerminated(error.code, None, str(error)), ClosedBy.ENGINE, self._established))
        self.wake()

    def _tell_what_came(self) -> None:
        self._guard(self._tell)


MOST_DATAGRAMS = 64
"""``datagrams_to_send`` has stopped only to let others have their turn when it gives so many."""


def _network_path(route: Route, validated: bool) -> NetworkPath:
    return NetworkPath("udp", route.local, route.remote, validated)
