"""Shadowsocks' AEAD stream: what is on the wire between a Shadowsocks client and server.

Read first: SIP004 (shadowsocks.org, "AEAD ciphers"). Sans-IO: bytes in, bytes out. The ciphers are those of
``cryptography``; only the framing is here.

pproxy has this framing too, but its nonce counter wraps after 4,096 uses (it takes 12 bytes for 12 bits), a failed
authentication becomes a zero byte in the stream, keys of different ciphers share one cache entry for a password, and
without PyCryptodome everything runs in Python loops. So its parsers are used and its ciphers are not. Against a pproxy
peer that means: a direction that carries more than 2,048 chunks (about 32 MiB) ends there, because pproxy's counter is
wrong from then on.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..quic.errors import LocalError, PeerError


@dataclass(frozen=True, slots=True)
class Cipher:
    """method: a name of ``METHODS``. key: derived from the password; its length is also the salt's."""

    method: str
    key: bytes

    @classmethod
    def from_password(cls, method: str, password: str) -> Cipher:
        """Raises LocalError with one line for the user; it never contains the password."""
        size = METHODS.get(method)
        if size is None:
            raise LocalError(
                f"Shadowsocks cipher {method[:40]!r} is not supported: only the AEAD ciphers {', '.join(METHODS)} are;"
                " the others let anyone on the way change what is sent"
            )
        if not password:
            raise LocalError("a Shadowsocks URL needs a password: ss://CIPHER:PASSWORD@HOST:PORT")
        # SIP004 keeps OpenSSL's EVP_BytesToKey with MD5 and no salt. It adds nothing to a weak password.
        digest, key = b"", b""
        while len(key) < size:
            digest = hashlib.md5(digest + password.encode(), usedforsecurity=False).digest()
            key += digest
        return cls(method, key[:size])

    def __repr__(self) -> str:
        return f"Cipher({self.method!r})"


class SaltFilter:
    """The salts that were seen lately: a recorded connection that is played again is refused.

    size: how many are remembered; at 32 bytes each with their table, 64 Ki of them take about 8 MiB. An attacker who
    waits for that many real connections gets one replay through.
    """

    def __init__(self, size: int = 1 << 16) -> None:
        self._size = size
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def is_new(self, salt: bytes) -> bool:
        """Remember salt, and tell whether it was not known."""
        if salt in self._seen:
            return False
        self._seen[salt] = None
        if len(self._seen) > self._size:
            self._seen.popitem(last=False)
        return True


class AeadStream:
    """One connection's two directions. salts: for a server, to refuse replays; shared by its connections.

    salt: the one to send, random unless a test gives it.
    """

    def __init__(self, cipher: Cipher, salts: SaltFilter | None = None, salt: bytes | None = None) -> None:
        self._cipher = cipher
        self._salts = salts
        self._own_salt = salt if salt is not None else secrets.token_bytes(len(cipher.key))
        self._sealer: _Direction | None = None
        self._opener: _Direction | None = None
        self._buffer = bytearray()
        self._length: int | None = None
        self.ended = False

    def encode(self, data: bytes) -> bytes:
        """Seal data; the first call puts the salt in front."""
        out = bytearray()
        if self._sealer is None:
            self._sealer = _Direction(self._cipher, self._own_salt)
            out += self._own_salt
        for start in range(0, len(data), MAX_CHUNK):
            chunk = data[start : start + MAX_CHUNK]
            out += self._sealer.seal(len(chunk).to_bytes(2, "big"))
            out += self._sealer.seal(chunk)
        return bytes(out)

    def encode_eof(self) -> bytes:
        """Nothing: the end of the stream is TCP's FIN."""
        return b""

    def decode(self, data: bytes) -> bytes:
        """Open what is complete. Raises PeerError: a wrong password, a replay, or bytes that were tampered with."""
        self._buffer += data
        if self._opener is None:
            size = len(self._cipher.key)
            if len(self._buffer) < size:
                return b""
            salt = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._opener = _Direction(self._cipher, salt)
            self._salt = salt
        out = bytearray()
        while True:
            if self._length is None:
                if len(self._buffer) < 2 + TAG:
                    break
                self._length = int.from_bytes(self._opener.open(bytes(self._buffer[: 2 + TAG])), "big")
                del self._buffer[: 2 + TAG]
                self._check_replay()
                if not 0 < self._length <= MAX_CHUNK:
                    raise PeerError(f"a Shadowsocks chunk of {self._length} bytes")
            if len(self._buffer) < self._length + TAG:
                break
            out += self._opener.open(bytes(self._buffer[: self._length + TAG]))
            del self._buffer[: self._length + TAG]
            self._length = None
        return bytes(out)

    def decode_eof(self) -> None:
        """The peer's FIN. Raises PeerError inside a chunk: what is there was cut off."""
        if self._buffer or self._length is not None:
            raise PeerError("the Shadowsocks stream was cut off inside a chunk")

    def _check_replay(self) -> None:
        # Only after the first chunk was opened, so that garbage cannot push real salts out of the filter.
        if self._salts is not None:
            salts, self._salts = self._salts, None
            if not salts.is_new(self._salt):
                raise PeerError("a Shadowsocks connection was played again")


class _Direction:
    """A subkey and its nonce, a little-endian counter of 96 bits."""

    def __init__(self, cipher: Cipher, salt: bytes) -> None:
        subkey = HKDF(SHA1(), len(cipher.key), salt, b"ss-subkey").derive(cipher.key)  # noqa: S303  # SIP004's choice
        self._aead = ChaCha20Poly1305(subkey) if cipher.method.startswith("chacha20") else AESGCM(subkey)
        self._count = 0

    def seal(self, data: bytes) -> bytes:
        return self._aead.encrypt(self._nonce(), data, None)

    def open(self, data: bytes) -> bytes:
        try:
            return self._aead.decrypt(self._nonce(), data, None)
        except InvalidTag:
            raise PeerError("the Shadowsocks password or cipher differs, or the bytes were changed") from None

    def _nonce(self) -> bytes:
        nonce = self._count.to_bytes(12, "little")
        self._count += 1
        return nonce


METHODS = {"aes-128-gcm": 16, "aes-256-gcm": 32, "chacha20-ietf-poly1305": 32}
"""Cipher names and their key lengths in bytes (SIP004)."""

MAX_CHUNK = 0x3FFF
"""Bytes of data in one chunk (SIP004)."""

TAG = 16
