from .rtt import RttEstimator

class Controller:
    """rtt: the path's. mss: octets of a full-sized packet. Use a subclass."""

    rtt: RttEstimator
    window: int
    pacing_rate: float
    mss: int
    name: str
    def __init__(self, rtt: RttEstimator, mss: int, now: float = 0.0) -> None: ...

class Pacer:
    """Make one for each path, for good: what has been sent lately counts whatever the controller."""

    rate: float
    burst: int
    def octets(self, controller: Controller, now: float) -> int: ...
    def sent(self, size: int) -> None: ...
    def next_at(self, now: float) -> float: ...
