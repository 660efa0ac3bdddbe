def sip(key: bytes, data: bytes) -> int:
    """For tests and tools: SipHash-2-4. key: 16 octets."""
