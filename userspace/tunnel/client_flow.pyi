from collections.abc import Callable
from typing import Final

from ..quic.types import Stream
from .flow import Flow
from .tlv import Wire
from .types import Destination, FlowHandler

EARLY_FLOWS: Final = 16
EARLY_OCTETS: Final[int]
MAX_HELD: Final[int]

class EarlyBudget:
    def __init__(self, flows: int = ..., octets: int = ...) -> None: ...
    def take_flow(self) -> bool: ...
    def take(self, size: int) -> bool: ...

class ClientFlow(Flow):
    def __init__(
        self,
        stream: Stream,
        destination: Destination,
        wire: Wire,
        handler: FlowHandler,
        forget: Callable[[Flow], None],
        budget: EarlyBudget | None,
    ) -> None: ...
    def send_request(self, octets: bytes) -> None: ...
    def release(self) -> None: ...
