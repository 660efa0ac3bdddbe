"""A bottleneck on a clock of its own: flows, each with a real controller, share one queue of a fixed rate.

Every packet is of full size. Receivers acknowledge every second packet, or what they have after 10 ms. Losses are told as
RFC 9002 §6.1.1 has it, and a probe timeout sends one packet whatever the window says (RFC 9002 §6.2.4).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

from quicsocks.netstack.flight import Flight

MSS = 1200
THRESHOLD = 3
"""Packets (RFC 9002 §6.1.1)."""
DELAYED_ACK = 0.010


class Flow:
    """A sender that always has something to send, and its receiver."""

    def __init__(self, name: str, rtt: float, began: float = 0.0) -> None:
        self.flight = Flight(name, mss=MSS, now=began)
        self.rtt = rtt
        self.began = began
        self.delivered = 0
        self.lost = 0
        self.outstanding: dict[int, float] = {}
        """When it was sent, by number; the order is that of the numbers."""
        self.unacknowledged: list[int] = []
        """What the receiver has and the sender has not heard of."""
        self.acks_sent = 0
        self.heard_at = began
        self.hears_at = began
        self.wakes_at = float("inf")
        self.limit: Callable[[float], float] | None = None
        """Octets that the application has offered by then; None: always more than fit."""
        self.sent = 0
        self.remembers = False
        """Whether lost packets may be acknowledged yet, by hand."""
        self.queued_most = 0.0
        """Seconds that a packet had to wait in the queue, the most of all."""


class Bottleneck:
    """rate: octets per second. queue: octets that wait at most. loss: of packets, at random. jitter: s, at random, that
    acknowledgements take longer."""

    def __init__(self, rate: float, queue: int, *, loss: float = 0.0, jitter: float = 0.0, seed: int = 1) -> None:
        self.rate = rate
        self.queue = queue
        self.loss = loss
        self.jitter = jitter
        self.random = Random(seed)
        self.now = 0.0
        self.free_at = 0.0
        self.flows: list[Flow] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self.each: Callable[[float], None] | None = None
        """Called behind every event."""

    def add(self, name: str, rtt: float, at: float = 0.0) -> Flow:
        flow = Flow(name, rtt, at)
        self.flows.append(flow)
        self.at(at, lambda: self._fill(flow))
        return flow

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, what))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
            if self.each is not None:
                self.each(self.now)
        self.now = until

    def _fill(self, flow: Flow) -> None:
        flow.wakes_at = float("inf")
        while True:
            if flow.limit is not None and flow.sent + MSS > flow.limit(self.now):
                flow.flight.app_limited()
                return
            if not flow.flight.may_send(self.now):
                break
            self._send(flow)
        if flow.flight.in_flight + MSS > flow.flight.controller.window:
            return
        when = flow.flight.pacer.next_at(self.now)
        assert when > self.now
        flow.wakes_at = when
        self.at(when, lambda: self._fill(flow) if flow.wakes_at == when else None)

    def poke(self, flow: Flow) -> None:
        """The application may have more."""
        self._fill(flow)

    def _send(self, flow: Flow) -> None:
        if not flow.outstanding:
            flow.heard_at = self.now
        number = flow.flight.send(self.now)
        flow.sent += MSS
        flow.outstanding[number] = self.now
        if len(flow.outstanding) == 1:
            self._await(flow)
        waits = max(0.0, self.free_at - self.now)
        flow.queued_most = max(flow.queued_most, waits)
        if self.random.random() < self.loss or waits * self.rate + MSS > self.queue:
            return
        self.free_at = self.now + waits + MSS / self.rate
        self.at(self.free_at + flow.rtt / 2, lambda: self._arrive(flow, number))

    def _arrive(self, flow: Flow, number: int) -> None:
        flow.delivered += MSS
        flow.unacknowledged.append(number)
        if len(flow.unacknowledged) >= 2:
            self._acknowledge(flow)
        elif len(flow.unacknowledged) == 1:
            acks = flow.acks_sent
            self.at(self.now + DELAYED_ACK, lambda: self._acknowledge(flow) if flow.acks_sent == acks else None)

    def _acknowledge(self, flow: Flow) -> None:
        numbers, flow.unacknowledged = flow.unacknowledged, []
        flow.acks_sent += 1
        delay = flow.rtt / 2 + self.random.random() * self.jitter
        flow.hears_at = max(flow.hears_at, self.now + delay)  # In order.
        self.at(flow.hears_at, lambda: self._hear(flow, numbers))

    def _hear(self, flow: Flow, numbers: list[int]) -> None:
        acked = [number for number in numbers if number in flow.outstanding]
        for number in acked:
            del flow.outstanding[number]
        lost = []
        for number in flow.outstanding:
            if number > numbers[-1] - THRESHOLD:
                break
            lost.append(number)
        for number in lost:
            del flow.outstanding[number]
        flow.lost += len(lost)
        flow.heard_at = self.now
        flow.flight.update(self.now, acked, lost)
        for number in [] if flow.remembers else lost:
            flow.flight.forget(number)
        self._fill(flow)

    def _await(self, flow: Flow) -> None:
        pto = flow.flight.rtt.timeout_after() + 0.025
        if not flow.outstanding:
            return
        if self.now >= flow.heard_at + pto:
            flow.heard_at = self.now
            self._send(flow)
        when = flow.heard_at + pto
        self.at(max(when, self.now + 0.001), lambda: self._await(flow))


def utilisation(link: Bottleneck, begin: float, end: float) -> float:
    """What of the bottleneck's rate is used between begin and end. Runs up to end."""
    link.run(begin)
    before = sum(flow.delivered for flow in link.flows)
    link.run(end)
    return (sum(flow.delivered for flow in link.flows) - before) / ((end - begin) * link.rate)
