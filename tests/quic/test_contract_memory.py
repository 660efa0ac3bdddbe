"""The contract of the doors, kept by the sessions in memory."""

from __future__ import annotations

import random

from quicsocks.userspace.quic.memory import MemoryLink
from quicsocks.userspace.quic.types import Limits

from .contract import SessionContract
from .joined import Joined
from .recorders import SessionLog


class TestMemory(SessionContract):
    seed: int | None = None
    chunk_size = 1200

    def join(
        self,
        limits: Limits | None = None,
        *,
        server_limits: Limits | None = None,
        take: bool = True,
        consume: bool = True,
    ) -> Joined:
        rng = random.Random(self.seed) if self.seed is not None else None
        link = MemoryLink(
            alpn="test/1", limits=limits, server_limits=server_limits, rng=rng, chunk_size=self.chunk_size
        )
        logs = SessionLog(take, consume), SessionLog(take, consume)
        link.client.set_handler(logs[0])
        link.server.set_handler(logs[1])
        link.complete_handshake()
        link.run()
        return Joined(link.client, link.server, *logs, settle=lambda: _settle(link))


class TestMemoryInAnyOrder(TestMemory):
    seed = 11
    chunk_size = 333


def _settle(link: MemoryLink) -> None:
    link.run(5_000_000)
