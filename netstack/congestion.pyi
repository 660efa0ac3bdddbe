from .rtt import RttEstimator

class Controller:
    rtt: RttEstimator
    window: int
    pacing_rate: float
    mss: int
    name: str
    def __init__(self, rtt: RttEstimator, mss: int, now: float = 0.0) -> None: ...

class Pacer:
    rate: float
    burst: int
