from typing import Any

def look(data: bytes | bytearray | memoryview) -> dict[str, Any]:
    """For tests and tools: what is read of a packet, as a dict with ``reading``, a Reading; only that when it is not 0."""
