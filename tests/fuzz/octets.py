"""Inputs of fuzz targets: an input is octets and nothing else, so that a corpus can hold it and any change makes another.

A target reads them with ``Cursor`` and is never without: behind the end there are zeros.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence


class Cursor:
    """Numbers out of octets."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def is_at_end(self) -> bool:
        return self.at >= len(self.data)

    def octets(self, count: int) -> bytes:
        """At most count of them."""
        taken = self.data[self.at : self.at + count]
        self.at += count
        return taken

    def number(self, octets: int = 1) -> int:
        return int.from_bytes(self.octets(octets).ljust(octets, b"\0"), "big")


def mutated(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """Another input near to data, with parts of other."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        at = draw.randint(0, len(out))
        match draw.randrange(7):
            case 0 | 1 if out:
                out[min(at, len(out) - 1)] ^= 1 << draw.randrange(8)
            case 2 if out:
                out[min(at, len(out) - 1)] = draw.choice((0, 1, 0x3F, 0x40, 0x7F, 0x80, 0xFF, draw.randrange(256)))
            case 3:
                del out[at : at + draw.randint(1, 40)]
            case 4:
                out[at:at] = draw.randbytes(draw.randint(1, 8))
            case 5:
                begin = draw.randint(0, len(other))
                out[at:at] = other[begin : begin + draw.randint(1, 200)]
            case _:
                out[at:at] = out[at : at + draw.randint(1, 60)]
    return bytes(out)


def minimised(data: bytes, fails: Callable[[bytes], bool], tries: int = 2000) -> bytes:
    """The shortest that fails too, as far as tries reach: pieces are left out, large ones first."""
    size = len(data) // 2
    while size and tries > 0:
        at = 0
        while at < len(data) and tries > 0:
            shorter = data[:at] + data[at + size :]
            tries -= 1
            if fails(shorter):
                data = shorter
            else:
                at += size
        size //= 2
    return data


def some_of(inputs: Sequence[bytes], draw: random.Random) -> bytes:
    """One of inputs, changed."""
    return mutated(draw.choice(inputs), draw.choice(inputs), draw)
