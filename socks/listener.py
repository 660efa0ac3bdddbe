"""The front door itself: accepts connections, tells protocols apart by the first byte, keeps the limits.

Read first: ``opening`` and ``connection`` for what happens to one connection. This is the only file of the room that
makes tasks for connections, and only for those that ``opening`` cannot serve by itself. It accepts by itself, without an
asyncio server, because it hands raw sockets on, and because running out of descriptors is to be survived: a spare one is
kept, with which a connection can be taken just to be refused.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from .binding import UnixFile, bind_all
from .config import ListenerConfig, address_key
from .connection import Client, Ending, Outcome, Phase, Statistics
from .deadlines import Deadlines
from .epolled import accept
from .hosts import format_authority
from .opening import Opening
from .sockets import receive, reset
from .socks_session import serve_socks4, serve_socks5
from .types import Exit
from .watch import Watch

if TYPE_CHECKING:
    from .opening import Serve

OnEvent = Callable[[str, str], None]
"""Takes a kind ("limit", "descriptors", "internal") and one line for a person, which names no destination."""

ACCEPT_BATCH: Final = 64
"""Connections accepted in one turn of the loop, so that a flood of them does not stop the flows that run."""

ACCEPT_PAUSE: Final = 0.1
"""Seconds without accepting after the machine had no descriptor or memory for it."""

HANDSHAKE_PATIENCE: Final = 2.0
"""Seconds after which, at a limit, a connection that has asked for nothing is closed to make room. A program that uses
a proxy asks at once; what sits there silently at a full door is an attack, or as useless as one."""

MAX_REFUSALS: Final = 64
"""Connections over a limit that are being answered at once; those beyond are reset unanswered."""

REFUSAL_TIMEOUT: Final = 2.0
"""Seconds that a connection over a limit has to say what it wants, so that it can be told no in its own protocol."""

SPARE_REFUSAL_TIMEOUT: Final = 0.5
"""The same for the one connection that uses the spare descriptor, since nobody else is accepted meanwhile."""

WARNING_INTERVAL: Final = 60.0
"""Seconds between two warnings of the same kind."""

CLOSE_GRACE: Final = 1.0
"""Seconds that ``Listener.close`` gives handshakes to finish, and aborted flows to clean up."""

_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Kind(enum.Enum):
    """What a connection was accepted for."""

    ORDINARY = enum.auto()
    REFUSED = enum.auto()
    """At a limit."""
    SPARE = enum.auto()
    """Without descriptors."""


_log = logging.getLogger("quicsocks.socks")


async def start(config: ListenerConfig, exit: Exit, on_event: OnEvent) -> Listener:
    """Listen. Raises LocalError with one line for a person when an address cannot be listened on."""
    loop = asyncio.get_running_loop()
    sockets, files = await loop.run_in_executor(None, bind_all, config)
    return Listener(config, exit, on_event, sockets, files)


class Listener:
    """One configuration's listening sockets. Made by ``start``."""

    def __init__(
        self,
        config: ListenerConfig,
        exit: Exit,
        on_event: OnEvent,
        sockets: list[socket.socket],
        files: list[UnixFile],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.config = config
        self.exit = exit
        self._on_event = on_event
        self._sockets = sockets
        self._files = files
        self.counts = Statistics()
        self.watch = Watch.shared()
        self.handshakes: Deadlines[Opening] = Deadlines(config.handshake_timeout, Opening.handshake_expired, self._loop)
        self.connects: Deadlines[Opening] = Deadlines(config.connect_timeout, Opening.connect_expired, self._loop)
        self._openings: dict[Opening, None] = {}
        """Every connection, the oldest first."""
        self._changed: asyncio.Event | None = None
        """While it is closing: set when a connection is over."""
        self._per_address: Counter[str] = Counter()
        self._counted = 0
        self._refusals = 0
        self._warned: dict[str, float] = {}
        self._spare: int | None = _open_spare()
        self._resume: asyncio.TimerHandle | None = None
        self._accepting = False
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._addresses = tuple(_name(sock) for sock in sockets)
        self._start_accepting()

    @property
    def addresses(self) -> tuple[tuple[str, int] | str, ...]:
        """Where it listens, in the configured order: (host, port), with the port that the kernel chose for 0, or the
        path of a unix socket."""
        return self._addresses

    def statistics(self) -> Statistics:
        """A copy of the counts."""
        return replace(self.counts, open=len(self._openings))

    async def close(self, drain: float = 0.0) -> None:
        """Stop accepting, let handshakes finish for a moment, give open flows drain seconds, then reset them. When it
        returns no task, socket or file is left. Idempotent; later calls wait for the first."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(drain))
        await asyncio.shield(self._closing)

    async def _close(self, drain: float) -> None:
        self._closed = True
        self._stop_accepting()
        for sock in self._sockets:
            sock.close()
        for file in self._files:
            file.remove()
        changed = self._changed = asyncio.Event()
        for opening in list(self._openings):
            opening.close_soon()
            if opening.phase is Phase.IDLE:
                opening.cancel()
        await self._until_left(changed, CLOSE_GRACE, lambda opening: opening.phase is Phase.NEGOTIATING)
        await self._until_left(changed, drain, lambda opening: opening.phase is Phase.OPEN)
        for opening in list(self._openings):
            opening.abort()
        await self._until_left(changed, CLOSE_GRACE, lambda opening: opening.phase is Phase.OPEN)
        for opening in list(self._openings):
            opening.cancel()
        await asyncio.gather(*(opening.task for opening in self._openings if opening.task), return_exceptions=True)
        self.handshakes.close()
        self.connects.close()
        self.watch.close()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    async def _until_left(self, changed: asyncio.Event, seconds: float, counts: Callable[[Opening], bool]) -> None:
        """Wait until no connection counts any more, for at most seconds."""
        deadline = self._loop.time() + seconds
        while (left := deadline - self._loop.time()) > 0 and any(map(counts, self._openings)):
            changed.clear()
            try:
                # One also leaves by changing its phase, without being over; so look again now and then.
                async with asyncio.timeout(min(left, 0.05)):
                    await changed.wait()
            except TimeoutError:
                pass

    # Accepting.

    def _start_accepting(self) -> None:
        self._resume = None
        if self._accepting or self._closed:
            return
        if self._spare is None:
            self._spare = _open_spare()
        self._accepting = True
        for sock in self._sockets:
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _stop_accepting(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if self._accepting:
            self._accepting = False
            for sock in self._sockets:
                self._loop.remove_reader(sock.fileno())

    def _pause_accepting(self) -> None:
        self._stop_accepting()
        if not self._closed:
            self._resume = self._loop.call_later(ACCEPT_PAUSE, self._start_accepting)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                accepted = accept(listening)
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._out_of_resources(listening, error)
                    return
                # accept(2): errors of the new connection, e.g. a reset before we came to it, are reported here.
                continue
            if accepted is None:
                return
            self._accepted(*accepted)

    def _accepted(self, sock: socket.socket, peer: tuple[str, int] | None) -> None:
        self.counts.accepted += 1
        key = address_key(peer[0]) if peer is not None else None
        total = self.config.max_connections
        if self._counted >= total and not self._make_room(total, None):
            self._refuse(sock, peer, f"{self._counted} connections are open, the most allowed")
            return
        if peer is not None and key is not None:
            limit = self.config.per_address(peer[0])
            if self._per_address[key] >= limit and not self._make_room(limit, key):
                self._refuse(sock, peer, f"{self._per_address[key]} connections of {key} are open, the most for one")
                return
            self._per_address[key] += 1
        self._counted += 1
        opening = Opening(self, sock, peer, key, self._loop.time(), Kind.ORDINARY)
        self._openings[opening] = None
        opening.begin()

    def _leave(self, key: str | None) -> None:
        self._counted -= 1
        if key is not None:
            self._per_address[key] -= 1
            if self._per_address[key] <= 0:
                del self._per_address[key]

    def _make_room(self, limit: int, key: str | None) -> bool:
        """Close the oldest connection (of key, if given) that nobody would miss: one that has been silent for a
        while, or any when such ones take more than half of limit. So thousands of half-open handshakes keep nobody
        out who asks for something, and never touch an open flow."""
        now = self._loop.time()
        found: Opening | None = None
        count = 0
        for opening in self._openings:
            if opening.is_dispensable and not opening.evicted and (key is None or opening.key == key):
                found = found or opening
                count += 1
                if now - found.since >= HANDSHAKE_PATIENCE or count > max(1, limit // 2):
                    self.counts.evicted += 1
                    found.evicted = True
                    self._leave(found.key)
                    found.cancel()
                    return True
        return False

    def _refuse(self, sock: socket.socket, peer: tuple[str, int] | None, why: str) -> None:
        self.counts.refused += 1
        self._warn("limit", f"new connections are refused: {why}; raise the limit if they are wanted")
        if self._refusals >= MAX_REFUSALS:
            reset(sock)
            return
        self._refusals += 1
        self._serve_refusal(sock, peer, REFUSAL_TIMEOUT, Kind.REFUSED)

    def _out_of_resources(self, listening: socket.socket, error: OSError) -> None:
        """Take one connection with the spare descriptor, to refuse it; accept none until that is done."""
        why = "out of file descriptors" if error.errno in (errno.EMFILE, errno.ENFILE) else "out of memory for sockets"
        self._warn("descriptors", f"new connections are refused: {why}; raise the limit (ulimit -n) or close some")
        if self._spare is None:
            self._pause_accepting()
            return
        os.close(self._spare)
        self._spare = None
        try:
            accepted = accept(listening)
        except OSError:
            # Somebody else was quicker to take the descriptor, or the connection is gone.
            accepted = None
        if accepted is None:
            self._pause_accepting()
            return
        self._stop_accepting()
        self.counts.accepted += 1
        self.counts.refused += 1
        self._serve_refusal(*accepted, SPARE_REFUSAL_TIMEOUT, Kind.SPARE)

    # Serving.

    def _serve_refusal(self, sock: socket.socket, peer: tuple[str, int] | None, seconds: float, kind: Kind) -> None:
        now = self._loop.time()
        opening = Opening(self, sock, peer, None, now, kind)
        self._openings[opening] = None
        config = replace(self.config, linger_timeout=min(seconds, self.config.linger_timeout))
        self._start_task(opening, config, lambda client: self._negotiate(client, now + seconds), refusing=True)

    def take_over(self, opening: Opening, serve: Serve) -> None:
        """See ``opening.Door``."""
        client = self._start_task(opening, self.config, serve, refusing=False)
        try:
            # Not later: until the task runs, whatever the socket does would be told to the opening.
            self.watch.add(opening.sock, client.on_gone, reading=True)
        except OSError:
            opening.cancel()

    def _start_task(self, opening: Opening, config: ListenerConfig, serve: Serve, *, refusing: bool) -> Client:
        client = Client(opening.sock, opening.peer, self.exit, config, self.counts, refusing=refusing)
        client.asked = opening.asked
        client.closing = self._closed
        opening.client = client
        task = opening.task = self._loop.create_task(client.run(serve, self.watch))

        def ended(task: asyncio.Task[None]) -> None:
            if not client.started:
                self.watch.discard(opening.sock, closing=True)
                reset(opening.sock)
            error = None if task.cancelled() else task.exception()
            self.over(opening, error)

        task.add_done_callback(ended)
        return client

    def over(self, opening: Opening, error: BaseException | None = None) -> None:
        """See ``opening.Door``."""
        del self._openings[opening]
        if opening.kind is Kind.ORDINARY:
            if not opening.evicted:
                self._leave(opening.key)
        elif opening.kind is Kind.REFUSED:
            self._refusals -= 1
        else:
            self._pause_accepting()
        if self._changed is not None:
            self._changed.set()
        if error is not None:
            _log.debug("a connection was closed because of an internal error", exc_info=error)
            self._warn("internal", f"a connection was closed because of an internal error: {error!r}")

    async def _negotiate(self, client: Client, deadline: float) -> Outcome:
        try:
            async with asyncio.timeout_at(deadline):
                first = await receive(client.sock)
        except TimeoutError:
            self.counts.failed += 1
            return Ending.GENTLY
        if not first:
            return Ending.GENTLY
        serve = self.protocol(first[0])
        if serve is None:
            # Whatever it is, TLS to the wrong port or a guess, it would not understand an answer.
            self.counts.failed += 1
            return Ending.RESET
        return await serve(client, first, deadline)

    def protocol(self, first: int) -> Callable[[Client, bytes, float], Coroutine[Any, Any, Outcome]] | None:
        """See ``opening.Door``."""
        statistics, served = self.counts, self.config.protocols
        if first == 5 and "socks5" in served:
            statistics.socks5 += 1
            return serve_socks5
        if first == 4 and "socks4" in served:
            statistics.socks4 += 1
            return serve_socks4
        # Every method in use begins with a letter, and no letter is 4 or 5.
        if chr(first).isalpha() and first < 0x80 and "http" in served:
            statistics.http += 1
            return _serve_http()
        return None

    def _warn(self, kind: str, text: str) -> None:
        now = self._loop.time()
        if now - self._warned.get(kind, -WARNING_INTERVAL) >= WARNING_INTERVAL:
            self._warned[kind] = now
            self._on_event(kind, text)


def _serve_http() -> Callable[[Client, bytes, float], Coroutine[Any, Any, Outcome]]:
    from .http_session import serve_http  # In the memory of those who speak HTTP.

    return serve_http


def _open_spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _name(sock: socket.socket) -> tuple[str, int] | str:
    name = sock.getsockname()
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else str(name)


def describe(address: tuple[str, int] | str) -> str:
    """An element of ``Listener.addresses`` as a person writes it."""
    return address if isinstance(address, str) else format_authority(*address)
