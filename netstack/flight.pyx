"""A controller, its pacer and what it has in flight, to be driven from Python. For tests and tools: the transport keeps its
own books."""

from libc.stdint cimport uint32_t, uint64_t

from .congestion cimport Controller, PacketSample, Pacer
from .controllers cimport make_controller
from .rtt cimport RttEstimator


cdef class _Sent:
    cdef PacketSample sample
    cdef bint lost


cdef class Flight:
    """name: as make_controller has it. initial_rtt: s, before there is a sample. mss: octets of a packet of full size."""

    cdef readonly Controller controller
    cdef readonly Pacer pacer
    cdef readonly RttEstimator rtt
    cdef readonly uint64_t in_flight        # octets
    cdef readonly uint64_t next_number
    cdef uint64_t _largest                  # acknowledged, plus 1
    cdef dict _sent

    def __init__(self, str name, *, uint32_t mss=1200, double initial_rtt=0.333, double now=0.0):
        self.rtt = RttEstimator(initial_rtt)
        self.controller = make_controller(name, self.rtt, mss, now)
        self.pacer = Pacer()
        self._sent = {}

    def may_send(self, double now):
        """Whether window and pacer let a packet of full size go now."""
        return (
            self.in_flight + self.controller.mss <= self.controller.window
            and self.pacer.budget(self.controller, now) >= self.controller.mss
        )

    def send(self, double now, uint32_t size=0):
        """A packet of size octets, 0: of full size, leaves, whatever window and pacer say. Its number."""
        cdef _Sent sent = _Sent()
        cdef uint64_t number = self.next_number
        sent.sample.size = size or self.controller.mss
        sent.sample.sent_at = now
        self.controller.on_sent(&sent.sample, self.in_flight, now)
        self.pacer.on_sent(sent.sample.size)
        self.in_flight += sent.sample.size
        self._sent[number] = sent
        self.next_number += 1
        return number

    def app_limited(self):
        """There is nothing to send."""
        self.controller.on_app_limited(self.in_flight)

    def update(
        self, double now, acked=(), lost=(), *, double ack_delay=0.0, uint64_t marks=0, bint persistent=False,
    ):
        """One ACK frame, or a loss timeout: numbers of packets newly acknowledged, and lost.

        A packet that was lost before and is acknowledged now was not lost after all. The round trip is measured when the
        largest number is larger than all before.
        """
        cdef _Sent sent
        cdef double newest_sent_at = -1.0
        self.controller.begin_update(self.in_flight, now)
        for number in sorted(acked, reverse=True):
            sent = self._sent.pop(number)
            if sent.lost:
                self.controller.on_spurious_loss(sent.sample.sent_at, now)
                continue
            if number >= self._largest:
                self._largest = number + 1
                self.rtt.update(now - sent.sample.sent_at, ack_delay)
            newest_sent_at = max(newest_sent_at, sent.sample.sent_at)
            self.in_flight -= sent.sample.size
            self.controller.on_acked(&sent.sample, now)
        if marks:
            self.controller.on_congestion_marks(marks, newest_sent_at, now)
        for number in sorted(lost):
            sent = self._sent[number]
            if not sent.lost:
                sent.lost = True
                self.in_flight -= sent.sample.size
                self.controller.on_lost(&sent.sample, now)
        if persistent:
            self.controller.on_persistent_congestion(now)
        self.controller.end_update(self.in_flight, now)

    def forget(self, number):
        """A lost packet will not be acknowledged any more."""
        del self._sent[number]

    def outstanding(self):
        """Numbers of the packets in flight, in order."""
        cdef _Sent sent
        return [number for number, sent in self._sent.items() if not sent.lost]

    def lost(self):
        """Numbers of the packets that were lost and not acknowledged since, in order."""
        cdef _Sent sent
        return [number for number, sent in self._sent.items() if sent.lost]

    def set_mss(self, uint32_t mss):
        self.controller.set_mss(mss)

    def reset(self, double now):
        """A new path: what is in flight has nothing to do with it."""
        self._sent.clear()
        self.in_flight = 0
        self.rtt.reset(0.333)
        self.controller.reset(now)
