from quicsocks.netstack.congestion import Controller, Pacer
from quicsocks.netstack.rtt import RttEstimator

class Path:
    id: int
    rtt: RttEstimator
    controller: Controller
    pacer: Pacer
    in_flight: int
    validated: bool
    received: int
    sent: int
    mtu: int
    spins: bool
