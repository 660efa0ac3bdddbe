"""The client's tunnel: proves the identity, opens flows, hears limits and goodbyes.

Read first: common.py, docs/protocol.md. The order of a session on ``quicsocks/1``: handshake; then HELLO and AUTH on
stream 0 and, right behind them, flows, as far as EarlyBudget goes; AUTH_OK lets everything go. On ``qt`` flows begin at
once, on stream 0. Nothing is sent before the handshake has verified the peer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from ..quic.errors import End, Ended, LocalError
from ..quic.types import (
    Address,
    DialConfig,
    Endpoint,
    PathEvent,
    Priority,
    Session,
    Stream,
)
from .addresses import REMEMBERED, forbidden, parse_literal
from .authentication import make_auth
from .client_flow import ClientFlow, EarlyBudget
from .common import State, Tunnel
from .control import MAX_MESSAGE, VERSION, AuthFailed, AuthOK, Goodbye, Hello, LimitsChanged, Message, violation
from .control_stream import ControlStream
from .flow import Flow
from .one_way import RefusedStream
from .preamble import request
from .tlv import Wire
from .types import (
    AuthFailure,
    Cause,
    ClientEvents,
    CloseCode,
    Destination,
    FlowFailed,
    FlowHandler,
    Identity,
    TunnelFlow,
    TunnelLimits,
)

AUTH_ANSWER_TIMEOUT = 10.0
"""Seconds from our AUTH to the answer: twice what a concentrator waits for it, so that its own word comes first."""
MAX_DRAIN = 24 * 3600.0
"""Seconds; the longest drain that is believed."""


class ClientTunnel(Tunnel):
    """identity: None on ``qt``, which has no authentication.

    opened: called when ``usable`` becomes true, which is before ``tunnel_ready``: flows may be opened from then on, and
    save a round trip.
    """

    def __init__(
        self,
        session: Session,
        *,
        identity: Identity | None,
        events: ClientEvents,
        clock: Callable[[], float],
        timer_changed: Callable[[], None] | None = None,
        opened: Callable[[], None] | None = None,
        features: dict[int, bytes] | None = None,
    ) -> None:
        super().__init__(session, clock, timer_changed, answers=False)
        self.limits = TunnelLimits()
        self.name = ""
        """What the concentrator calls us; empty before it has."""
        self.going_away = False
        self._identity = identity
        self._events = events
        self._opened = opened
        self._features = features if features is not None else {}
        self._flows: dict[int, ClientFlow] = {}
        self._budget: EarlyBudget | None = None
        self._auth_deadline: float | None = None
        self._auth_failure: int | None = None

    @classmethod
    def dial(
        cls,
        endpoint: Endpoint,
        remote: Address,
        config: DialConfig,
        *,
        identity: Identity | None,
        events: ClientEvents,
        clock: Callable[[], float],
        timer_changed: Callable[[], None] | None = None,
        opened: Callable[[], None] | None = None,
    ) -> ClientTunnel:
        """Dial, and put a tunnel on the session before it can have called anyone."""
        session = endpoint.dial(remote, config, _Nobody())
        return cls(session, identity=identity, events=events, clock=clock, timer_changed=timer_changed, opened=opened)

    @property
    def usable(self) -> bool:
        """Whether ``open_flow`` may be called: the peer is verified, is not going away, and the session lives."""
        return self.state in (State.AUTHENTICATING, State.READY) and not self.going_away

    @property
    def open_flows(self) -> int:
        return len(self._flows)

    def open_flow(
        self,
        destination: Destination,
        handler: FlowHandler,
        *,
        priority: Priority = Priority.NORMAL,
        early: bytes = b"",
    ) -> TunnelFlow:
        """Ask for a connection to destination. early: data to go out in one write with the request.

        Raises LocalError when the tunnel is not ``usable``, or the destination cannot be written (on ``qt`` that is
        every host name). Raises FlowFailed when it is known by now that the flow cannot be: ADDRESS_PROHIBITED for an
        address that the protocol excludes, LIMIT when too many streams wait already, GOING_AWAY.
        """
        if self.going_away:
            raise FlowFailed(Cause.GOING_AWAY, "the concentrator takes no new flows")
        if self.wire is None or not self.usable:
            raise LocalError(f"no flow can be opened: {self.state.value}")
        octets, reason = _prepared(destination, self.wire)
        if reason:
            raise FlowFailed(Cause.ADDRESS_PROHIBITED, reason)
        try:
            stream = self.session.open_stream(priority=priority)
        except LocalError as error:
            raise FlowFailed(Cause.LIMIT, str(error)) from error
        flow = ClientFlow(stream, destination, self.wire, handler, self._forget, self._budget)
        self._flows[stream.id] = flow
        self.counters.flows += 1
        flow.send_request(octets + early if early else octets)
        return flow

    def get_timer(self) -> float | None:
        return self._auth_deadline

    def handle_timer(self, now: float) -> None:
        if self._auth_deadline is not None and now >= self._auth_deadline:
            self._auth_deadline = None
            self._fail(AuthFailure.TIMED_OUT)

    # From the session.

    def _begin(self, wire: Wire) -> None:
        if wire is Wire.QT:
            self.state = State.READY
            self.one_way.open_port_mapping()
            self._tell_opened()
            self._events.tunnel_ready(self.limits)
            return
        if self._identity is None:
            self.close(CloseCode.INTERNAL, "no identity to prove on quicsocks/1")
            return
        self.state = State.AUTHENTICATING
        self._budget = EarlyBudget()
        self._auth_deadline = self._clock() + AUTH_ANSWER_TIMEOUT
        stream = self.session.open_stream(priority=Priority.CONTROL)
        if stream.id != 0:
            raise LocalError(f"the control stream would be stream {stream.id}: the session was used before")
        self._control = ControlStream(stream, self, MAX_MESSAGE)
        self._control.send(Hello(VERSION, self._features), make_auth(self.session, self._identity))
        self._tell_timer_changed()
        self._tell_opened()

    def _bidirectional_opened(self, stream: Stream) -> None:
        # A concentrator opens one for an inbound connection on a mapped port; nothing is mapped.
        self.counters.streams_refused += 1
        RefusedStream(stream)

    def _ended(self, ended: Ended) -> None:
        self._auth_deadline = None
        if self._auth_failure is not None:
            ended = Ended(End.PEER_CLOSED, self._auth_failure, ended.reason)
        self._events.tunnel_ended(ended)

    # From the control stream.

    def control_message(self, message: Message) -> None:
        match message:
            case Hello():
                if self.peer_hello is not None:
                    raise violation("a second HELLO")
                self.peer_hello = message
                return
            case _ if self.peer_hello is None:
                raise violation("the first message is not HELLO")
            case AuthOK(name, limits) if self.state is State.AUTHENTICATING:
                self._authenticated(name, limits)
            case AuthFailed(code) if self.state is State.AUTHENTICATING:
                self._fail(code)
            case LimitsChanged(limits) if self.state is State.READY:
                self.limits = limits
            case Goodbye(reason, drain) if self.state is State.READY:
                self.going_away = True
                self._events.tunnel_goodbye(reason, min(drain / 1000, MAX_DRAIN))
            case _:
                raise violation(f"{type(message).__name__} where it has no place")

    def control_closed(self, how: str) -> None:
        if self._auth_failure is None:
            super().control_closed(how)

    def _authenticated(self, name: str, limits: TunnelLimits) -> None:
        self.state = State.READY
        self.name = name
        self.limits = limits
        self._auth_deadline = None
        self._budget = None
        self._tell_timer_changed()
        for flow in list(self._flows.values()):
            flow.release()
        self._events.tunnel_ready(limits)

    def _fail(self, code: int) -> None:
        self._auth_failure = code
        try:
            reason = AuthFailure(code).name.lower().replace("_", " ")
        except ValueError:
            reason = f"failure {code:#x}"
        self.close(code, f"authentication: {reason}")

    # From the flows, and to the program.

    def _forget(self, flow: Flow) -> None:
        self._flows.pop(flow.id, None)
        if flow.was_refused:
            self.counters.flows_refused += 1

    def _tell_opened(self) -> None:
        if self._opened is not None and self.usable:
            self._opened()


@lru_cache(REMEMBERED)
def _prepared(destination: Destination, wire: Wire) -> tuple[bytes, str]:
    """A request, and why the protocol excludes its destination, or "". Raises LocalError."""
    address = parse_literal(destination.host)
    octets = request(destination, wire)
    return octets, forbidden(address, loopback=wire is Wire.QT) if address is not None else ""


class _Nobody:
    """Holds a session's place of a handler until the tunnel is there; nothing can be called by then."""

    def handshake_completed(self) -> None: ...

    def stream_opened(self, stream: Stream) -> None: ...

    def datagram_received(self, data: bytes, ecn: int) -> None: ...

    def max_datagram_size_changed(self, size: int) -> None: ...

    def path_changed(self, event: PathEvent) -> None: ...

    def session_ended(self, ended: Ended) -> None: ...
