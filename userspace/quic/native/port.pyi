class DatagramPort:
    """Where DATAGRAM payloads come from and go to without becoming Python objects. Use a subclass."""

class DatagramPortFace(DatagramPort):
    """For tests and tools: lists of what is to be sent and of what has come, and a timer."""

    outgoing: list[bytes]
    incoming: list[tuple[bytes, int, float]]
    asked: list[int]
    timer: float
    timed: list[float]
    told: int
