"""A share of the resolver for each client, so that one that looks up many slow names delays only its own.

Who asks is a context variable, not an argument: it is set once where a client's flow begins to be dialled, and everything
on the way from there to the resolver (rules, races, proxies) need not pass it on.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from ..tunnel.types import Cause, FlowFailed
from .resolve import Resolver
from .special import IPAddress

AT_ONCE = 8
"""Lookups of one client under way: half of the system resolver's threads. At 20 ms for a name that is 400 a second."""
PATIENCE = 5.0
"""Seconds that a name waits for its client's others: as long as it may take itself."""

asker: ContextVar[str] = ContextVar("asker", default="")
"""The client that the running task works for; empty for the concentrator itself."""


class FairResolver:
    """Passes names on to resolver, at most at_once for each asker; the others wait for patience seconds."""

    def __init__(self, resolver: Resolver, at_once: int = AT_ONCE, patience: float = PATIENCE) -> None:
        self._resolver = resolver
        self._at_once = at_once
        self._patience = patience
        self._shares: dict[str, _Share] = {}

    async def resolve(self, name: str) -> list[IPAddress]:
        """Raises FlowFailed, with NAME_TIMEOUT when the asker's other names took all the time."""
        who = asker.get()
        share = self._shares.get(who)
        if share is None:
            share = self._shares[who] = _Share(self._at_once)
        share.users += 1
        try:
            try:
                async with asyncio.timeout(self._patience):
                    await share.places.acquire()
            except TimeoutError:
                raise FlowFailed(Cause.NAME_TIMEOUT, "the client looks up too many names at once") from None
            try:
                return await self._resolver.resolve(name)
            finally:
                share.places.release()
        finally:
            share.users -= 1
            if not share.users:
                del self._shares[who]

    async def close(self) -> None:
        """Close the resolver behind it."""
        await self._resolver.close()


class _Share:
    """One asker's places, for as long as anybody waits or looks up."""

    __slots__ = ("places", "users")

    def __init__(self, places: int) -> None:
        self.places = asyncio.Semaphore(places)
        self.users = 0
