"""How sessions are made: one function for each engine, from all that a handshake begins with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509

from .aioquic_internals.handshaker import Handshaker
from .aioquic_internals.handshaker_parameters import ENGINES_PARAMETERS
from .native.connection import Connection as NativeConnection
from .native_session import NativeSession
from .preferred import PREFERRED_ADDRESS, encode_preferred
from .resumption import ClientResumption, ServerResumption
from .session import BaseSession, Route, SessionOwner
from .tls_profile import Profile
from .types import Address, Limits


@dataclass(frozen=True, slots=True)
class Beginning:
    """original_cid, retry_cid: on a server, as ``QuicConnection`` has them. new_cid, reset_token, random_bytes: the
    owner's. verify_peer: what a client asks of the server's certificate. resumption: of the role. preferred_address: as
    ``ListenConfig``'s. spin_bit: see ``types.DialConfig``."""

    owner: SessionOwner
    configuration: QuicConfiguration
    profile: Profile
    limits: Limits
    route: Route
    now: float
    key: object
    new_cid: Callable[[], bytes]
    reset_token: Callable[[bytes], bytes]
    random_bytes: Callable[[int], bytes]
    verify_peer: Callable[[x509.Certificate], None] | None = None
    original_cid: bytes | None = None
    retry_cid: bytes | None = None
    resumption: ClientResumption | ServerResumption | None = None
    preferred_address: tuple[Address, ...] = ()
    spin_bit: bool = False

    @property
    def is_client(self) -> bool:
        return self.configuration.is_client


def _aioquic(beginning: Beginning) -> BaseSession:
    # Here, since most processes have sessions of the other engine only.
    from .aioquic_internals.connection import Connection
    from .aioquic_session import AioquicSession

    limits = beginning.limits
    connection = Connection(
        configuration=beginning.configuration,
        new_cid=beginning.new_cid,
        reset_token=beginning.reset_token,
        verify_peer=beginning.verify_peer,
        groups=beginning.profile.client_groups if beginning.is_client else beginning.profile.server_groups,
        signature_algorithms=beginning.profile.signature_algorithms,
        max_streams=(limits.max_streams_bidi, limits.max_streams_uni),
        original_destination_connection_id=beginning.original_cid,
        retry_source_connection_id=beginning.retry_cid,
    )
    return AioquicSession(
        connection,
        beginning.owner,
        limits=limits,
        is_client=beginning.is_client,
        route=beginning.route,
        begun=beginning.now,
        key=beginning.key,
    )


def _native(beginning: Beginning) -> NativeSession:
    limits, owner, resumption = beginning.limits, beginning.owner, beginning.resumption
    server = resumption if isinstance(resumption, ServerResumption) else None
    client = resumption if isinstance(resumption, ClientResumption) else None
    if client is not None:
        beginning.configuration.session_ticket = client.session
    extra, preferred_cid = dict(ENGINES_PARAMETERS), b""
    if beginning.preferred_address:
        preferred_cid = beginning.new_cid()
        token = beginning.reset_token(preferred_cid)
        extra[PREFERRED_ADDRESS] = encode_preferred(beginning.preferred_address, preferred_cid, token)
    handshaker = Handshaker(
        configuration=beginning.configuration,
        new_cid=beginning.new_cid,
        reset_token=beginning.reset_token,
        verify_peer=beginning.verify_peer,
        groups=beginning.profile.client_groups if beginning.is_client else beginning.profile.server_groups,
        signature_algorithms=beginning.profile.signature_algorithms,
        max_streams=(limits.max_streams_bidi, limits.max_streams_uni),
        original_destination_connection_id=beginning.original_cid,
        retry_source_connection_id=beginning.retry_cid,
        extra_parameters=extra,
        session_ticket_fetcher=server.find if server is not None else None,
        session_ticket_handler=(lambda ticket: client.keep(handshaker, ticket)) if client is not None else None,
        remembered_certificate=client.certificate if client is not None else None,
        accepts_early_data=(lambda: server.accepts_early_data(handshaker)) if server is not None else None,
    )
    connection = NativeConnection(
        is_client=beginning.is_client,
        limits=limits,
        random_bytes=beginning.random_bytes,
        new_cid=beginning.new_cid,
        reset_token=beginning.reset_token,
        waker=lambda: session.wake(),
        own_cid=handshaker.host_cid,
        preferred_cid=preferred_cid,
        route=beginning.route,
        now=beginning.now,
        spin_bit=beginning.spin_bit,
    )
    session = NativeSession(
        handshaker,
        connection,
        owner,
        limits=limits,
        is_client=beginning.is_client,
        route=beginning.route,
        begun=beginning.now,
        key=beginning.key,
        resumption=resumption,
    )
    return session


SESSIONS: dict[str, Callable[[Beginning], BaseSession]] = {"aioquic": _aioquic, "native": _native}
"""By the engine's name."""
ENGINES = tuple(SESSIONS)
