"""The front door itself: accepts connections, tells protocols apart by the first byte, keeps the limits.

Read first: ``connection`` for what happens to one connection. This is the only file of the room that makes tasks for
connections. It accepts by itself, without an asyncio server, because it hands raw sockets on, and because running out
of descriptors is to be survived: a spare one is kept, with which a connection can be taken just to be refused.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from .binding import UnixFile, bind_all
from .config import ListenerConfig, address_key
from .connection import Client, Ending, Outcome, Phase, Statistics
from .hosts import format_authority
from .http_session import serve_http
from .sockets import prepare, receive, reset
from .socks_session import serve_socks4, serve_socks5
from .types import Exit
from .watch import Watch

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
        self._config = config
        self._exit = exit
        self._on_event = on_event
        self._sockets = sockets
        self._files = files
        self._statistics = Statistics()
        self._watch = Watch.shared()
        self._clients: dict[asyncio.Task[None], Client] = {}
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
        return replace(self._statistics, open=len(self._clients))

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
        for task, client in self._clients.items():
            client.closing = True
            if client.phase is Phase.IDLE:
                task.cancel()
        await self._until_left(CLOSE_GRACE, lambda client: client.phase is Phase.NEGOTIATING)
        await self._until_left(drain, lambda client: client.phase is Phase.OPEN)
        for client in self._clients.values():
            client.abort()
        await self._until_left(CLOSE_GRACE, lambda client: client.phase is Phase.OPEN)
        tasks = list(self._clients)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watch.close()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    async def _until_left(self, seconds: float, counts: Callable[[Client], bool]) -> None:
        """Wait until no client counts any more, for at most seconds."""
        deadline = self._loop.time() + seconds
        while (left := deadline - self._loop.time()) > 0:
            waiting = {task for task, client in self._clients.items() if counts(client)}
            if not waiting:
                return
            # A client also leaves by changing its phase, without its task ending; so look again now and then.
            await asyncio.wait(waiting, timeout=min(left, 0.05), return_when=asyncio.FIRST_COMPLETED)

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
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._out_of_resources(listening, error)
                    return
                # accept(2): errors of the new connection, e.g. a reset before we came to it, are reported here.
                continue
            self._accepted(sock, address)

    def _accepted(self, sock: socket.socket, address: object) -> None:
        self._statistics.accepted += 1
        peer = (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
        key = address_key(peer[0]) if peer is not None else None
        total = self._config.max_connections
        if self._counted >= total and not self._make_room(total, None):
            self._refuse(sock, peer, f"{self._counted} connections are open, the most allowed")
            return
        if peer is not None and key is not None:
            limit = self._config.per_address(peer[0])
            if self._per_address[key] >= limit and not self._make_room(limit, key):
                self._refuse(sock, peer, f"{self._per_address[key]} connections of {key} are open, the most for one")
                return
            self._per_address[key] += 1
        self._counted += 1
        self._serve(
            sock,
            peer,
            self._config.handshake_timeout,
            lambda client: None if client.evicted else self._leave(client.key),
            key=key,
        )

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
        found: asyncio.Task[None] | None = None
        count = 0
        for task, client in self._clients.items():
            if client.is_dispensable and not client.evicted and (key is None or client.key == key):
                found = found or task
                count += 1
                if now - self._clients[found].since >= HANDSHAKE_PATIENCE or count > max(1, limit // 2):
                    self._statistics.evicted += 1
                    self._clients[found].evicted = True
                    self._leave(self._clients[found].key)
                    found.cancel()
                    return True
        return False

    def _refuse(self, sock: socket.socket, peer: tuple[str, int] | None, why: str) -> None:
        self._statistics.refused += 1
        self._warn("limit", f"new connections are refused: {why}; raise the limit if they are wanted")
        if self._refusals >= MAX_REFUSALS:
            reset(sock)
            return
        self._refusals += 1
        self._serve(sock, peer, REFUSAL_TIMEOUT, self._refused, refusing=True)

    def _refused(self, _client: Client) -> None:
        self._refusals -= 1

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
            sock, address = listening.accept()
        except OSError:
            # Somebody else was quicker to take the descriptor, or the connection is gone.
            self._pause_accepting()
            return
        self._stop_accepting()
        self._statistics.accepted += 1
        self._statistics.refused += 1
        peer = (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
        self._serve(sock, peer, SPARE_REFUSAL_TIMEOUT, lambda _client: self._pause_accepting(), refusing=True)

    # Serving.

    def _serve(
        self,
        sock: socket.socket,
        peer: tuple[str, int] | None,
        seconds: float,
        on_end: Callable[[Client], None],
        *,
        key: str | None = None,
        refusing: bool = False,
    ) -> None:
        prepare(sock)
        config = self._config
        if refusing:
            config = replace(config, linger_timeout=min(seconds, config.linger_timeout))
        client = Client(sock, peer, self._exit, config, self._statistics, refusing=refusing)
        client.key = key
        deadline = self._loop.time() + seconds
        task = self._loop.create_task(client.run(lambda client: self._negotiate(client, deadline), self._watch))
        self._clients[task] = client

        def ended(task: asyncio.Task[None]) -> None:
            del self._clients[task]
            on_end(client)
            if not client.started:
                reset(sock)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                _log.debug("a connection was closed because of an internal error", exc_info=error)
                self._warn("internal", f"a connection was closed because of an internal error: {error!r}")

        task.add_done_callback(ended)

    async def _negotiate(self, client: Client, deadline: float) -> Outcome:
        try:
            async with asyncio.timeout_at(deadline):
                first = await receive(client.sock)
        except TimeoutError:
            self._statistics.failed += 1
            return Ending.GENTLY
        if not first:
            return Ending.GENTLY
        serve = self._protocol(first[0])
        if serve is None:
            # Whatever it is, TLS to the wrong port or a guess, it would not understand an answer.
            self._statistics.failed += 1
            return Ending.RESET
        return await serve(client, first, deadline)

    def _protocol(self, first: int) -> Callable[[Client, bytes, float], Coroutine[Any, Any, Outcome]] | None:
        statistics, served = self._statistics, self._config.protocols
        if first == 5 and "socks5" in served:
            statistics.socks5 += 1
            return serve_socks5
        if first == 4 and "socks4" in served:
            statistics.socks4 += 1
            return serve_socks4
        # Every method in use begins with a letter, and no letter is 4 or 5.
        if chr(first).isalpha() and first < 0x80 and "http" in served:
            statistics.http += 1
            return serve_http
        return None

    def _warn(self, kind: str, text: str) -> None:
        now = self._loop.time()
        if now - self._warned.get(kind, -WARNING_INTERVAL) >= WARNING_INTERVAL:
            self._warned[kind] = now
            self._on_event(kind, text)


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
