"""One stream of the aioquic engine: what the handler sees of it.

Sending goes straight to aioquic's buffers; receiving comes from the session, which hands on events. Credit (RFC 9000
§4) follows consumption: the peer's limits are raised only for octets that the handler has ``consumed``, or that will
never be. Read ``types`` first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from aioquic.quic.stream import QuicStream

from .aioquic_internals.streams import receiver_of, sender_of, stream_id_of
from .errors import Ended, LocalError
from .types import StreamHandler

if TYPE_CHECKING:
    from .aioquic_session import AioquicSession

GROWTH_RTTS = 4
"""Round trips in which a window must have been consumed to grow: one for the data, one for the credit, and as many for
readers that work in bursts."""

WRITE_PAST_PAUSE = 1 << 20
"""Bytes a caller may still write after ``pause_writing`` before ``write`` refuses: one large read already under way."""


class AioquicStream:
    """Implements ``types.Stream``."""

    __slots__ = (
        "_can_receive",
        "_can_send",
        "_credited",
        "_delivered",
        "_final",
        "_final_code",
        "_finishing",
        "_handler",
        "_held",
        "_held_stop",
        "_id",
        "_is_local",
        "_over",
        "_past_pause",
        "_paused",
        "_receive_over",
        "_receiver",
        "_released",
        "_reset",
        "_send_over",
        "_sender",
        "_session",
        "_stop_seen",
        "_stopped",
        "_stream",
        "_window",
        "_window_began",
        "_window_used",
    )

    def __init__(self, session: AioquicSession, stream: QuicStream, window: int) -> None:
        self._session = session
        self._stream = stream
        self._id = stream_id_of(stream)
        self._is_local = (self._id & 1 == 0) == session.is_client
        self._sender = sender_of(stream)
        self._receiver = receiver_of(stream)
        self._handler: StreamHandler | None = None
        self._over = False  # Nothing more is called.

        self._can_send = self._is_local or self._id & 2 == 0
        self._send_over = not self._can_send  # All has been acknowledged.
        self._finishing = False
        self._reset = False
        self._paused = False
        self._past_pause = 0
        self._stop_seen = False
        self._held_stop: int | None = None

        self._can_receive = not self._is_local or self._id & 2 == 0
        self._receive_over = not self._can_receive  # The handler has heard the last of it.
        self._window = window
        self._window_used = 0  # Octets consumed since the window began or grew.
        self._window_began = session.now
        self._held: deque[bytes] = deque()
        self._delivered = 0  # Octets given to the handler, or dropped.
        self._credited = 0  # Octets whose credit has been returned.
        self._released = False  # Whatever comes is credited at once.
        self._stopped = False
        self._final = ""  # "fin" or "reset" once it has arrived.
        self._final_code = 0

    # What the room above calls.

    @property
    def id(self) -> int:
        return self._id

    @property
    def is_local(self) -> bool:
        return self._is_local

    @property
    def is_bidirectional(self) -> bool:
        return self._id & 2 == 0

    @property
    def send_buffered(self) -> int:
        return 0 if self._over else self._sender.unsent

    def set_handler(self, handler: StreamHandler) -> None:
        self._handler = handler
        if self._held or self._final or self._held_stop is not None:
            self._session.defer(self._deliver)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._can_send:
            raise LocalError(f"stream {self._id} is receive-only")
        session = self._session
        if session.ended is not None:
            return
        if self._finishing or self._reset:
            raise LocalError(f"write on stream {self._id} after finish or reset")
        sender = self._sender
        if self._paused:
            self._past_pause += len(data)
            if self._past_pause > WRITE_PAST_PAUSE:
                raise LocalError(f"stream {self._id}: {WRITE_PAST_PAUSE} bytes written past pause_writing")
        sender.write(data)
        if not self._paused and sender.unsent > session.send_high_water:
            self._paused = True
            self._past_pause = 0
            sender.resume_below = session.send_high_water // 4
            if self._handler is not None:
                self._handler.pause_writing()
        session.wake()

    def pump(self, descriptor: int, on_full: Callable[[], None], on_error: Callable[[OSError], None]) -> None:
        return None

    def finish(self) -> None:
        if not self._can_send:
            raise LocalError(f"stream {self._id} is receive-only")
        if self._finishing or self._reset or self._session.ended is not None:
            return
        self._finishing = True
        self._sender.write(b"", end_stream=True)
        self._session.wake()

    def reset(self, code: int) -> None:
        if not self._can_send:
            raise LocalError(f"stream {self._id} is receive-only")
        if self._reset or self._send_over or self._session.ended is not None:
            return
        self._reset = True
        self._paused = False
        self._sender.abort(code)
        self._session.wake()

    def stop_sending(self, code: int) -> None:
        if not self._can_receive:
            raise LocalError(f"stream {self._id} is send-only")
        if self._session.ended is not None:
            return
        first = not self._stopped
        self._stopped = True
        self._release()
        if self._final:
            self._end_receiving()
        elif first:
            self._receiver.stop(code)
            self._session.wake()

    def consumed(self, size: int) -> None:
        if not self._can_receive:
            raise LocalError(f"stream {self._id} is send-only")
        if self._released or self._session.ended is not None:
            return
        if not 0 <= size <= self._delivered - self._credited:
            raise LocalError(
                f"stream {self._id}: {size} bytes consumed of {self._delivered - self._credited} delivered"
            )
        self._credited += size
        self._return_credit(size)

    # What the session calls, from the loop.

    def receive(self, data: bytes, fin: bool) -> None:
        if self._over:
            return
        if fin:
            self._final = "fin"
        if self._released:
            self._release()
        elif self._handler is None or self._held:
            if data:
                self._held.append(data)
        elif data:
            self._delivered += len(data)
            self._handler.data_received(data)
        if fin:
            self._deliver_final()

    def receive_reset(self, code: int) -> None:
        self._final = "reset"
        self._final_code = code
        self._release()
        self._deliver_final()

    def receive_stop(self, code: int) -> None:
        if self._stop_seen:
            return  # Sent again by the peer, whose packet was lost.
        self._stop_seen = True
        self._held_stop = code
        self._deliver_stop()

    def complete_sending(self) -> None:
        """All, or the reset, has been acknowledged."""
        if self._over or self._send_over:
            return
        self._send_over = True
        if self._handler is not None:
            self._handler.send_completed()
        self._forget_if_over()

    def resume(self) -> None:
        """The send buffer has drained."""
        if not self._paused or self._over:
            return
        self._paused = False
        if self._handler is not None:
            self._handler.resume_writing()

    def lose(self, ended: Ended) -> None:
        """The session is over."""
        if self._over:
            return
        self._over = True
        self._held.clear()
        if self._handler is not None:
            self._handler.connection_lost(ended)

    # Below.

    def _deliver(self) -> None:
        """Hand on what was held until there was a handler."""
        while self._held and self._handler is not None:
            data = self._held.popleft()
            self._delivered += len(data)
            self._handler.data_received(data)
        self._deliver_stop()
        self._deliver_final()

    def _deliver_stop(self) -> None:
        if self._over or self._handler is None or self._held_stop is None:
            return
        code, self._held_stop = self._held_stop, None
        if not self._reset and not self._send_over:
            self._handler.stop_received(code)

    def _deliver_final(self) -> None:
        if self._over or self._receive_over or self._held or not self._final:
            return
        if self._stopped and self._final == "fin":
            self._end_receiving()
            return
        if self._handler is None:
            return
        self._receive_over = True
        if self._final == "fin":
            self._handler.eof_received()
        else:
            self._handler.reset_received(self._final_code)
        self._forget_if_over()

    def _release(self) -> None:
        """The handler will consume no more: credit all that has arrived, now and whenever more arrives. The final size
        counts in full, since the peer has taken credit for it (RFC 9000 §4.5)."""
        self._released = True
        self._held.clear()
        arrived = self._receiver.highest_offset
        owed = arrived - self._credited
        self._delivered = self._credited = arrived
        if owed > 0:
            self._return_credit(owed)

    def _return_credit(self, size: int) -> None:
        self._session.credit(size)
        if self._final:
            return
        self._grow(size)
        # A quarter of the window at a time: few frames, and the peer never waits for one while we keep up.
        window = self._session.window_for(self._window)
        if self._credited + window - self._stream.max_stream_data_local >= window >> 2:
            self._session.raise_stream_limit(self._stream, self._credited + window)

    def _grow(self, size: int) -> None:
        """A window that is consumed in a few round trips is what holds the peer back: double it, as others do."""
        self._window_used += size
        if self._window_used < self._window:
            return
        now = self._session.now
        if now - self._window_began < GROWTH_RTTS * self._session.smoothed_rtt:
            self._window = min(self._window * 2, self._session.limits.stream_window)
        self._window_used = 0
        self._window_began = now

    def _end_receiving(self) -> None:
        self._receive_over = True
        self._forget_if_over()

    def _forget_if_over(self) -> None:
        if self._receive_over and self._send_over and not self._over:
            self._over = True
            self._session.forget(self._stream)
