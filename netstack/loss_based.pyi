from .congestion import Controller

class LossBased(Controller):
    @property
    def threshold(self) -> int | None: ...
    @property
    def slow_start(self) -> str: ...

class NewReno(LossBased):
    """RFC 9002 §7."""

class Cubic(LossBased):
    """RFC 9438."""

    def w_cubic(self, t: float) -> float: ...
    @property
    def curve(self) -> tuple[float, float, float]: ...
