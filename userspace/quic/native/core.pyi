from collections.abc import Callable

from ..errors import Ended
from ..session import Route
from ..types import Limits
from .stream import Owner

class Core(Owner):
    is_client: bool
    state: int
    confirmed: bool
    def __init__(
        self,
        *,
        is_client: bool,
        limits: Limits,
        random_bytes: Callable[[int], bytes],
        new_cid: Callable[[], bytes],
        reset_token: Callable[[bytes], bytes],
        waker: Callable[[], None],
        own_cid: bytes,
        route: Route,
        now: float,
        preferred_cid: bytes = b"",
        spin_bit: bool = False,
    ) -> None: ...
    @property
    def ended(self) -> Ended | None: ...
