"""The contract of the doors, kept by both engines and by both of their pairings over a simulated network."""

from __future__ import annotations

from quicsocks.userspace.quic.types import Limits

from ..sim.link import Conditions
from .contract import SessionContract
from .dialled import dial, dial_config, listen_config
from .joined import Joined


class EnginesContract(SessionContract):
    engines = ("aioquic", "aioquic")

    def join(
        self,
        limits: Limits | None = None,
        *,
        server_limits: Limits | None = None,
        take: bool = True,
        consume: bool = True,
    ) -> Joined:
        dialled = dial(
            seed=1,
            conditions=Conditions(delay=0.005),
            dialling=dial_config(limits=limits),
            listening=listen_config(limits=server_limits if server_limits is not None else limits),
            engines=self.engines,
        )
        dialled.complete()
        for log in (dialled.client_log, dialled.server_log):
            log.take, log.consume = take, consume
        dialled.pair.settle()
        return Joined(
            dialled.client, dialled.server, dialled.client_log, dialled.server_log, settle=dialled.pair.settle
        )


class TestAioquic(EnginesContract):
    pass


class TestNative(EnginesContract):
    engines = ("native", "native")


class TestNativeClient(EnginesContract):
    engines = ("native", "aioquic")


class TestNativeServer(EnginesContract):
    engines = ("aioquic", "native")
