from .congestion import Controller

class DeliveryRate(Controller):
    @property
    def delivery_rate(self) -> float: ...
    @property
    def sample_app_limited(self) -> bool: ...
