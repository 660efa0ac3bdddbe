"""One end of a stream in memory: buffers, flow control, half-closes and resets, as on the wire but for the packets.

Read ``types`` and ``memory`` first: the session and the link above own these and give them their turns.

This file must not import asyncio, socket, time or random.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .errors import Ended, LocalError
from .types import Priority, StreamHandler

if TYPE_CHECKING:
    from .memory import MemorySession

WRITE_PAST_PAUSE = 1 << 20
"""Bytes a caller may still write after ``pause_writing`` before ``write`` refuses: one large read already under way."""


class Lane:
    """Events of one stream end or session, in order."""

    __slots__ = ("events", "priority")

    def __init__(self, priority: int) -> None:
        self.events: deque[Callable[[], None]] = deque()
        self.priority = priority


class MemoryStream:
    """One end of a stream of a ``MemoryLink``; implements ``types.Stream``."""

    def __init__(self, session: MemorySession, stream_id: int, priority: Priority) -> None:
        self.priority = priority
        self._session = session
        self._link = session.link
        self._id = stream_id
        self._lane = Lane(priority)
        self._handler: StreamHandler | None = None
        self._over = False
        """Nothing more is called."""

        self._can_send = self.is_bidirectional or self.is_local
        self._buffer = bytearray()
        self._sent = 0
        self._send_limit = session._peer.limits.stream_window
        self._finishing = False
        self._reset_code: int | None = None
        self._paused = False
        self._past_pause = 0
        self._send_over = not self._can_send
        """FIN or RESET_STREAM has arrived at the other end."""
        self._send_acknowledged = False
        """... and we know it: ``send_completed`` has been called."""
        self._pumping = False
        self._accepted = False
        """The other end exists or existed."""

        self._can_receive = self.is_bidirectional or not self.is_local
        self._held: deque[bytes] = deque()
        self._final: str = ""
        """"fin" or "reset" once it has arrived."""
        self._final_code = 0
        self._held_stop: int | None = None
        self._unconsumed = 0
        """Bytes arrived and not credited yet."""
        self._stopped = False
        self._waiting_stop: int | None = None
        self._credit_released = False
        self._receive_over = not self._can_receive

    # What the room above calls.

    @property
    def id(self) -> int:
        return self._id

    @property
    def is_local(self) -> bool:
        return (self._id & 1 == 0) == self._session.is_client

    @property
    def is_bidirectional(self) -> bool:
        return self._id & 2 == 0

    @property
    def send_buffered(self) -> int:
        return len(self._buffer)

    def set_handler(self, handler: StreamHandler) -> None:
        self._handler = handler
        if self._held or self._final or self._held_stop is not None:
            self._link.post(self._lane, self._deliver)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._require_send()
        if self._session.ended is not None:
            return
        if self._finishing or self._reset_code is not None:
            raise LocalError(f"write on stream {self._id} after finish or reset")
        if self._paused:
            self._past_pause += len(data)
            if self._past_pause > WRITE_PAST_PAUSE:
                raise LocalError(f"stream {self._id}: {WRITE_PAST_PAUSE} bytes written past pause_writing")
        self._buffer += data
        if not self._paused and len(self._buffer) > self._session.limits.send_high_water:
            self._paused = True
            self._past_pause = 0
            if self._handler is not None:
                self._handler.pause_writing()
        self._pump()

    def pump(self, descriptor: int, on_full: Callable[[], None], on_error: Callable[[OSError], None]) -> None:
        return None

    def finish(self) -> None:
        self._require_send()
        if self._finishing or self._reset_code is not None:
            return
        self._finishing = True
        self._pump()

    def reset(self, code: int) -> None:
        self._require_send()
        if self._send_over or self._reset_code is not None or self._session.ended is not None:
            return
        self._reset_code = code
        self._buffer.clear()
        self._pump()

    def stop_sending(self, code: int) -> None:
        self._require_receive()
        if self._session.ended is not None:
            return
        finished = bool(self._final)
        first = not self._stopped
        self._stopped = True
        self._release_credit()
        if finished:
            self._end_receiving()
        elif first:
            self._link.post(self._lane, lambda: self._transfer_stop(code))

    def consumed(self, size: int) -> None:
        self._require_receive()
        if self._session.ended is not None or self._credit_released:
            return
        delivered = self._unconsumed - sum(map(len, self._held))
        if not 0 <= size <= delivered:
            raise LocalError(f"stream {self._id}: {size} bytes consumed of {delivered} delivered")
        self._return_credit(size)

    # What happens in the lanes.

    def _require_send(self) -> None:
        if not self._can_send:
            raise LocalError(f"stream {self._id} is receive-only")

    def _require_receive(self) -> None:
        if not self._can_receive:
            raise LocalError(f"stream {self._id} is send-only")

    def _other(self) -> MemoryStream | None:
        """The other end; None once it is gone there."""
        peer = self._session._peer
        if peer.ended is not None:
            return None
        other = peer._streams.get(self._id)
        if other is None and self.is_local and not self._accepted:
            self._accepted = True
            other = peer._accept(self._id, Priority.NORMAL)
        return other

    def _may_transfer(self) -> bool:
        session = self._session
        if self._over or session.ended is not None or not session._complete or not session._peer._complete:
            return False
        return not self.is_local or self._id >> 2 < session._allowed[self.is_bidirectional]

    def _sendable(self) -> int:
        session = self._session
        return min(
            len(self._buffer),
            self._send_limit - self._sent,
            session._send_limit - session._sent,
            self._link.chunk_size,
        )

    def _pump(self) -> None:
        """See that a transfer is in the lane when there is something that may go."""
        if self._over or self._session.ended is not None:
            return
        if not self._may_transfer():
            self._session._blocked[self._id] = self
            return
        if self._waiting_stop is not None:
            code, self._waiting_stop = self._waiting_stop, None
            self._link.post(self._lane, lambda: self._transfer_stop(code))
        if self._pumping or self._send_over:
            return
        if self._reset_code is not None or self._sendable() or (self._finishing and not self._buffer):
            self._pumping = True
            self._link.post(self._lane, self._transfer)
        elif self._buffer:
            self._session._blocked[self._id] = self

    def _transfer(self) -> None:
        self._pumping = False
        if self._send_over or not self._may_transfer():
            return
        if self._reset_code is not None:
            self._send_over = True
            other = self._other()
            if other is not None:
                other._receive_reset(self._reset_code)
            self._link.post(self._lane, self._complete_sending)
            return
        size = self._sendable()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        fin = self._finishing and not self._buffer
        self._sent += size
        self._session._sent += size
        self._session._statistics.stream_bytes_sent += size
        other = self._other()
        if other is not None and size:
            other._receive(data)
        elif size:
            self._session._peer._credit(size)
        if fin and self._reset_code is None:
            self._send_over = True
            other = self._other()
            if other is not None:
                other._receive_fin()
            self._link.post(self._lane, self._complete_sending)
        if self._paused and len(self._buffer) <= self._session.limits.send_high_water // 4:
            self._link.post(self._lane, self._resume)
        self._pump()

    def _resume(self) -> None:
        if not self._paused or self._over or self._reset_code is not None:
            return
        self._paused = False
        if self._handler is not None:
            self._handler.resume_writing()

    def _complete_sending(self) -> None:
        if self._over:
            return
        if self._handler is not None:
            self._handler.send_completed()
        self._send_acknowledged = True
        self._forget_if_over()

    def _transfer_stop(self, code: int) -> None:
        if self._over or self._session.ended is not None:
            return
        if not self._may_transfer():
            # The stream waits for the handshake or the peer's limit: so does its STOP_SENDING.
            self._waiting_stop = code
            self._session._blocked[self._id] = self
            return
        other = self._other()
        if other is not None:
            other._receive_stop(code)

    def _receive(self, data: bytes) -> None:
        self._session._statistics.stream_bytes_received += len(data)
        self._unconsumed += len(data)
        if self._stopped:
            self._return_credit(len(data))
            return
        self._held.append(data)
        self._deliver()

    def _receive_fin(self) -> None:
        self._final = "fin"
        self._deliver()

    def _receive_reset(self, code: int) -> None:
        self._final = "reset"
        self._final_code = code
        self._release_credit()
        self._deliver()

    def _receive_stop(self, code: int) -> None:
        self._held_stop = code
        self._deliver()

    def _deliver(self) -> None:
        """Hand on what has arrived, as far as there is someone to take it."""
        self._deliver_data()
        self._deliver_stop()
        self._deliver_final()

    def _deliver_data(self) -> None:
        while self._handler is not None and self._held:
            self._handler.data_received(self._held.popleft())

    def _deliver_stop(self) -> None:
        if self._over or self._handler is None or self._held_stop is None:
            return
        code, self._held_stop = self._held_stop, None
        if not self._send_over and self._reset_code is None:
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

    def _return_credit(self, size: int) -> None:
        self._unconsumed -= size
        if not size:
            return

        def credit() -> None:
            other = self._session._peer._streams.get(self._id)
            if other is not None:
                other._send_limit += size
                other._pump()
            self._session._credit(size)

        self._link.post(self._lane, credit)

    def _release_credit(self) -> None:
        """No more of this stream's bytes will be consumed: their credit goes back at once."""
        self._held.clear()
        self._return_credit(self._unconsumed)
        self._credit_released = True

    def _end_receiving(self) -> None:
        self._receive_over = True
        self._forget_if_over()

    def _forget_if_over(self) -> None:
        if self._receive_over and (self._send_acknowledged or not self._can_send) and not self._over:
            self._over = True
            self._session._forget(self)

    def _lose(self, ended: Ended) -> None:
        if self._over:
            return
        self._over = True
        self._buffer.clear()
        self._held.clear()
        if self._handler is not None:
            self._handler.connection_lost(ended)
