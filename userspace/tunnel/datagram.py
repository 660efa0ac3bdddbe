"""DATAGRAM frames of ``quicsocks/1``: a varint Context ID and a payload, as in RFC 9298 §5 and RFC 9484 §6.

Context ID 0 is a whole IP packet. Others are agreed on by control messages, even ones given out by the client, odd ones
by the concentrator. On ``qt`` the frame is the raw IP packet and nothing here is used.
"""

from __future__ import annotations

from ..quic.errors import PeerError
from .types import CloseCode
from .varint import decode_varint, encode_varint

IP_PACKET = 0
"""The Context ID of whole IP packets."""


def encode_datagram(context: int, payload: bytes) -> bytes:
    """Raises LocalError for a context beyond 2^62 - 1."""
    return encode_varint(context) + payload


def decode_datagram(data: bytes) -> tuple[int, bytes]:
    """Context ID and payload. Raises PeerError when data ends within the Context ID; the frame is then dropped."""
    found = decode_varint(data)
    if found is None:
        raise PeerError("DATAGRAM frame without a Context ID", CloseCode.PROTOCOL_VIOLATION)
    context, offset = found
    return context, data[offset:]
