from typing import Protocol

from ..quic.types import Stream
from .flow import Flow
from .tlv import TLVError, Wire
from .types import BoundAddress, Cause, Destination

class FlowOwner(Protocol):
    """What a flow asks of its tunnel."""

    def admit(self, size: int) -> bool:
        """Whether size more octets of a flow may be held or looked at: before authentication there is a limit."""

    def request_complete(self, flow: ConcentratorFlow) -> None:
        """The request is read: tell the program, refuse it, or wait for authentication."""

    def flow_left_pending(self, flow: ConcentratorFlow, *, accepted: bool) -> None:
        """The request is answered, or needs no answer any more."""

    def flow_over(self, flow: Flow) -> None:
        """The flow needs no more attention."""

    def request_broken(self, error: TLVError) -> None:
        """A request was answered with a protocol error: for the counters."""

class ConcentratorFlow(Flow):
    def __init__(self, stream: Stream, wire: Wire, owner: FlowOwner) -> None: ...
    @property
    def destination(self) -> Destination: ...
    def accept(self, bound: BoundAddress) -> None: ...
    def refuse(self, cause: Cause, detail: str = "", icmp: bytes = b"") -> None: ...
