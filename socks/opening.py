"""One accepted connection that goes the ordinary way, a SOCKS5 CONNECT: callbacks from its first byte to its tunnel.

Read first: ``connection``, whose order this keeps, and ``types``. Programs open thousands of connections, and a task with
its timers and futures costs more than all that has to be done for one. So every connection begins here; what is not
ordinary, such as another protocol, an answer that the kernel does not take at once, or a last word to a client that is
refused, is handed over, with what has been read, to the coroutines of ``socks_session`` and ``http_session``.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Protocol

from .config import ListenerConfig
from .connection import Client, Ending, Outcome, Phase, Statistics
from .deadlines import Deadlines
from .errors import AccessDenied, PeerError
from .sockets import reset
from .socks5 import Command, Socks5Server, Verb
from .socks_session import finish_socks5, refuse, resume_socks5, serve_socks5
from .types import Bound, Exit, Failure, Flow, FlowError, Request
from .watch import Watch

READ_SIZE: Final = 4 << 10
"""Bytes read at once: more than any negotiation. What comes behind it is the flow's to read."""

Serve = Callable[[Client], Coroutine[Any, Any, Outcome]]
Protocols = Callable[[Client, bytes, float], Coroutine[Any, Any, Outcome]]


class Kind(enum.Enum):
    """What a connection was accepted for."""

    ORDINARY = enum.auto()
    REFUSED = enum.auto()
    """At a limit."""
    SPARE = enum.auto()
    """Without descriptors."""


class Door(Protocol):
    """The listener, as an opening sees it."""

    exit: Exit
    config: ListenerConfig
    counts: Statistics
    watch: Watch
    handshakes: Deadlines[Opening]
    connects: Deadlines[Opening]

    def protocol(self, first: int) -> Protocols | None:
        """What serves connections that begin with that byte, which it counts."""

    def take_over(self, opening: Opening, serve: Serve) -> None:
        """Serve the connection by a task."""

    def over(self, opening: Opening, error: Exception | None = None) -> None:
        """The connection is closed, or its flow's; error: internal."""


class Opening:
    """A connection of a listener, from accept to its end. sock: non-blocking. peer: as ``Client`` has it; key: what its
    address is counted as; since: loop time.

    The listener reads and writes what is public.
    """

    __slots__ = (
        "_codec",
        "_door",
        "_flow",
        "_over",
        "asked",
        "client",
        "evicted",
        "key",
        "kind",
        "peer",
        "phase_here",
        "since",
        "sock",
        "task",
    )

    def __init__(
        self, door: Door, sock: socket.socket, peer: tuple[str, int] | None, key: str | None, since: float, kind: Kind
    ) -> None:
        self._door = door
        self.sock = sock
        self.peer = peer
        self.key = key
        self.since = since
        self.kind = kind
        self.asked = False
        """Whether it has made a complete request; until then it may have to make room for others."""
        self.evicted = False
        """It is being closed to make room."""
        self.client: Client | None = None
        self.task: Any = None
        """Once it has been handed over."""
        self.phase_here = Phase.NEGOTIATING
        self._codec: Socks5Server | None = None
        self._flow: Flow | None = None
        self._over = False

    # What the listener calls.

    def begin(self) -> None:
        """Wait for the client's first bytes."""
        try:
            self._door.watch.add(self.sock, self._gone, readable=self._readable)
        except OSError:
            self._end()  # No room in the kernel for another watch.
            return
        self._door.handshakes.add(self)

    @property
    def phase(self) -> Phase:
        return self.client.phase if self.client is not None else self.phase_here

    @property
    def is_dispensable(self) -> bool:
        """As ``Client`` has it."""
        return self.client.is_dispensable if self.client is not None else not self.asked

    def close_soon(self) -> None:
        """The listener is closing: no further request is to be taken."""
        if self.client is not None:
            self.client.closing = True

    def abort(self) -> None:
        """Reset the flow that is open or being opened."""
        if self.client is not None:
            self.client.abort()
        elif self._flow is not None:
            self._flow.abort()

    def cancel(self) -> None:
        """Close at once, whatever it is doing; a flow that has the socket closes it when it has been told."""
        if self.task is not None:
            self.task.cancel()
        elif self.phase_here is Phase.OPEN:
            self.abort()
        else:
            self._end()

    def handshake_expired(self) -> None:
        """The request has not come in time."""
        self._door.counts.failed += 1
        self._hand_over(_close)

    def connect_expired(self) -> None:
        """The destination has not answered in time."""
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.abort()
        self._refuse(Failure.TIMED_OUT)

    # What the socket does.

    def _readable(self) -> None:
        try:
            data = self.sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._end()
            return
        try:
            self._received(data)
        except OSError:
            self._end()
        except Exception as error:
            self._end(error)

    def _gone(self, failed: bool) -> None:
        # Without failing: as ``Client`` has it. While it negotiates, reading tells what came before the end, and the end.
        # Once it is carried, the end is the flow's business.
        if self.phase_here is Phase.NEGOTIATING and (failed or self._flow is not None):
            self._end()

    # The negotiation.

    def _received(self, data: bytes) -> None:
        door, codec = self._door, self._codec
        if codec is None:
            if not data:
                self._end(gently=True)
                return
            serve = door.protocol(data[0])
            if serve is None:
                # Whatever it is, TLS to the wrong port or a guess, it would not understand an answer.
                door.counts.failed += 1
                self._end()
                return
            if serve is not serve_socks5:
                self._hand_over(lambda client: serve(client, data, self._deadline))
                return
            codec = self._codec = Socks5Server(door.config.credentials)
        elif not data:
            door.counts.failed += 1
            self._end(gently=True)
            return
        codec.receive_data(data)
        command: Command | None = None
        refusal: PeerError | None = None
        try:
            command = codec.next_event()
        except PeerError as error:
            refusal = error
        unsent = self._send(codec.data_to_send())
        if refusal is not None:
            if isinstance(refusal, AccessDenied):
                door.counts.denied += 1
            else:
                door.counts.failed += 1
            self._hand_over(partial(refuse, words=unsent + refusal.reply))
        elif unsent:
            self._hand_over(
                partial(resume_socks5, codec=codec, command=command, unsent=unsent, deadline=self._deadline)
            )
        elif command is not None:
            self._ask(codec, command)

    @property
    def _deadline(self) -> float:
        return self.since + self._door.config.handshake_timeout

    def _ask(self, codec: Socks5Server, command: Command) -> None:
        door = self._door
        if command.verb is not Verb.CONNECT:
            self._hand_over(partial(refuse, words=codec.unsupported()))
            return
        self.asked = True
        door.handshakes.discard(self)
        # What it sends now stays in the kernel, where the flow will find it.
        door.watch.on_readable(self.sock, None)
        door.counts.flows += 1
        flow = self._flow = door.exit.open(Request(command.host, command.port, "socks5", self.peer, command.user))
        door.connects.add(self)
        flow.when_connected(self._answered)

    def _answered(self, outcome: Bound | FlowError) -> None:
        flow = self._flow
        if flow is None or self._over or self.client is not None:
            return
        if isinstance(outcome, FlowError):
            self._flow = None
            self._refuse(outcome.failure)
            return
        door, codec = self._door, self._codec
        assert codec is not None
        try:
            unsent = self._send(codec.succeed(outcome))
        except OSError:
            self._end()
            return
        door.connects.discard(self)
        if unsent:
            self._hand_over(partial(finish_socks5, codec=codec, flow=flow, unsent=unsent))
            return
        self.phase_here = Phase.OPEN
        flow.carry(self.sock, codec.remainder, self._carried)

    def _carried(self, error: Exception | None) -> None:
        if not self._over:
            self._over = True
            self._flow = None
            if error is not None:
                reset(self.sock)
            self._door.over(self, error)

    # Ends.

    def _refuse(self, failure: Failure) -> None:
        assert self._codec is not None
        self._hand_over(partial(refuse, words=self._codec.fail(failure)))

    def _send(self, data: bytes) -> bytes:
        """What the kernel does not take of data. Raises OSError."""
        if not data:
            return data
        try:
            return data[self.sock.send(data) :]
        except (BlockingIOError, InterruptedError):
            return data

    def _hand_over(self, serve: Serve) -> None:
        self._forget()
        self._door.take_over(self, serve)

    def _end(self, error: Exception | None = None, *, gently: bool = False) -> None:
        """Close: with a reset, or gently when the client has ended its direction and nothing of it is unread."""
        if self._over:
            return
        self._over = True
        self._forget()
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.abort()
        self._door.watch.discard(self.sock, closing=True)
        if gently:
            self.sock.close()
        else:
            reset(self.sock)
        self._door.over(self, error)

    def _forget(self) -> None:
        self._door.handshakes.discard(self)
        self._door.connects.discard(self)


async def _close(_client: Client) -> Outcome:
    return Ending.GENTLY
