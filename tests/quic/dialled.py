"""A client and a server of the aioquic engine on a simulated network, with everything in reach of a test."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from aioquic import tls

from quicsocks.userspace.quic.aioquic_session import AioquicSession
from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.types import DialConfig, Limits, ListenConfig, Session, SessionHandler, Trust

from ..sim.link import Conditions
from ..sim.pair import Pair
from .keys import Identity, self_signed
from .recorders import SessionLog

SECRET = bytes(range(32))


@dataclass
class Dialled:
    pair: Pair
    client: Session
    client_log: SessionLog
    server_logs: list[SessionLog] = field(default_factory=list)
    servers: list[Session] = field(default_factory=list)

    @property
    def server(self) -> Session:
        return self.servers[-1]

    @property
    def server_log(self) -> SessionLog:
        return self.server_logs[-1]

    @property
    def engine(self) -> AioquicSession:
        """The client's session with its engine."""
        assert isinstance(self.client, AioquicSession)
        return self.client

    @property
    def tls(self) -> tls.Context:
        """The client's."""
        if isinstance(self.client, NativeSession):
            return self.client.handshaker.tls
        return self.engine.connection.tls

    @property
    def server_engine(self) -> AioquicSession:
        server = self.server
        assert isinstance(server, AioquicSession)
        return server

    def complete(self, seconds: float = 20.0) -> Dialled:
        def done() -> bool:
            return self.client_log.completed and bool(self.server_logs) and self.server_log.completed

        self.pair.drive(done, seconds)
        return self

    def end(self, seconds: float = 60.0) -> Dialled:
        """Until the client's session has ended."""
        self.pair.drive(lambda: self.client_log.ended is not None, seconds)
        return self


def listen_config(identity: Identity | None = None, limits: Limits | None = None) -> ListenConfig:
    identity = identity if identity is not None else self_signed()
    return ListenConfig(
        ("test/1",),
        identity.certificate,
        identity.private_key,
        SECRET,
        limits if limits is not None else Limits(),
    )


def dial_config(identity: Identity | None = None, limits: Limits | None = None) -> DialConfig:
    """Trusts identity by pin."""
    identity = identity if identity is not None else self_signed()
    return DialConfig(("test/1",), Trust("server.example", (identity.pin,)), limits if limits is not None else Limits())


def listen(pair: Pair, config: ListenConfig | None = None) -> tuple[list[Session], list[SessionLog]]:
    sessions: list[Session] = []
    logs: list[SessionLog] = []

    def accept(session: Session) -> SessionHandler:
        sessions.append(session)
        logs.append(SessionLog())
        return logs[-1]

    pair.listen(config if config is not None else listen_config(), accept)
    return sessions, logs


def dial(
    seed: int = 0,
    conditions: Conditions | None = None,
    *,
    down: Conditions | None = None,
    dialling: DialConfig | None = None,
    listening: ListenConfig | None = None,
    limits: Limits | None = None,
    engines: tuple[str, str] | None = None,
) -> Dialled:
    """Begin a handshake; limits goes to both ends. engines: the client's, the server's."""
    pair = Pair(seed, conditions, down, engines)
    listening = listening if listening is not None else listen_config()
    dialling = dialling if dialling is not None else dial_config()
    if limits is not None:
        listening, dialling = replace(listening, limits=limits), replace(dialling, limits=limits)
    sessions, logs = listen(pair, listening)
    log = SessionLog()
    return Dialled(pair, pair.dial(dialling, log), log, logs, sessions)
