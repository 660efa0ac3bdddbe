"""Two sessions joined, on which the contract of the doors is tested, and what its parts ask of an engine.

Read first: ``recorders``, whose logs stand at both ends. Nothing here may know an engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quicsocks.userspace.quic.types import Limits, Priority, Session

from .recorders import SessionLog, StreamLog

SMALL = Limits(stream_window=4096, session_window=16384, send_high_water=8192, max_streams_bidi=8, max_streams_uni=2)


@dataclass
class Joined:
    """Two sessions whose handshake is complete. settle: let happen all that can happen without us."""

    client: Session
    server: Session
    client_log: SessionLog
    server_log: SessionLog
    settle: Callable[[], None]

    def pair(self, *, consume: bool = True, priority: Priority = Priority.NORMAL) -> tuple[StreamLog, StreamLog]:
        """A stream that the client opened, seen from both ends; one octet has passed."""
        near = StreamLog(self.client.open_stream(priority=priority))
        near.stream.write(b"!")
        self.settle()
        far = self.server_log.logs[near.stream.id]
        assert far.data == b"!"
        far.data.clear()
        far.consume = consume
        return near, far


class Contract:
    """What the parts of the contract ask of a subclass that knows an engine."""

    def join(
        self,
        limits: Limits | None = None,
        *,
        server_limits: Limits | None = None,
        take: bool = True,
        consume: bool = True,
    ) -> Joined:
        """take, consume: as SessionLog's, at both ends."""
        raise NotImplementedError

    @staticmethod
    def expect_paused(log: StreamLog, paused: bool) -> None:
        assert log.paused is paused
