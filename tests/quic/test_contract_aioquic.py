"""The contract of the doors, kept by the aioquic engine over a simulated network: a good one and a bad one."""

from __future__ import annotations

from quicsocks.userspace.quic.types import DialConfig, Limits, ListenConfig, Session, SessionHandler, Trust

from ..sim.link import Conditions
from ..sim.pair import Pair
from .contract import Joined, SessionContract
from .keys import self_signed
from .recorders import SessionLog


class TestAioquic(SessionContract):
    conditions = Conditions(delay=0.005)

    def join(
        self,
        limits: Limits | None = None,
        *,
        server_limits: Limits | None = None,
        take: bool = True,
        consume: bool = True,
    ) -> Joined:
        limits = limits if limits is not None else Limits()
        identity = self_signed()
        pair = Pair(seed=1, up=self.conditions)
        logs = SessionLog(take, consume), SessionLog(take, consume)
        accepted: list[Session] = []

        def accept(session: Session) -> SessionHandler:
            accepted.append(session)
            return logs[1]

        pair.listen(
            ListenConfig(
                ("test/1",),
                identity.certificate,
                identity.private_key,
                bytes(32),
                server_limits if server_limits is not None else limits,
            ),
            accept,
        )
        client = pair.dial(DialConfig(("test/1",), Trust("server.example", (identity.pin,)), limits), logs[0])
        pair.drive(lambda: logs[0].completed and logs[1].completed)
        pair.settle()
        return Joined(client, accepted[0], *logs, settle=pair.settle)
