from collections.abc import Sequence

Octets = bytes | bytearray | memoryview

def ones_complement_sum(data: Octets, start: int = 0) -> int:
    """Add data's 16-bit big-endian words, a last odd byte padded with zero, to start; 16 bits, carries folded in.

    Sums of parts combine when every part but the last has an even length (RFC 1071 §2).
    """

def internet_checksum(data: Octets, start: int = 0) -> int:
    """The checksum over data whose own checksum field is zero. start: ``ones_complement_sum`` of what precedes it."""

def pseudo_header_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """The sum over the pseudo-header of IPv4 (RFC 9293 §3.1) or IPv6 (RFC 8200 §8.1); both sum the same fields.

    source, destination: 4 or 16 bytes each. protocol: 0 to 255. length: of the upper layer's header and data.
    """

def sum_in_parts(data: Octets, cuts: Sequence[int]) -> int: ...
def adjust(checksum: int, before: int, after: int) -> int: ...
