"""What a session's tunnel is at both ends: the protocol chosen, one-way streams, datagrams, deadlines, counters.

Read first: types.py here and in quic/. client.py and concentrator.py add flows and the control stream's meaning. A tunnel
is sans-IO: the session calls it, it calls the program's events, and time comes from the clock it is given. When
``timer_changed`` is called, or after a new tunnel was made, ask ``get_timer`` and call ``handle_timer`` at that time.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from ..quic.errors import Ended, PeerError
from ..quic.types import PathEvent, Session, Stream
from .control import Hello, Message
from .control_stream import ControlStream
from .datagram import decode_datagram
from .one_way import OneWayStreams
from .tlv import Wire
from .types import CloseCode


class State(enum.Enum):
    CONNECTING = "the handshake is under way"
    AUTHENTICATING = "waiting for authentication"
    READY = "ready"
    FAILING = "authentication has failed, and the peer is being told"
    ENDED = "over"


@dataclass(slots=True)
class TunnelCounters:
    """Since the tunnel began."""

    flows: int = 0
    """Flows opened."""
    flows_refused: int = 0
    """Flows answered with an Error TLV; at a client, flows that did not open."""
    requests_broken: int = 0
    """Requests answered with Unknown TLV or Malformed TLV."""
    streams_refused: int = 0
    """Bidirectional streams that the peer had no reason to open."""
    messages_ignored: int = 0
    """Control messages of unknown type."""
    datagrams_dropped: int = 0
    """DATAGRAM frames received; nobody takes them yet."""
    datagrams_malformed: int = 0


class Tunnel:
    """The common part; implements SessionHandler."""

    def __init__(
        self, session: Session, clock: Callable[[], float], timer_changed: Callable[[], None] | None, *, answers: bool
    ) -> None:
        self.session = session
        self.counters = TunnelCounters()
        self.wire: Wire | None = None
        """The protocol spoken; None before the handshake is complete."""
        self.state = State.CONNECTING
        self.peer_hello: Hello | None = None
        self.one_way = OneWayStreams(session, answers=answers)
        self._control: ControlStream | None = None
        self._clock = clock
        self._timer_changed = timer_changed
        session.set_handler(self)

    # What the program calls.

    @property
    def ended(self) -> bool:
        return self.state is State.ENDED

    def close(self, code: int = CloseCode.NO_ERROR, reason: str = "") -> None:
        """Close the session. Flows end with it, and ``tunnel_ended`` may be called before this returns."""
        self.session.close(code, reason)

    def get_timer(self) -> float | None:
        """When ``handle_timer`` is to be called, on the clock given; None: not at all."""
        raise NotImplementedError

    def handle_timer(self, now: float) -> None:
        """Do what is due at now; early and late calls do no harm. Ask ``get_timer`` again afterwards."""
        raise NotImplementedError

    # SessionHandler.

    def handshake_completed(self) -> None:
        try:
            self.wire = Wire(self.session.alpn)
        except ValueError:
            self.close(CloseCode.INTERNAL, "an application protocol was agreed on that is not ours")
            return
        self._begin(self.wire)

    def stream_opened(self, stream: Stream) -> None:
        if stream.is_bidirectional:
            self._bidirectional_opened(stream)
        else:
            self.one_way.opened(stream)

    def datagram_received(self, data: bytes, ecn: int) -> None:
        self.counters.datagrams_dropped += 1
        if self.wire is Wire.QUICSOCKS:
            try:
                decode_datagram(data)
            except PeerError:
                self.counters.datagrams_malformed += 1

    def max_datagram_size_changed(self, size: int) -> None: ...

    def path_changed(self, event: PathEvent) -> None: ...

    def session_ended(self, ended: Ended) -> None:
        self.state = State.ENDED
        self._control = None
        self._ended(ended)

    # ControlOwner.

    def control_message(self, message: Message) -> None:
        raise NotImplementedError

    def control_ignored(self, count: int) -> None:
        self.counters.messages_ignored += count

    def control_closed(self, how: str) -> None:
        self.close(CloseCode.PROTOCOL_VIOLATION, f"the control stream was {how}")

    def control_sent(self) -> None: ...

    def violation(self, error: PeerError) -> None:
        self.close(error.code or CloseCode.PROTOCOL_VIOLATION, str(error))

    # What the ends fill in.

    def _begin(self, wire: Wire) -> None:
        raise NotImplementedError

    def _bidirectional_opened(self, stream: Stream) -> None:
        raise NotImplementedError

    def _ended(self, ended: Ended) -> None:
        raise NotImplementedError

    def _tell_timer_changed(self) -> None:
        if self._timer_changed is not None:
            self._timer_changed()


def earliest(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)
