def cut(packet: bytes, mtu: int, id: int) -> list[bytes]:
    """For tests and tools: the fragments of a packet without extension headers or options, none larger than mtu."""

class Reassembler:
    reassembled: int
    refused: int
    timed_out: int
