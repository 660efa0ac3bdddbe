"""Driving a flight round trip by round trip: for tests of a controller's formulas."""

from __future__ import annotations

from quicsocks.netstack.flight import Flight


def fill(flight: Flight, now: float) -> list[int]:
    """Send as much as the window lets; pacing is not looked at."""
    numbers = []
    while flight.in_flight + flight.controller.mss <= flight.controller.window:
        numbers.append(flight.send(now))
    return numbers


def round_trip(flight: Flight, now: float, rtt: float) -> float:
    """Fill the window at now and have every packet acknowledged, by an ACK of its own, a round trip later: that time."""
    for number in fill(flight, now):
        flight.update(now + rtt, [number])
    return now + rtt


def grow_to(flight: Flight, packets: int, rtt: float, now: float = 0.0) -> float:
    """In slow start, up to a window of at least so many packets. The time then."""
    while flight.controller.window < packets * flight.controller.mss:
        now = round_trip(flight, now, rtt)
    return now


def lose_one(flight: Flight, now: float, rtt: float) -> tuple[int, float]:
    """Fill the window at now; its first packet is lost, all others are acknowledged. Its number, and the time then."""
    first, *others = fill(flight, now)
    flight.update(now + rtt, others, [first])
    return first, now + rtt
