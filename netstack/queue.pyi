class PacketQueue:
    count: int
    dropped: int

class PacketQueueFace(PacketQueue):
    """For tests and tools: the same, from Python."""

    def __init__(self, limit: int, most: int) -> None: ...
    def push(self, data: bytes) -> bool:
        """Whether it was taken."""
    def take(self) -> bytes | None:
        """The oldest, or None."""
    def forget(self) -> None: ...
    @property
    def holds_memory(self) -> bool: ...
