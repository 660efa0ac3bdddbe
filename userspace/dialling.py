"""One attempt to reach the concentrator: resolve its name, race its addresses, authenticate with the first that answers.

The addresses are raced as RFC 8305 §5 has it for TCP: one after another with a short delay, the first completed
handshake wins. Only the winner is authenticated to; the losers have learned nothing but that somebody dialled.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from .quic.errors import End, Ended, LocalError
from .quic.types import Address, DialConfig, Endpoint, PathEvent, Session, Stream
from .refusal import CANNOT_RESOLVE
from .tunnel.client import ClientTunnel
from .tunnel.types import Identity, TunnelLimits
from .tunnel_timer import TunnelTimer

STAGGER = 0.3
"""Seconds between two addresses of one race; RFC 8305 §8 recommends 0.25 for TCP, and a QUIC handshake computes more."""
MAX_ADDRESSES = 8
"""Addresses of one name that are tried."""
READY_TIMEOUT = 10.0
"""Seconds from the handshake's end to the concentrator's word that the client is welcome."""


class DialFailed(Exception):
    """No tunnel came of an attempt."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(str(ended))
        self.ended = ended


class Uplinked:
    """A session with its tunnel, and what became of it. Implements the tunnel's ClientEvents."""

    def __init__(self, session: Session, identity: Identity | None) -> None:
        loop = asyncio.get_running_loop()
        self.session = session
        self.over: asyncio.Future[Ended] = loop.create_future()
        self.ready: asyncio.Future[TunnelLimits] = loop.create_future()
        self.goodbye: asyncio.Future[str] = loop.create_future()
        """Done, with the reason, when the concentrator takes no new flows."""
        self.limits = TunnelLimits()
        self._timer = TunnelTimer(loop)
        self.tunnel = ClientTunnel(
            session, identity=identity, events=self, clock=loop.time, timer_changed=self._timer.changed
        )
        self._timer.drive(self.tunnel)

    def tunnel_ready(self, limits: TunnelLimits) -> None:
        self.limits = limits
        if not self.ready.done():
            self.ready.set_result(limits)

    def tunnel_goodbye(self, reason: str, drain: float) -> None:
        if not self.goodbye.done():
            self.goodbye.set_result(reason)

    def tunnel_ended(self, ended: Ended) -> None:
        self._timer.stop()
        if not self.over.done():
            self.over.set_result(ended)

    async def wait_ready(self) -> None:
        """Raises DialFailed when the session ends first, or nothing is heard for READY_TIMEOUT."""
        either: list[asyncio.Future[Any]] = [self.ready, self.over]
        await asyncio.wait(either, timeout=READY_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if self.over.done():
            raise DialFailed(self.over.result())
        if not self.ready.done():
            self.tunnel.close(0, "no answer to the authentication")
            raise DialFailed(Ended(End.TIMED_OUT, reason="no answer to the authentication"))


async def dial(
    endpoint: Endpoint,
    remote: tuple[str, int],
    config: DialConfig,
    *,
    identity: Identity | None,
    resolve: Callable[[str, int], Awaitable[Sequence[Address]]],
    usable: Callable[[Uplinked], None] | None = None,
) -> Uplinked:
    """Make a tunnel to remote; raises DialFailed, or LocalError when config fits no address. Cancelling it leaves nothing
    behind.

    usable: called as soon as flows may be sent, right behind the authentication and before its answer.
    """
    try:
        addresses = interleave(await resolve(*remote))[:MAX_ADDRESSES]
    except OSError as error:
        text = f"{CANNOT_RESOLVE} {remote[0]}: {error.strerror or error}"
        raise DialFailed(Ended(End.UNREACHABLE, reason=text)) from None
    if not addresses:
        raise DialFailed(Ended(End.UNREACHABLE, reason=f"{CANNOT_RESOLVE} {remote[0]}: it has no address"))
    session, early = await _race(endpoint, addresses, config)
    uplinked = Uplinked(session, identity)
    uplinked.tunnel.handshake_completed()
    for stream in early:
        uplinked.tunnel.stream_opened(stream)
    if usable is not None and uplinked.tunnel.usable:
        usable(uplinked)
    try:
        await uplinked.wait_ready()
    except asyncio.CancelledError:
        uplinked.tunnel.close(0, "not needed")
        raise
    return uplinked


def interleave(addresses: Sequence[Address]) -> list[Address]:
    """Alternate between the families, beginning with the first address's (RFC 8305 §4); duplicates are dropped."""
    unique = list(dict.fromkeys(addresses))
    six = [address for address in unique if ":" in address[0]]
    four = [address for address in unique if ":" not in address[0]]
    first, second = (six, four) if unique and ":" in unique[0][0] else (four, six)
    pairs = itertools.zip_longest(first, second)
    return [address for pair in pairs for address in pair if address is not None]


class _Attempt:
    """A session in a race: a SessionHandler that only waits for the handshake's outcome."""

    def __init__(self, changed: asyncio.Event) -> None:
        self._changed = changed
        self.session: Session | None = None
        self.completed = False
        self.ended: Ended | None = None
        self.early: list[Stream] = []

    def handshake_completed(self) -> None:
        self.completed = True
        self._changed.set()

    def stream_opened(self, stream: Stream) -> None:
        """Its events are held until a tunnel takes the session over."""
        self.early.append(stream)

    def datagram_received(self, data: bytes, ecn: int) -> None:
        """Nothing is expected before the authentication; DATAGRAMs may be lost."""

    def max_datagram_size_changed(self, size: int) -> None: ...

    def path_changed(self, event: PathEvent) -> None: ...

    def session_ended(self, ended: Ended) -> None:
        self.ended = ended
        self._changed.set()


async def _race(endpoint: Endpoint, addresses: Sequence[Address], config: DialConfig) -> tuple[Session, list[Stream]]:
    changed = asyncio.Event()
    attempts: list[_Attempt] = []
    winner: _Attempt | None = None
    left = list(addresses)
    try:
        while True:
            if left:
                attempt = _Attempt(changed)
                try:
                    attempt.session = endpoint.dial(left.pop(0), config, attempt)
                except OSError as error:
                    attempt.ended = Ended(End.UNREACHABLE, reason=error.strerror or str(error))
                except LocalError:
                    # E.g. an address of a family that this host lacks: another one may do.
                    if left:
                        continue
                    if not attempts:
                        raise
                if attempt.session is not None or attempt.ended is not None:
                    attempts.append(attempt)
            await _changed(changed, STAGGER if left else None, attempts)
            winner = next((attempt for attempt in attempts if attempt.completed and attempt.ended is None), None)
            if winner is not None and winner.session is not None:
                return winner.session, winner.early
            if not left and all(attempt.ended for attempt in attempts):
                raise DialFailed(_most_telling([attempt.ended for attempt in attempts if attempt.ended]))
    finally:
        for attempt in attempts:
            if attempt is not winner and attempt.session is not None and attempt.ended is None:
                attempt.session.close(0, "another address was faster")


async def _changed(changed: asyncio.Event, within: float | None, attempts: Sequence[_Attempt]) -> None:
    """Wait for news, for within seconds at most; not at all when every attempt is over already."""
    if all(attempt.ended for attempt in attempts):
        return
    changed.clear()
    try:
        # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the news.
        async with asyncio.timeout(within):
            await changed.wait()
    except TimeoutError:
        pass


def _most_telling(endings: Sequence[Ended]) -> Ended:
    """Of several failures the one that says most: somebody answered, rather than nobody."""
    silent = (End.HANDSHAKE_TIMED_OUT, End.UNREACHABLE, End.TIMED_OUT)
    return next((ended for ended in endings if ended.end not in silent), endings[0])
