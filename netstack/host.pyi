from collections.abc import Callable

class Flow: ...

class Host:
    now: float
    mtu: int
    waker: Callable[[], None] | None
    def seed(self, random_bytes: Callable[[int], bytes]) -> None: ...

class FlowTable:
    size: int

class Transport: ...
