import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from .config import ListenerConfig
from .connection import Client, Outcome, Phase, Statistics
from .deadlines import Deadlines
from .types import Exit
from .watch import Watch

Serve = Callable[[Client], Coroutine[Any, Any, Outcome]]

class Door(Protocol):
    """The listener, as an opening sees it."""

    exit: Exit
    config: ListenerConfig
    counts: Statistics
    watch: Watch
    handshakes: Deadlines[Opening]
    connects: Deadlines[Opening]

    def protocol(self, first: int) -> Callable[[Client, bytes, float], Coroutine[Any, Any, Outcome]] | None:
        """What serves connections that begin with that byte, which it counts."""

    def take_over(self, opening: Opening, serve: Serve) -> None:
        """Serve the connection by a task."""

    def over(self, opening: Opening, error: Exception | None = None) -> None:
        """The connection is closed, or its flow's; error: internal."""

class Opening:
    evicted: bool
    client: Client | None
    task: asyncio.Task[None] | None
    def __init__(
        self,
        door: Door,
        sock: socket.socket,
        peer: tuple[str, int] | None,
        key: str | None,
        since: float,
        kind: object,
    ) -> None: ...
    @property
    def sock(self) -> socket.socket: ...
    @property
    def peer(self) -> tuple[str, int] | None: ...
    @property
    def key(self) -> str | None: ...
    @property
    def kind(self) -> object: ...
    @property
    def since(self) -> float: ...
    @property
    def asked(self) -> bool: ...
    @property
    def phase(self) -> Phase: ...
    @property
    def is_dispensable(self) -> bool: ...
    def begin(self) -> None: ...
    def close_soon(self) -> None: ...
    def abort(self) -> None: ...
    def cancel(self) -> None: ...
    def handshake_expired(self) -> None: ...
    def connect_expired(self) -> None: ...
