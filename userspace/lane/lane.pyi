from collections.abc import Callable

from quicsocks.netstack.stack import Stack

from ..quic.native.port import DatagramPort

class Lane(DatagramPort):
    """A stack and the DATAGRAMs of a session, joined: ``Connection.set_port`` takes it; or ``datagrams`` and ``receive`` do.

    stack: its clock is the session's, its waker becomes the lane's. has_context: each DATAGRAM begins with a Context ID, as
    on ``quicsocks/1``; not on ``qt``. size: octets of the largest DATAGRAM. on_wake(): there is something to send or to
    tell."""

    stack: Stack
    has_context: bool
    size: int
    other_contexts: int
    def __init__(self, stack: Stack, *, has_context: bool, size: int, on_wake: Callable[[], None]) -> None: ...
    def set_size(self, size: int) -> bool:
        """The largest DATAGRAM has so many octets from now on. False: too few for any IP packet, so that nothing is sent until
        there are more."""
    def datagrams(self, now: float) -> list[bytes]:
        """What is to be sent now: at most 64, and then there may be more."""
    def receive(self, data: bytes | bytearray | memoryview, now: float, ecn: int = 0) -> None:
        """A DATAGRAM that has come, and the ECN codepoint of what brought it."""
    def next_timer(self) -> float: ...
    def handle_timer(self, now: float) -> None: ...
    def make_calls(self) -> None:
        """The callbacks that are due."""
