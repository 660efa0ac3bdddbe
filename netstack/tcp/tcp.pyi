from collections.abc import Callable

from .attempt import Attempt
from .connection import Connection
from .endpoint import Endpoint, Owner
from .types import Handler, IPAddress

class Listener(Endpoint):
    """What ``Tcp.listen`` gives."""

    backlog: int
    half_open: int
    closed: bool
    @property
    def port(self) -> int: ...
    def close(self) -> None:
        """Take no more connections. Those that have been told of stay; handshakes under way are reset as they complete."""

class Tcp(Owner):
    """Made by a stack, as ``Stack.tcp``."""

    on_attempt: Callable[[Attempt], None] | None
    """Called from ``Stack.tell`` for a SYN to a local name that nobody listens on; None: it is answered with a RST."""
    def connect(
        self,
        address: IPAddress | str,
        port: int,
        handler: Handler,
        *,
        local: IPAddress | str | None = None,
        local_port: int = 0,
    ) -> Connection:
        """Begin a connection (RFC 9293 §3.10.1). local: an address of the stack's; local_port: 0 for one that is free.

        Raises TcpError when there is no such address or port, the name is taken, or there are too many connections;
        ValueError for what is no address.
        """
    def listen(
        self,
        port: int,
        on_accept: Callable[[Connection], None],
        *,
        address: IPAddress | str | None = None,
        backlog: int = 1024,
    ) -> Listener:
        """Take connections to port of address, or of any local address. on_accept is called from ``Stack.tell`` for each whose
        handshake is complete; call ``set_handler`` on it then or later.

        backlog: handshakes under way at once; beyond it there are cookies, if allowed. Raises TcpError when there is a
        listener already.
        """
    def connections(self) -> list[Connection]:
        """All that are open or half open."""
    def statistics(self) -> dict[str, int]:
        """Counters since the stack began, and what there is now."""
    def close(self) -> None:
        """End everything: connections are reset and their handlers told, attempts and listeners are gone."""
