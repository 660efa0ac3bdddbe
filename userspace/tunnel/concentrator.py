"""The concentrator's tunnel: one client's session. It authenticates, hands on requests, keeps limits, says goodbye.

Read first: common.py, docs/protocol.md "Authentication", "Order" and "Limits". Streams may arrive in any order, flows
before the control stream. Until the client is authenticated nothing is handed to the program; a few flows and octets are
held, for a few seconds. On ``qt``, which knows no authentication, a client is ready at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..quic.errors import Ended
from ..quic.types import Session, Stream
from .authentication import verify_auth
from .client_flow import EARLY_FLOWS, EARLY_OCTETS
from .common import State, Tunnel, earliest
from .concentrator_flow import ConcentratorFlow
from .control import (
    MAX_MESSAGE,
    MAX_MESSAGE_UNAUTHENTICATED,
    VERSION,
    Auth,
    AuthFailed,
    AuthOK,
    Goodbye,
    Hello,
    LimitsChanged,
    Message,
    violation,
)
from .control_stream import ControlStream
from .flow import Flow, Stage
from .tlv import TLVError, Wire
from .types import AuthFailure, AuthRefused, Cause, CloseCode, ConcentratorEvents, TunnelLimits

AUTH_TIMEOUT = 5.0
"""Seconds from the handshake's end to a proven key: the AUTH rides in the client's first packets; the rest is for loss."""
AUTH_FAILED_LINGER = 1.0
"""Seconds in which AUTH_FAILED may be acknowledged before the session is closed over it: a lost packet or two."""
REQUEST_TIMEOUT = 10.0
"""Seconds from a stream's beginning to the end of its request. A request is one packet; the rest is for loss."""
MAX_EXCESS_FLOWS = 64
"""Flows beyond EARLY_FLOWS that an unauthenticated client is answered before its session is closed."""

DEFAULT_LIMITS = TunnelLimits(max_flows=4096, max_pending=256)
"""A busy browser holds some hundred connections and opens some dozens at once; a flow costs a socket and its buffers."""


class ConcentratorTunnel(Tunnel):
    """limits: where the authorisation of a client says 0, and for ``qt``. allow_qt: see docs/protocol.md "qt".
    auth_timeout: seconds from the handshake's end to a proven key."""

    def __init__(
        self,
        session: Session,
        *,
        events: ConcentratorEvents,
        clock: Callable[[], float],
        limits: TunnelLimits = DEFAULT_LIMITS,
        allow_qt: bool = False,
        auth_timeout: float = AUTH_TIMEOUT,
        timer_changed: Callable[[], None] | None = None,
        features: dict[int, bytes] | None = None,
    ) -> None:
        super().__init__(session, clock, timer_changed, answers=True)
        self._auth_timeout = auth_timeout
        self.limits = limits
        self.name = ""
        """What the authorisation called the client."""
        self.public_key = b""
        """The key that the client has proved; empty before, and on ``qt``."""
        self.going_away = False
        self._events = events
        self._allow_qt = allow_qt
        self._default_limits = limits
        self._features = features if features is not None else {}
        self._flows: dict[int, ConcentratorFlow] = {}
        """Every flow whose stream needs attention, the refused ones included."""
        self._pending: set[ConcentratorFlow] = set()
        """Handed to the program and not answered."""
        self._counted: set[ConcentratorFlow] = set()
        """Handed to the program and not over."""
        self._waiting: list[ConcentratorFlow] = []
        """Requests that came before the authentication."""
        self._requests: deque[tuple[float, ConcentratorFlow]] = deque()
        """Deadlines of requests not yet complete, oldest first; those that are stay until they come to the front."""
        self._early_octets = 0
        self._excess_flows = 0
        self._auth_deadline: float | None = None
        self._auth_failure = AuthFailure.TIMED_OUT
        self._linger_deadline: float | None = None
        self._drain_deadline: float | None = None
        self._told_deadline: float | None = None
        """What ``get_timer`` has said last, and not heard of since: nothing later need be told."""
        self._goodbye = ""

    # What the program calls.

    @property
    def open_flows(self) -> int:
        """Flows that the program has been handed and that are not over."""
        return len(self._counted)

    @property
    def pending_flows(self) -> int:
        """Those of them that are not answered."""
        return len(self._pending)

    def set_limits(self, limits: TunnelLimits) -> None:
        """Change the client's limits; flows beyond a lower one live on. 0 takes the tunnel's default."""
        self.limits = self._effective(limits)
        if self._control is not None and self.state is State.READY:
            self._control.send(LimitsChanged(self.limits))

    def goodbye(self, reason: str, drain: float) -> None:
        """Take no new flow; close the session when those open are over, or after drain seconds."""
        if self.going_away or self.state is State.ENDED:
            return
        self.going_away = True
        self._goodbye = reason
        if self._control is not None and self.state is State.READY:
            self._control.send(Goodbye(reason, max(0, round(drain * 1000))))
        self._drain_deadline = self._clock() + drain if self._flows else self._clock()
        self._tell_timer_changed()

    def revoke(self, reason: str = "") -> None:
        """The client's key is of no use any more: close at once."""
        self.close(CloseCode.REVOKED, reason or "this client has been revoked")

    def get_timer(self) -> float | None:
        self._drop_settled_requests()
        request = self._requests[0][0] if self._requests else None
        self._told_deadline = earliest(self._auth_deadline, self._linger_deadline, self._drain_deadline, request)
        return self._told_deadline

    def handle_timer(self, now: float) -> None:
        self._told_deadline = None
        if self._auth_deadline is not None and now >= self._auth_deadline:
            self._fail(AuthFailure.TIMED_OUT)
        if self._linger_deadline is not None and now >= self._linger_deadline:
            self._close_after_failure()
        if self._drain_deadline is not None and now >= self._drain_deadline:
            self.close(CloseCode.GOING_AWAY, self._goodbye)
        while self._requests and self._requests[0][0] <= now:
            flow = self._requests.popleft()[1]
            if flow.stage is Stage.PREAMBLE:
                flow.refuse(Cause.TIMED_OUT)

    # From the session.

    def _begin(self, wire: Wire) -> None:
        if wire is Wire.QT:
            if not self._allow_qt:
                self.close(CloseCode.PROTOCOL_VIOLATION, "ALPN qt is not served here")
                return
            self.state = State.READY
            self.one_way.open_port_mapping()
            self._events.tunnel_ready()
            return
        self.state = State.AUTHENTICATING
        self._auth_deadline = self._clock() + self._auth_timeout
        self._tell_timer_changed()

    def _bidirectional_opened(self, stream: Stream) -> None:
        assert self.wire is not None
        if stream.id == 0 and self.wire is Wire.QUICSOCKS:
            self._control = ControlStream(stream, self, MAX_MESSAGE_UNAUTHENTICATED)
            return
        flow = ConcentratorFlow(stream, self.wire, self)
        self._flows[stream.id] = flow
        self.counters.flows += 1
        if self.state is State.FAILING:
            flow.refuse(Cause.NOT_AUTHENTICATED)
        elif self.state is State.AUTHENTICATING and len(self._flows) > EARLY_FLOWS:
            self._refuse_excess(flow)
        else:
            # Whoever drives the timer looks again when the last deadline that was told has passed, if not sooner.
            if self._requests:
                self._drop_settled_requests()
            due = self._clock() + REQUEST_TIMEOUT
            self._requests.append((due, flow))
            if self._told_deadline is None or self._told_deadline > due:
                self._tell_timer_changed()

    def _ended(self, ended: Ended) -> None:
        self._auth_deadline = self._linger_deadline = self._drain_deadline = None
        self._requests.clear()
        self._waiting.clear()
        self._events.tunnel_ended(ended)

    # From the control stream.

    def control_message(self, message: Message) -> None:
        if self.state is State.FAILING:
            return
        match message:
            case Hello():
                if self.peer_hello is not None:
                    raise violation("a second HELLO")
                self.peer_hello = message
            case _ if self.peer_hello is None:
                raise violation("the first message is not HELLO")
            case Auth() if self.state is State.AUTHENTICATING:
                self._authenticate(message)
            case _:
                raise violation(f"{type(message).__name__} where it has no place")

    def control_closed(self, how: str) -> None:
        if self.state is State.FAILING:
            self._close_after_failure()
        else:
            super().control_closed(how)

    def control_sent(self) -> None:
        if self.state is State.FAILING:
            self._close_after_failure()

    def _authenticate(self, auth: Auth) -> None:
        try:
            verify_auth(self.session, auth)
            authorised = self._events.authorise(auth.public_key, auth.token, auth.label)
        except AuthRefused as refused:
            self._fail(refused.failure)
            return
        assert self._control is not None
        self.state = State.READY
        self.name = authorised.name
        self.public_key = auth.public_key
        self.limits = self._effective(authorised.limits)
        self._auth_deadline = None
        self._control.allow_messages_of(MAX_MESSAGE)
        self._control.send(Hello(VERSION, self._features), AuthOK(self.name, self.limits))
        if self.going_away and self._drain_deadline is not None:
            self._control.send(Goodbye(self._goodbye, max(0, round((self._drain_deadline - self._clock()) * 1000))))
        self._tell_timer_changed()
        self._events.tunnel_ready()
        waiting, self._waiting = self._waiting, []
        for flow in waiting:
            if flow.stage is Stage.PENDING:
                self._hand_on(flow)

    def _fail(self, failure: AuthFailure) -> None:
        self.state = State.FAILING
        self._auth_failure = failure
        self._auth_deadline = None
        self._waiting.clear()
        if self._control is None:
            self._close_after_failure()
            return
        for flow in list(self._flows.values()):
            flow.refuse(Cause.NOT_AUTHENTICATED)
        # A CONNECTION_CLOSE alone may be lost, and is not repeated unless the client speaks.
        self._control.send(Hello(VERSION, self._features), AuthFailed(failure))
        self._control.finish()
        self._linger_deadline = self._clock() + AUTH_FAILED_LINGER
        self._tell_timer_changed()

    def _close_after_failure(self) -> None:
        self._linger_deadline = None
        self.close(self._auth_failure, f"authentication: {self._auth_failure.name.lower().replace('_', ' ')}")

    # FlowOwner.

    def admit(self, size: int) -> bool:
        if self.state is State.READY:
            return True
        self._early_octets += size
        return self.state is State.AUTHENTICATING and self._early_octets <= EARLY_OCTETS

    def request_complete(self, flow: ConcentratorFlow) -> None:
        if self.state is State.AUTHENTICATING:
            self._waiting.append(flow)
        else:
            self._hand_on(flow)

    def flow_left_pending(self, flow: ConcentratorFlow, *, accepted: bool) -> None:
        self._pending.discard(flow)
        if not accepted:
            self._counted.discard(flow)

    def flow_over(self, flow: Flow) -> None:
        found = self._flows.pop(flow.id, None)
        if found is not None:
            self._pending.discard(found)
            self._counted.discard(found)
        if flow.was_refused:
            self.counters.flows_refused += 1
        if self.going_away and not self._flows and self.state is not State.ENDED:
            # By way of the timer: the flow's handler has to hear its end before the tunnel's.
            self._drain_deadline = self._clock()
            self._tell_timer_changed()

    def request_broken(self, error: TLVError) -> None:
        self.counters.requests_broken += 1

    def _hand_on(self, flow: ConcentratorFlow) -> None:
        if self.going_away:
            flow.refuse(Cause.GOING_AWAY)
        elif _reached(self.limits.max_flows, self._counted) or _reached(self.limits.max_pending, self._pending):
            flow.refuse(Cause.LIMIT)
        else:
            self._pending.add(flow)
            self._counted.add(flow)
            self._events.flow_requested(flow)

    def _refuse_excess(self, flow: ConcentratorFlow) -> None:
        self._excess_flows += 1
        flow.refuse(Cause.NOT_AUTHENTICATED)
        if self._excess_flows > MAX_EXCESS_FLOWS:
            self.close(CloseCode.LIMIT_EXCEEDED, "too many flows before authentication")

    def _drop_settled_requests(self) -> None:
        while self._requests and self._requests[0][1].stage is not Stage.PREAMBLE:
            self._requests.popleft()

    def _effective(self, limits: TunnelLimits) -> TunnelLimits:
        default = self._default_limits
        return TunnelLimits(
            limits.max_flows or default.max_flows,
            limits.max_pending or default.max_pending,
            limits.bytes_per_second or default.bytes_per_second,
        )


def _reached(limit: int, flows: set[ConcentratorFlow]) -> bool:
    return limit != 0 and len(flows) >= limit
