"""Round-trip times (RFC 9002 §5, RFC 6298), for the transport and for TCP."""


cdef class RttEstimator:
    cdef readonly double latest      # s, the newest sample less the peer's delay
    cdef readonly double smoothed    # s; the initial value until the first sample
    cdef readonly double variation   # s
    cdef readonly double minimum     # s, of all samples, the peer's delay not taken off; 0 before the first
    cdef readonly bint sampled       # whether there has been a sample

    cdef void update(self, double sample, double ack_delay) noexcept
    cdef double timeout(self, double granularity) noexcept  # smoothed + max(4 * variation, granularity)
    cdef void reset(self, double initial) noexcept          # a new path: forget
    cdef void renew_minimum(self) noexcept                  # after persistent congestion (RFC 9002 §5.2)
