"""Named keys from one secret: Retry, stateless reset, NEW_TOKEN and session tickets have a key each.

All workers that share the secret, and a process that comes back after a crash, derive the same keys. Read RFC 5869.
The secret itself is kept by the caller and never leaves this object.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .errors import LocalError

MINIMUM_SECRET = 32
"""Octets: the strength of the keys that are derived."""


class Secrets:
    """Derives 32-byte keys by HKDF-SHA256. Raises LocalError when secret is shorter than 32 bytes."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MINIMUM_SECRET:
            raise LocalError(f"the server's secret has {len(secret)} bytes; it needs {MINIMUM_SECRET} or more")
        self._secret = secret

    def key(self, name: str, length: int = 32) -> bytes:
        """The key of that name. Other names give independent keys."""
        return HKDF(hashes.SHA256(), length, salt=None, info=b"quicsocks " + name.encode()).derive(self._secret)

    @property
    def retry(self) -> bytes:
        """Seals Retry tokens (RFC 9000 §8.1.2)."""
        return self.key("retry")

    @property
    def reset(self) -> bytes:
        """Makes stateless reset tokens (RFC 9000 §10.3.2)."""
        return self.key("stateless reset")

    @property
    def token(self) -> bytes:
        """Seals NEW_TOKEN tokens (RFC 9000 §8.1.3)."""
        return self.key("new token")

    @property
    def ticket(self) -> bytes:
        """Seals session tickets (RFC 8446 §4.6.1)."""
        return self.key("session ticket")
