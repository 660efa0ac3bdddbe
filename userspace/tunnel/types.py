"""What the tunnel offers to the program and asks of it: flows to open, flows to dial, and who may.

The tunnel is sans-IO: it is driven by a ``Session``'s callbacks (quicsocks.userspace.quic.types) and by a clock that is
passed in, and it calls the protocols below. It dials nothing, resolves nothing and stores no key.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ..quic.errors import Ended
from ..quic.types import Pump

ALPN_QUICSOCKS = "quicsocks/1"
ALPN_QT = "qt"


class Cause(enum.IntEnum):
    """Why a flow failed, as ``quicsocks/1`` carries it in an Error TLV (docs/protocol.md). Values below 0x100 are the
    draft's own; on ``qt`` the finer ones become the nearest of those, with a synthesised ICMP packet where it says
    so."""

    # The draft's (draft-piraux-quic-tunnel, seed numbering).
    UNKNOWN_TLV = 0x0
    ICMP_RECEIVED = 0x1
    MALFORMED_TLV = 0x2
    NETWORK_FAILURE = 0x3
    # Ours.
    REFUSED = 0x100
    NETWORK_UNREACHABLE = 0x101
    HOST_UNREACHABLE = 0x102
    TIMED_OUT = 0x103
    TTL_EXPIRED = 0x104
    NAME_NOT_FOUND = 0x105
    NAME_TIMEOUT = 0x106
    DENIED = 0x107
    ADDRESS_PROHIBITED = 0x108
    FAMILY_UNSUPPORTED = 0x109
    LOOP = 0x10A
    LIMIT = 0x10B
    RESET = 0x10C
    NOT_AUTHENTICATED = 0x10D
    GOING_AWAY = 0x10E
    INTERNAL = 0x10F


class FlowFailed(Exception):
    """A flow could not be opened. icmp: the ICMP or ICMPv6 message of an Error TLV, empty when there was none."""

    def __init__(self, cause: Cause, detail: str = "", icmp: bytes = b"") -> None:
        super().__init__(f"{cause.name.lower()}: {detail}" if detail else cause.name.lower())
        self.cause = cause
        self.detail = detail
        self.icmp = icmp


class Destination(NamedTuple):
    """host: an IP literal, or (``quicsocks/1`` only) a name of 1 to 253 ASCII bytes. port: 1 to 65535."""

    host: str
    port: int


class BoundAddress(NamedTuple):
    """The concentrator's local address of an open flow. ("::", 0) when not told."""

    host: str = "::"
    port: int = 0


class FlowHandler(Protocol):
    """What a flow calls, at either end. The last call is ``flow_ended``; nothing comes after it.

    The mapping table of the draft: eof_received = the far TCP sent FIN; reset_received = it sent RST (or the peer's
    RESET_STREAM or STOP_SENDING, whichever came first: the flow answers both itself).
    """

    def connected(self, bound: BoundAddress) -> None:
        """Client end only: the destination has accepted."""

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def flow_ended(self, error: FlowFailed | None) -> None:
        """None: both directions finished in order. Otherwise the flow failed to open, or was reset (Cause.RESET), or
        its session ended (detail says why)."""


class TunnelFlow(Protocol):
    """One flow: a bidirectional stream whose TLVs the tunnel writes and reads."""

    @property
    def id(self) -> int: ...

    @property
    def send_buffered(self) -> int: ...

    def set_handler(self, handler: FlowHandler) -> None: ...

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes for the far end. A client may write before ``connected``."""

    def finish(self) -> None:
        """TCP FIN towards the far end (stream FIN)."""

    def reset(self) -> None:
        """TCP RST towards the far end (STOP_SENDING and RESET_STREAM, code 0). ``flow_ended`` is not called."""

    def consumed(self, size: int) -> None: ...

    def pump(self, descriptor: int, on_full: Callable[[], None], on_error: Callable[[OSError], None]) -> Pump | None:
        """As ``Stream.pump``; None also for a flow that is not open."""


class IncomingFlow(TunnelFlow, Protocol):
    """A client's request at the concentrator, not yet answered. Data may already arrive once a handler is set."""

    @property
    def destination(self) -> Destination: ...

    def accept(self, bound: BoundAddress) -> None:
        """The destination has accepted: Connect OK, (bound address,) End."""

    def refuse(self, cause: Cause, detail: str = "", icmp: bytes = b"") -> None:
        """Error, End, FIN. detail is for the log here; it is not sent. Afterwards the flow is over."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A key to prove: public_key is the DER SubjectPublicKeyInfo of an EC P-256 key; sign makes an ECDSA-SHA256
    signature (DER) of its argument. token: the enrolment token, when this key is not known to the concentrator yet;
    label: a name for people, e.g. the host name, sent with an enrolment only."""

    public_key: bytes
    sign: Callable[[bytes], bytes]
    token: bytes = b""
    label: str = ""


class AuthFailure(enum.IntEnum):
    """Why authentication failed (docs/protocol.md); also the application error code that closes the session."""

    UNKNOWN_KEY = 0x201
    BAD_PROOF = 0x202
    REVOKED = 0x203
    TOKEN_UNKNOWN = 0x204
    TOKEN_USED = 0x205
    TOKEN_EXPIRED = 0x206
    TIMED_OUT = 0x207
    METHOD_UNSUPPORTED = 0x208


class CloseCode(enum.IntEnum):
    """Application error codes with which a session is closed, beside AuthFailure's."""

    NO_ERROR = 0x0
    PROTOCOL_VIOLATION = 0x101
    LIMIT_EXCEEDED = 0x102
    GOING_AWAY = 0x103
    REVOKED = 0x203
    INTERNAL = 0x10F


class AuthRefused(Exception):
    def __init__(self, failure: AuthFailure) -> None:
        super().__init__(failure.name.lower())
        self.failure = failure


@dataclass(frozen=True, slots=True)
class TunnelLimits:
    """What a concentrator tells an authenticated client. 0 means no limit is told."""

    max_flows: int = 0
    max_pending: int = 0
    bytes_per_second: int = 0


@dataclass(frozen=True, slots=True)
class ClientAuthorised:
    """What the program answers to a proven key: the client's name and its limits."""

    name: str
    limits: TunnelLimits = field(default_factory=TunnelLimits)


class ClientEvents(Protocol):
    """What a client's tunnel calls."""

    def tunnel_ready(self, limits: TunnelLimits) -> None:
        """Authenticated (or, on qt, the handshake is complete). Flows opened earlier were already on their way."""

    def tunnel_goodbye(self, reason: str, drain: float) -> None:
        """The concentrator is going away and will take no new flow; those open have drain seconds left."""

    def tunnel_ended(self, ended: Ended) -> None:
        """The session is over; ``ended.code`` may be an AuthFailure or CloseCode. All flows have ended before."""


class ConcentratorEvents(Protocol):
    """What a concentrator's tunnel calls."""

    def authorise(self, public_key: bytes, token: bytes, label: str) -> ClientAuthorised:
        """The peer has proved that it holds public_key. token is empty when it is not enrolling. Raises AuthRefused.
        Not called on qt."""

    def tunnel_ready(self) -> None:
        """Authenticated, or the handshake is complete on qt."""

    def flow_requested(self, flow: IncomingFlow) -> None:
        """A well-formed request of an authenticated client. Set its handler, and accept or refuse it in time."""

    def tunnel_ended(self, ended: Ended) -> None: ...
