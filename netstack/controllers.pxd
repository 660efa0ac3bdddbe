"""Controllers by name."""

from libc.stdint cimport uint32_t

from .congestion cimport Controller
from .rtt cimport RttEstimator

cdef Controller make_controller(str name, RttEstimator rtt, uint32_t mss, double now)
