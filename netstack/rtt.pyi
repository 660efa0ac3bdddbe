class RttEstimator:
    """initial: s, taken until there is a sample."""

    latest: float
    smoothed: float
    variation: float
    minimum: float
    sampled: bool
    def __init__(self, initial: float = 0.333) -> None: ...
    def sample(self, sample: float, ack_delay: float = 0.0) -> None: ...
    def timeout_after(self, granularity: float = 0.001) -> float: ...
