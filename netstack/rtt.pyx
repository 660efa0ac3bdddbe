"""Round-trip times (RFC 9002 §5, RFC 6298). Read ``rtt.pxd`` first."""

cdef double LONGEST = 3600.0
# Seconds: what is longer is no round trip but a clock that jumped, and would be remembered for hours.


cdef class RttEstimator:
    """initial: s, taken until there is a sample."""

    def __init__(self, double initial=0.333):
        self.reset(initial)

    cdef void update(self, double sample, double ack_delay) noexcept:
        cdef double adjusted
        if not 0.0 <= sample <= LONGEST:
            return      # Two clocks, or a mistake. Not a number fails both comparisons.
        if not self.sampled:
            self.sampled = True
            self.minimum = self.latest = self.smoothed = sample
            self.variation = sample / 2.0
            return
        if sample < self.minimum:
            self.minimum = sample
        if not ack_delay > 0.0:
            ack_delay = 0.0
        adjusted = sample - ack_delay if sample - ack_delay >= self.minimum else sample
        self.latest = adjusted
        self.variation = 0.75 * self.variation + 0.25 * abs(self.smoothed - adjusted)
        self.smoothed = 0.875 * self.smoothed + 0.125 * adjusted

    cdef double timeout(self, double granularity) noexcept:
        cdef double spread = 4.0 * self.variation
        return self.smoothed + (spread if spread > granularity else granularity)

    cdef void reset(self, double initial) noexcept:
        self.sampled = False
        self.latest = self.minimum = 0.0
        self.smoothed = initial
        self.variation = initial / 2.0

    cdef void renew_minimum(self) noexcept:
        self.minimum = self.latest

    def sample(self, double sample, double ack_delay=0.0):
        """For tests and tools: the peer's answer took sample seconds, ack_delay of them at the peer."""
        self.update(sample, ack_delay)

    def timeout_after(self, double granularity=0.001):
        """For tests and tools: smoothed + max(4 * variation, granularity), s."""
        return self.timeout(granularity)

    def forget(self, double initial=0.333):
        """For tests and tools: a new path."""
        self.reset(initial)

    def start_minimum_again(self):
        """For tests and tools: as after persistent congestion."""
        self.renew_minimum()
