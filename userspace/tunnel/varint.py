"""QUIC variable-length integers (RFC 9000 §16), for everything of ours that is not a TLV of the draft.

It knows nothing but bytes. Encodings longer than needed are accepted, as RFC 9000 accepts them outside frame types.
"""

from __future__ import annotations

from ..quic.errors import LocalError

MAXIMUM = (1 << 62) - 1
"""The largest value that has an encoding."""


def encode_varint(value: int) -> bytes:
    """The shortest encoding of value, 0 to 2^62 - 1. Raises LocalError outside that range."""
    if 0 <= value < 0x40:
        return bytes((value,))
    if 0 <= value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if 0 <= value < 0x40000000:
        return (value | 0x80000000).to_bytes(4, "big")
    if 0 <= value <= MAXIMUM:
        return (value | 0xC000000000000000).to_bytes(8, "big")
    raise LocalError(f"{value} has no encoding as a variable-length integer")


def decode_varint(data: bytes | bytearray, offset: int = 0) -> tuple[int, int] | None:
    """The value at offset and the offset behind it, or None when data ends before the integer does."""
    if offset >= len(data):
        return None
    first = data[offset]
    end = offset + (1 << (first >> 6))
    if end > len(data):
        return None
    value = first & 0x3F
    for octet in data[offset + 1 : end]:
        value = value << 8 | octet
    return value, end
