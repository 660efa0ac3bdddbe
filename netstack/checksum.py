"""The Internet checksum.

Read first: RFC 1071, and RFC 8200 §8.1 for the pseudo-header of IPv6. Pure functions over bytes.
"""

from __future__ import annotations


def ones_complement_sum(data: bytes | bytearray | memoryview, start: int = 0) -> int:
    """Add data's 16-bit big-endian words, a last odd byte padded with zero, to start; 16 bits, carries folded in.

    Sums of parts combine when every part but the last has an even length (RFC 1071 §2).
    """
    size = len(data)
    # RFC 1071 §2 (C): the sum modulo 65535 is the same over wider words, and int.from_bytes takes any width.
    number = int.from_bytes(data, "big") << (8 if size % 2 else 0)
    total = start + number
    folded = total % 0xFFFF
    # Modulo cannot tell 0 from 65535, addition with end-around carry can: only an all-zero input sums to 0.
    return 0xFFFF if folded == 0 and total else folded


def internet_checksum(data: bytes | bytearray | memoryview, start: int = 0) -> int:
    """The checksum over data whose own checksum field is zero. start: ``ones_complement_sum`` of what precedes it."""
    return ones_complement_sum(data, start) ^ 0xFFFF


def pseudo_header_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """The sum over the pseudo-header of IPv4 (RFC 9293 §3.1) or IPv6 (RFC 8200 §8.1); both sum the same fields.

    source, destination: 4 or 16 bytes each. protocol: 0 to 255. length: of the upper layer's header and data.
    """
    if len(source) != len(destination) or len(source) not in (4, 16):
        raise ValueError("addresses of 4 or of 16 bytes")
    fields = length.to_bytes(4, "big") + protocol.to_bytes(4, "big")
    return ones_complement_sum(source + destination + fields)
