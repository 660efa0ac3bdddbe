from collections.abc import Callable

from .connection import Connection
from .endpoint import Endpoint
from .types import IPAddress

class Attempt(Endpoint):
    """A SYN to a name that nobody listens on, which waits for the application's word: one of the four verbs, once. Each raises
    TcpError when the attempt is over."""

    over: bool
    """It has been answered, the peer has given up, or it has waited too long."""
    on_gone: Callable[[], None] | None
    """Called from ``Stack.tell`` when it is over without an answer of the application's."""
    @property
    def local_address(self) -> tuple[IPAddress, int]:
        """What the peer wants to reach."""
    @property
    def remote_address(self) -> tuple[IPAddress, int]: ...
    def accept(self) -> Connection:
        """Answer with a SYN-ACK; ``connected`` tells when the peer has confirmed it. Raises TcpError also when there is no
        room."""
    def refuse(self) -> None:
        """Answer with a RST: nobody is there."""
    def unreachable(self, kind: int, code: int) -> None:
        """Answer with an ICMP error (of IPv4) or an ICMPv6 one, as the SYN was."""
    def drop(self) -> None:
        """Do not answer at all."""
