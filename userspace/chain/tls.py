"""TLS of the server's side as a layer: for Trojan, which is TLS and a password.

Sans-IO on ``ssl.MemoryBIO``, so that a client's close_notify stays what it is: the end of one direction (RFC 8446
§6.1).
"""

from __future__ import annotations

import ssl
from pathlib import Path

from ..quic.errors import LocalError, PeerError


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Raises LocalError with one line for the user."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        reason = error.strerror or getattr(error, "reason", None) or "not a PEM certificate and its key"
        raise LocalError(f"cannot use the certificate {certificate} with the key {key}: {reason}") from None
    return context


class TlsServer:
    """One connection. ``pending`` has what is to be sent besides: call it after ``decode``."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._handshaken = False
        self.ended = False

    def pending(self) -> bytes:
        """Handshake messages, session tickets and alerts."""
        return self._outgoing.read()

    def decode(self, data: bytes) -> bytes:
        """Raises PeerError; ``pending`` then may have the alert that says why."""
        self._incoming.write(data)
        out = bytearray()
        try:
            if not self._handshaken:
                self._ssl.do_handshake()
                self._handshaken = True
            while chunk := self._ssl.read(1 << 16):
                out += chunk
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            raise PeerError(f"TLS failed: {error.reason or 'unknown reason'}") from None
        return bytes(out)

    def decode_eof(self) -> None:
        """TCP's FIN without a close_notify. Raises PeerError: someone on the way may have cut the stream."""
        if not self.ended:
            raise PeerError("the TLS stream was cut off")

    def encode(self, data: bytes) -> bytes:
        """Only after the handshake, which is over once ``decode`` has returned anything."""
        view = memoryview(data)
        while view:
            view = view[self._ssl.write(view) :]
        return self._outgoing.read()

    def encode_eof(self) -> bytes:
        """A close_notify; the peer's may still come."""
        try:
            self._ssl.unwrap()
        except ssl.SSLError:
            pass  # it waits for the peer's close_notify, which decode reads
        return self._outgoing.read()
