from collections.abc import Callable
from typing import Protocol

from .host import Flow, Host, Transport
from .udp import Address

class EchoHandler(Protocol):
    def reply_received(self, address: Address, sequence: int, data: bytes, hops: int, now: float) -> None:
        """hops: the TTL or hop limit with which it has come."""
    def error_received(self, reporter: Address, sequence: int, kind: int, code: int, now: float) -> None:
        """An ICMP or ICMPv6 error about a request, as the reporter's version is."""

class EchoSocket(Flow):
    """What ``Echo.open`` gives. Its handler is called from ``Stack.tell`` only."""

    @property
    def id(self) -> int:
        """Identifier of its requests."""
    def send(self, data: bytes, address: Address | str, sequence: int, *, hops: int = 64) -> bool:
        """Queue a request. sequence: taken modulo 65536. hops: TTL, 1 to 255. False: it is larger than what passes.
        Raises OSError: EBADF, ENETUNREACH; ValueError for what is no address."""
    def close(self) -> None: ...

class Echo(Transport):
    """Echo requests of a stack: ``Stack.echo``. on_request: where the stack takes all addresses, called for a request to one
    that is not its own, with the whole packet; false: it is dropped."""

    on_request: Callable[[bytes], bool] | None
    def __init__(self, host: Host) -> None: ...
    def open(self, handler: EchoHandler) -> EchoSocket:
        """Raises OSError: ENFILE, EADDRINUSE."""
