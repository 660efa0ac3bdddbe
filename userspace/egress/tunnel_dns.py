"""Asks a resolver over any byte stream: through the tunnel on ``qt``, or over TCP from the exit (``--dns``).

Read first: RFC 7766 (one connection, many questions, answers in any order), RFC 8305 §3 (A and AAAA in parallel).
``StreamResolver`` keeps at most one stream open, asks on it, and lets it go after a pause. It knows nothing of sockets:
``open_stream`` makes the streams. The caller's own resolver is never asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from ..quic.errors import PeerError
from ..tunnel.types import Cause, FlowFailed
from .dns_codec import AAAA, A, Answer, MessageReader, make_query, message_id, read_answer
from .names import HostError, is_localhost, normalise_name
from .special import IPAddress


class Duplex(Protocol):
    """A byte stream both ways; ``quicsocks.socks.types.Flow`` is one."""

    async def read(self) -> bytes:
        """Some bytes, b"" after the end."""

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None: ...


@dataclass(frozen=True, slots=True)
class StreamResolverConfig:
    timeout: float = 5.0
    """Seconds for a name in all, a new stream and a second try included; what resolv.conf(5) has for one try."""
    resolution_delay: float = 0.05
    """Seconds that one family's answer waits for the other's (RFC 8305 §3: 50 ms)."""
    idle_timeout: float = 10.0
    """Seconds that a stream without questions is kept (RFC 7766 §6.2.3: a few seconds)."""
    max_pending: int = 256
    """Questions under way at once: two for each of as many flows as a client may have pending, and less than the 65,536
    identifiers by far."""
    cache_size: int = 1024
    """Names kept: about 300 KiB."""


class StreamResolver:
    """open_stream: opens a stream to the resolver; what it raises fails the question.

    All methods are called on one event loop.
    """

    def __init__(
        self, open_stream: Callable[[], Awaitable[Duplex]], config: StreamResolverConfig | None = None
    ) -> None:
        self._open_stream = open_stream
        self._config = config or StreamResolverConfig()
        self._connection: _Connection | None = None
        self._opening: asyncio.Task[_Connection] | None = None
        self._cache: OrderedDict[str, tuple[float, tuple[IPAddress, ...], str]] = OrderedDict()
        self._lookups: dict[str, asyncio.Task[list[IPAddress]]] = {}
        self._closed = False

    async def resolve(self, name: str) -> list[IPAddress]:
        """The addresses of a name, IPv6 first. Raises FlowFailed: NAME_NOT_FOUND, NAME_TIMEOUT, LIMIT, GOING_AWAY, or
        ADDRESS_PROHIBITED for localhost and names below it, which mean the asker's own host (RFC 6761 §6.3)."""
        if self._closed:
            raise FlowFailed(Cause.GOING_AWAY, "the resolver is closed")
        try:
            name = normalise_name(name)
        except HostError as error:
            raise FlowFailed(Cause.NAME_NOT_FOUND, str(error)) from None
        if is_localhost(name):
            raise FlowFailed(Cause.ADDRESS_PROHIBITED, "localhost is no name for another host's resolver")
        cached = self._cached(name)
        if cached is not None:
            return cached
        # One lookup serves all that ask for the name meanwhile; who goes away does not take it from the others.
        task = self._lookups.get(name)
        if task is None:
            if len(self._lookups) * 2 >= self._config.max_pending:
                raise FlowFailed(Cause.LIMIT, "too many names are being looked up")
            task = asyncio.create_task(self._look_up(name))
            self._lookups[name] = task
            task.add_done_callback(lambda done: self._lookup_done(name, done))
        try:
            return list(await asyncio.shield(task))
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task.cancelled() and not (current is not None and current.cancelling()):
                raise FlowFailed(Cause.GOING_AWAY, "the resolver is closed") from None
            raise

    async def close(self) -> None:
        """End the stream and fail what waits. Idempotent."""
        self._closed = True
        tasks: list[asyncio.Task[list[IPAddress]] | asyncio.Task[_Connection]] = [*self._lookups.values()]
        if self._opening is not None:
            tasks.append(self._opening)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _look_up(self, name: str) -> list[IPAddress]:
        try:
            async with asyncio.timeout(self._config.timeout):
                answers = await self._ask_both(name)
        except TimeoutError:
            raise FlowFailed(Cause.NAME_TIMEOUT, "the resolver did not answer in time") from None
        except (PeerError, OSError) as error:
            raise FlowFailed(Cause.NAME_TIMEOUT, f"the resolver cannot be asked: {error}") from None
        addresses = [address for answer in answers for address in answer.addresses]
        ttl = min((answer.ttl for answer in answers if answer.addresses), default=min(a.ttl for a in answers))
        failures = [answer.rcode_text for answer in answers if answer.rcode]
        reason = f"the resolver answered {failures[0]}" if failures else "the name has no address"
        self._remember(name, addresses, ttl, reason)
        if not addresses:
            raise FlowFailed(Cause.NAME_NOT_FOUND, reason)
        return addresses

    async def _ask_both(self, name: str) -> list[Answer]:
        """AAAA and A in parallel. With one answer that has addresses, the other is waited for a moment only."""
        async with _Both() as both:
            six = both.start(self._ask(name, AAAA))
            four = both.start(self._ask(name, A))
            await asyncio.wait((six, four), return_when=asyncio.FIRST_COMPLETED)
            first = six if six.done() else four
            useful = not first.cancelled() and first.exception() is None and bool(first.result().addresses)
            await asyncio.wait((six, four), timeout=self._config.resolution_delay if useful else None)
            answered = [task for task in (six, four) if task.done() and task.exception() is None]
            answers = [task.result() for task in answered]
            if len(answers) < 2 and not any(answer.addresses for answer in answers):
                # "No such name" is only said when both questions were answered.
                return [six.result(), four.result()]  # raises what went wrong
            return answers

    async def _ask(self, name: str, kind: int) -> Answer:
        """Ask, and once more when the stream ends first: resolvers drop idle ones at any time (RFC 7766 §6.2.4)."""
        connection = await self._connected()
        try:
            return await connection.ask(name, kind)
        except _StreamEnded:
            connection = await self._connected()
        try:
            return await connection.ask(name, kind)
        except _StreamEnded as error:
            raise PeerError(str(error)) from None

    async def _connected(self) -> _Connection:
        if self._connection is not None and not self._connection.ended:
            return self._connection
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    async def _connect(self) -> _Connection:
        try:
            stream = await self._open_stream()
        except Exception as error:
            # Whatever the way to the resolver is made of: for the name it means that nobody could be asked.
            raise PeerError(f"no connection: {error}") from None
        return _Connection(stream, self._config)

    def _opened(self, task: asyncio.Task[_Connection]) -> None:
        self._opening = None
        if task.cancelled() or task.exception() is not None:
            return
        self._connection = task.result()

    def _lookup_done(self, name: str, task: asyncio.Task[list[IPAddress]]) -> None:
        self._lookups.pop(name, None)
        if not task.cancelled():
            task.exception()  # marked as seen: all who asked may have gone away

    def _cached(self, name: str) -> list[IPAddress] | None:
        entry = self._cache.get(name)
        if entry is None:
            return None
        expires, addresses, reason = entry
        if asyncio.get_running_loop().time() >= expires:
            del self._cache[name]
            return None
        if not addresses:
            raise FlowFailed(Cause.NAME_NOT_FOUND, reason)
        return list(addresses)

    def _remember(self, name: str, addresses: list[IPAddress], ttl: int, reason: str) -> None:
        if ttl <= 0:
            return
        self._cache[name] = (asyncio.get_running_loop().time() + ttl, tuple(addresses), reason)
        self._cache.move_to_end(name)
        while len(self._cache) > self._config.cache_size:
            self._cache.popitem(last=False)


class _StreamEnded(Exception):
    """The stream was over before the answer came; nothing is known of the name."""


class _Connection:
    """One stream with questions under way on it."""

    def __init__(self, stream: Duplex, config: StreamResolverConfig) -> None:
        self._stream = stream
        self._config = config
        self._reader = MessageReader()
        self._waiting: dict[int, tuple[str, int, asyncio.Future[Answer]]] = {}
        self._idle: asyncio.TimerHandle | None = None
        self.ended = False
        self._task = asyncio.create_task(self._run())

    async def ask(self, name: str, kind: int) -> Answer:
        """Raises _StreamEnded, PeerError or FlowFailed."""
        if self.ended:
            raise _StreamEnded("the resolver closed the connection")
        if len(self._waiting) >= self._config.max_pending:
            raise FlowFailed(Cause.LIMIT, "too many names are being looked up")
        identifier = secrets.randbelow(1 << 16)
        while identifier in self._waiting:
            identifier = secrets.randbelow(1 << 16)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting[identifier] = (name, kind, future)
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        try:
            self._stream.write(make_query(name, kind, identifier))
            return await future
        finally:
            self._waiting.pop(identifier, None)
            if not self._waiting and not self.ended:
                self._idle = loop.call_later(self._config.idle_timeout, self._task.cancel)

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        error: Exception = _StreamEnded("the resolver closed the connection")
        try:
            while data := await self._stream.read():
                for message in self._reader.receive_data(data):
                    self._answered(message)
        except PeerError as broken:
            # Questions that are open cannot be answered on a stream that is out of step.
            error = broken
        except (OSError, FlowFailed) as failed:
            error = _StreamEnded(f"the connection to the resolver broke: {failed}")
        except asyncio.CancelledError:
            pass  # idle for long enough, or closed
        except Exception as failed:
            error = _StreamEnded(f"the connection to the resolver broke: {failed}")
        finally:
            self.ended = True
            if self._idle is not None:
                self._idle.cancel()
            self._stream.abort()
            for _, _, future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)

    def _answered(self, message: bytes) -> None:
        waiting = self._waiting.get(message_id(message))
        if waiting is None:
            return  # asked by someone who has given up meanwhile
        name, kind, future = waiting
        answer = read_answer(message, name, kind)
        if not future.done():
            future.set_result(answer)


class _Both:
    """Starts tasks, and ends those that still run when it is left."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[Answer]] = []

    def start(self, coroutine: Awaitable[Answer]) -> asyncio.Task[Answer]:
        task = asyncio.ensure_future(coroutine)
        assert isinstance(task, asyncio.Task)
        self._tasks.append(task)
        return task

    async def __aenter__(self) -> _Both:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
