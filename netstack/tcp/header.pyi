from collections.abc import Sequence
from typing import Any

def look(data: bytes | bytearray | memoryview) -> dict[str, Any] | None:
    """For tests and tools: what is read of an IP packet with a TCP segment in it, as a dict; None: it is not taken."""

def write(
    source_port: int,
    destination_port: int,
    sequence: int,
    acknowledgement: int,
    flags: int,
    window: int,
    data: bytes,
    *,
    mss: int | None = None,
    scale: int | None = None,
    sack_permitted: bool = False,
    timestamps: tuple[int, int] | None = None,
    sacks: Sequence[tuple[int, int]] = (),
    pseudo: int = 0,
) -> bytes: ...
