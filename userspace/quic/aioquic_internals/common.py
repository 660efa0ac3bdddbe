"""What both engines have of a connection of aioquic's, apart from the connection itself.

The native engine does without ``connection``, and so its process does without all that is only in there. Part of the
guarded room; see ``__init__``.
"""

from __future__ import annotations

import enum

from aioquic import tls
from aioquic.quic.connection import QuicConnection
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SMALLEST_DATAGRAM = 1200
"""Octets that every QUIC path carries (RFC 9000 §14)."""
MAX_REASON = 200
"""Octets of a close reason: it is repeated at up to three encryption levels in one datagram of 1200."""


class ClosedBy(enum.Enum):
    APPLICATION = "our application"
    ENGINE = "our transport"
    PEER_APPLICATION = "the peer's application"
    PEER_ENGINE = "the peer's transport"
    TIMEOUT = "the idle timeout"
    NO_PATH = "the loss of the last path"


def public_key_of(certificate: x509.Certificate) -> bytes:
    """DER of the certificate's SubjectPublicKeyInfo (RFC 5280 §4.1)."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def use_negotiated_version(connection: QuicConnection) -> None:
    """Call when handshake keys have come. A client's later Initials name the negotiated version (RFC 9368 §2.3), but aioquic
    goes on to protect them for the one that it began with; servers drop those."""
    if connection._is_client and connection._version in connection._cryptos_initial:
        connection._cryptos[tls.Epoch.INITIAL] = connection._cryptos_initial[connection._version]


def shorten(reason: str) -> str:
    return reason.encode()[:MAX_REASON].decode(errors="ignore")
