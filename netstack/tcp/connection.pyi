from collections.abc import Callable
from typing import Any

from .endpoint import Endpoint
from .types import Ended, Handler, IPAddress

class Pump:
    """Moves octets between a connection and a socket of the kernel that stays its owner's. sent, received: octets from the
    socket, to it. active_at: s on the stack's clock, when the last one passed."""

    sent: int
    received: int
    active_at: float
    def read(self) -> int:
        """Take what the socket has into the connection. Octets; 0 at the end, -1 when there is nothing now. Raises OSError."""
    def write(self) -> bool:
        """The socket is writable again. False: it takes no more."""
    def close(self) -> None:
        """Part again; what the connection still brings goes to its handler."""

class Connection(Endpoint):
    """A TCP connection: the four verbs of a stream, ``write``, ``finish``, ``reset`` and ``stop_sending``, and credit.

    After each call ask the stack for packets to send, if its waker has been called.
    """

    @property
    def local_address(self) -> tuple[IPAddress, int]: ...
    @property
    def remote_address(self) -> tuple[IPAddress, int]: ...
    @property
    def state(self) -> str:
        """RFC 9293's name of it: "ESTABLISHED", "CLOSE-WAIT"; "CLOSED" when it is over, in TIME-WAIT too."""
    @property
    def ended(self) -> Ended | None:
        """How it ended, None while it lives and when both ends have finished."""
    @property
    def send_buffered(self) -> int:
        """Octets taken by ``write`` and not yet put in a segment for the first time."""
    def set_handler(self, handler: Handler) -> None:
        """Take the callbacks, or hand them to another; what arrived before the first call is held, within the window."""
    def set_nodelay(self, on: bool) -> None:
        """Whether small segments leave at once, without Nagle's algorithm (RFC 9293 MUST-17)."""
    def set_user_timeout(self, seconds: float) -> None:
        """How long data may go unacknowledged (RFC 9293 MUST-21)."""
    def set_keepalive(self, seconds: float) -> None:
        """Send a keep-alive after so many seconds of silence; 0: never (RFC 9293 MUST-24)."""
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Buffer all of data for sending; it may be reused by the caller after return.

        Raises TcpError after ``finish``, or when the caller has gone on for 1 MiB past ``pause_writing``. After the end it
        does nothing.
        """
    def pump(self, descriptor: int, on_full: Callable[[], None], on_error: Callable[[OSError], None]) -> Pump:
        """Join a connected, non-blocking socket of the kernel: from now on its octets do not pass the handler.

        on_full: the socket takes no more; call ``Pump.write`` when it is writable. on_error: writing to it has failed.
        Both are called from ``Stack.tell``, where the handler would be.
        """
    def finish(self) -> None:
        """Send a FIN behind what is buffered. A second call does nothing."""
    def reset(self, code: int = 0) -> None:
        """Send a RST and forget everything (RFC 9293 §3.10.5). ``connection_lost`` follows. code: TCP has none."""
    def stop_sending(self, code: int = 0) -> None:
        """What the peer sends is of no use any more: it is dropped, and ``data_received`` and ``eof_received`` are not called
        again. Once we have finished as well, any more of it is answered with a RST (RFC 2525 §2.16), and so is what has come
        and was not delivered (RFC 9293 SHLD-3). code: TCP has none."""
    def consumed(self, size: int) -> None:
        """Open the window for octets that ``data_received`` delivered and that have been passed on. Raises TcpError for more
        than were delivered; after ``stop_sending`` and the end it does nothing."""
    def statistics(self) -> dict[str, Any]:
        """Counters and the state of things. Times in s, sizes in octets."""
