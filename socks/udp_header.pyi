Octets = bytes | bytearray | memoryview

def decode_udp(datagram: Octets) -> tuple[int, str, int, bytes] | None:
    """(FRAG, host, port, data) of a datagram from a client: host is an IP literal or a name in lower case. None: it is none."""

def encode_udp(host: str, port: int, data: bytes) -> bytes:
    """A datagram for a client: host is the IP address from which data came, never a name (RFC 1928 §7). Raises ValueError."""

class Reassembly:
    """Fragments of one association's datagrams, put together (RFC 1928 §7)."""

    def add(self, fragment: int, host: str, port: int, data: bytes, now: float) -> tuple[str, int, bytes] | None:
        """A fragment, FRAG not 0, as ``decode_udp`` gives it: (host, port, data) when it completes a datagram, else None.

        Fragments come in order; one that does not continue what is there begins anew or is dropped."""
