"""Controllers by name: those that ``--congestion`` may name."""

from libc.stdint cimport uint32_t

from .bbr cimport Bbr
from .congestion cimport Controller
from .loss_based cimport Cubic, NewReno
from .rtt cimport RttEstimator


cdef Controller make_controller(str name, RttEstimator rtt, uint32_t mss, double now):
    if name == "cubic":
        return Cubic(rtt, mss, now)
    if name == "reno":
        return NewReno(rtt, mss, now)
    if name == "bbr":
        return Bbr(rtt, mss, now)
    raise ValueError(f"congestion controller {name!r} is not known")
