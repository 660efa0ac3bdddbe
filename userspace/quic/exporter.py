"""The TLS 1.3 exporter: keying material that only the two ends of this handshake can compute (RFC 8446 §7.5).

The exporter master secret itself is taken from aioquic's key schedule in ``aioquic_internals``, at the one moment when
its transcript is ClientHello to server Finished.
"""

from __future__ import annotations

from dataclasses import dataclass

from aioquic.tls import hkdf_expand_label
from cryptography.hazmat.primitives import hashes

from .errors import LocalError


@dataclass(frozen=True, slots=True)
class Exporter:
    """secret: the exporter_master_secret. algorithm: the hash of the cipher suite."""

    secret: bytes
    algorithm: hashes.HashAlgorithm

    def export(self, label: bytes, context: bytes, length: int) -> bytes:
        """length bytes, 1 to 255 times the hash's size. Raises LocalError on a label or length out of range."""
        if not 1 <= length <= 255 * self.algorithm.digest_size or not 1 <= len(label) <= 249:
            raise LocalError(f"cannot export {length} bytes under a label of {len(label)}")
        derived = hkdf_expand_label(self.algorithm, self.secret, label, self._hash(b""), self.algorithm.digest_size)
        return hkdf_expand_label(self.algorithm, derived, b"exporter", self._hash(context), length)

    def _hash(self, data: bytes) -> bytes:
        digest = hashes.Hash(self.algorithm)
        digest.update(data)
        return digest.finalize()
