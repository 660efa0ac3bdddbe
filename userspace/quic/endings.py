"""From aioquic's ConnectionTerminated to the one value that says who ended a session, and why.

Read RFC 9000 §20 (transport error codes) and RFC 8446 §6 (TLS alerts, which are CRYPTO_ERROR + the alert).
"""

from __future__ import annotations

from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription

from .aioquic_internals.common import ClosedBy
from .errors import End, Ended

MAX_REASON = 256
"""Characters of a reason: a line of a log."""

_CRYPTO_ERRORS = range(0x100, 0x200)
_NO_COMMON_VERSION = "Could not find a common protocol version"
_UNTRUSTED_ALERTS = frozenset(
    {
        AlertDescription.bad_certificate,
        AlertDescription.unsupported_certificate,
        AlertDescription.certificate_expired,
        AlertDescription.certificate_unknown,
        AlertDescription.unknown_ca,
    }
)


def ended_of(event: ConnectionTerminated, closed_by: ClosedBy | None, established: bool) -> Ended:
    """established: whether the handshake had completed."""
    code, reason = int(event.error_code), printable(event.reason_phrase)
    match closed_by:
        case ClosedBy.APPLICATION:
            return Ended(End.LOCALLY_CLOSED, code, reason)
        case ClosedBy.PEER_APPLICATION:
            return Ended(End.PEER_CLOSED, code, reason)
        case ClosedBy.TIMEOUT:
            return Ended(End.TIMED_OUT if established else End.HANDSHAKE_TIMED_OUT)
        case ClosedBy.PEER_ENGINE:
            return _by_peer(code, reason, established)
        case ClosedBy.NO_PATH:
            return Ended(End.TIMED_OUT, None, reason)
        case None if reason == _NO_COMMON_VERSION:
            return Ended(End.VERSION_MISMATCH)
        case _:
            return _by_us(code, reason)


def _by_peer(code: int, reason: str, established: bool) -> Ended:
    if code == QuicErrorCode.CONNECTION_REFUSED:
        return Ended(End.REFUSED, code, reason)
    if code == QuicErrorCode.VERSION_NEGOTIATION_ERROR:
        return Ended(End.VERSION_MISMATCH, code, reason)
    if code == QuicErrorCode.APPLICATION_ERROR and not established:
        # RFC 9000 §10.2.3: an application's close before 1-RTT keys does not carry the application's code.
        return Ended(End.PEER_CLOSED, None, reason)
    if code == QuicErrorCode.CRYPTO_ERROR + AlertDescription.no_application_protocol:
        return Ended(End.ALPN_MISMATCH, code, reason)
    if code in _CRYPTO_ERRORS:
        return Ended(End.TLS_FAILED, code, reason or _alert_name(code))
    return Ended(End.PEER_TRANSPORT, code, reason)


def _by_us(code: int, reason: str) -> Ended:
    if code == QuicErrorCode.VERSION_NEGOTIATION_ERROR:
        return Ended(End.VERSION_MISMATCH, code, reason)
    if code == QuicErrorCode.CRYPTO_ERROR + AlertDescription.no_application_protocol:
        return Ended(End.ALPN_MISMATCH, code, reason)
    if code in _CRYPTO_ERRORS:
        if code - QuicErrorCode.CRYPTO_ERROR in _UNTRUSTED_ALERTS:
            return Ended(End.UNTRUSTED, code, reason)
        return Ended(End.TLS_FAILED, code, reason or _alert_name(code))
    return Ended(End.LOCAL_TRANSPORT, code, reason)


def printable(text: str) -> str:
    """Text from the network made fit for a log: one line of printable characters, no longer than MAX_REASON."""
    # U+FFFD REPLACEMENT CHARACTER, by its number: by its name, all names would be loaded wherever this is compiled.
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:MAX_REASON])


def _alert_name(code: int) -> str:
    try:
        return AlertDescription(code - QuicErrorCode.CRYPTO_ERROR).name.replace("_", " ")
    except ValueError:
        return f"TLS alert {code - QuicErrorCode.CRYPTO_ERROR}"
