from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .echo import Echo
from .host import Host
from .tcp.tcp import Tcp
from .tcp.types import Options
from .udp import Address, Udp, UdpLimits

@dataclass(frozen=True, slots=True)
class StackOptions:
    """addresses: the stack's own; the first of each version is the source towards others.
    takes_all: packets to any unicast address are local: the stack is the far end of the world (for an exit).
    mtu: octets of the largest packet that the link takes, 576 to 65535. tcp, udp: their limits, None for the defaults."""

    addresses: tuple[Address | str, ...] = ()
    takes_all: bool = False
    mtu: int = 1280
    tcp: Options | None = None
    udp: UdpLimits | None = None

class Stack(Host):
    """A TCP/IP host without interfaces, sans-IO: packets are given to ``receive`` and asked for with ``packets_to_send``; the
    clock is the caller's, in s, and does not go back. Callbacks are made from ``tell`` only. One thread's.

    What comes in packets raises nothing. waker: called when there is something to send or to tell, once until ``rest``.
    """

    options: StackOptions
    udp: Udp
    tcp: Tcp
    echo: Echo
    on_foreign: Callable[[bytes], None] | None
    """Called for each packet to an address that is not the stack's, with the packet; by default they are dropped."""

    def __init__(
        self,
        options: StackOptions,
        *,
        random_bytes: Callable[[int], bytes] = ...,
        waker: Callable[[], None] | None = None,
        now: float = 0.0,
    ) -> None:
        """Raises ValueError for an MTU or an address that cannot be."""
    def receive(self, packet: bytes | bytearray | memoryview, now: float) -> None:
        """An IP packet that has come."""
    def packets_to_send(self, now: float) -> list[bytes]:
        """Packets that may leave now, at most 64, and then there may be more; none larger than ``mtu``."""
    def next_timer(self) -> float:
        """When ``handle_timer`` is due, s; inf: not at all."""
    def handle_timer(self, now: float) -> None: ...
    def tell(self) -> None:
        """Make the callbacks that are due."""
    @property
    def has_words(self) -> bool:
        """Whether ``tell`` has any to make."""
    def rest(self) -> None:
        """Call ``waker`` again when there is something new."""
    def set_mtu(self, mtu: int) -> None:
        """The link takes packets of so many octets from now on, 576 to 65535. Raises ValueError."""
    def set_addresses(self, addresses: Iterable[Address | str]) -> None:
        """Replace the stack's own; what is open under others gets nothing more."""
    def set_peers(self, addresses: Iterable[Address | str] | None) -> None:
        """Take packets from these source addresses only, and answer others that they are prohibited; None: from anybody."""
    @property
    def addresses(self) -> tuple[Address, ...]: ...
    def mtu_towards(self, address: Address | str) -> int:
        """Octets of the largest packet to address that is believed to pass."""
    def counted(self) -> dict[str, int]:
        """How often what has happened, by name."""
