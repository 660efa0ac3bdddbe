"""The two roots of every error of the transport and the tunnel, and the one value that says how a connection ended.

``PeerError`` is the only exception that bytes from the network may raise; a fuzz target asserts it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class LocalError(Exception):
    """Our caller used an interface wrongly or asked for what is not to be had; nothing was sent."""


class PeerError(Exception):
    """The other side broke its protocol.

    code: the application or transport error code to close or reset with, where the protocol names one.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class End(enum.Enum):
    """Who ended a connection, and why."""

    LOCALLY_CLOSED = "closed by us"
    PEER_CLOSED = "closed by the peer's application"
    PEER_TRANSPORT = "closed by the peer's transport"
    LOCAL_TRANSPORT = "the peer broke the transport protocol"
    PEER_RESET = "the peer has lost the connection's state (stateless reset)"
    TIMED_OUT = "nothing heard from the peer for the idle timeout"
    HANDSHAKE_TIMED_OUT = "no answer, or no complete handshake in time"
    UNREACHABLE = "the network refuses to carry packets to the peer"
    REFUSED = "the peer refused the connection"
    VERSION_MISMATCH = "no QUIC version in common"
    ALPN_MISMATCH = "no application protocol in common"
    UNTRUSTED = "the peer's key or certificate is not the expected one"
    TLS_FAILED = "the TLS handshake failed"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a session ended: one value for logs, for mapping to replies, and for deciding whether to try again.

    code: the QUIC or application error code (RFC 9000 §20), None when there is none.
    reason: text from the peer, already made printable and at most 256 characters, or our own.
    """

    end: End
    code: int | None = None
    reason: str = ""

    def __str__(self) -> str:
        detail = f" ({self.reason})" if self.reason else ""
        code = f", code {self.code:#x}" if self.code else ""
        return f"{self.end.value}{code}{detail}"
