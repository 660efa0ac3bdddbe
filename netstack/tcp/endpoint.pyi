from ..host import Flow, Transport
from .types import Options

class Owner(Transport):
    options: Options
    congestion: str
    half_open: int

class Endpoint(Flow): ...
