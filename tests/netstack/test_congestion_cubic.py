"""CUBIC against the equations of RFC 9438, in segments as the RFC has them, and HyStart++ (RFC 9406)."""

from __future__ import annotations

from collections.abc import Callable
from math import cbrt

import pytest

from quicsocks.netstack.flight import Flight
from quicsocks.netstack.loss_based import Cubic, LossBased
from tests.netstack.rounds import fill, grow_to, lose_one, round_trip

MSS = 1200
RTT = 0.1
BETA = 0.7
C = 0.4
ALPHA = 3 * (1 - BETA) / (1 + BETA)


def cubic(flight: Flight) -> Cubic:
    assert isinstance(flight.controller, Cubic)
    return flight.controller


def segments(flight: Flight) -> float:
    return flight.controller.window / MSS


def slow_start_over(packets: int, rtt: float = RTT) -> tuple[Flight, float]:
    """A flight whose slow start a loss has ended, at a window of at least so many packets, and the time."""
    flight = Flight("cubic", mss=MSS)
    now = grow_to(flight, packets, rtt)
    _, now = lose_one(flight, now, rtt)
    return flight, now


class Reference:
    """A congestion avoidance stage, by the letter of RFC 9438 §4.2 to §4.5."""

    def __init__(self, w_max: float, cwnd_prior: float, cwnd: float, began: float) -> None:
        self.w_max = w_max
        self.cwnd_prior = cwnd_prior
        self.cwnd = self.w_est = cwnd
        self.began = began
        self.k = cbrt((w_max - cwnd) / C)

    def w_cubic(self, t: float) -> float:
        return C * (t - self.k) ** 3 + self.w_max

    def acked(self, now: float, srtt: float) -> None:
        """One segment."""
        t = now - self.began
        alpha = ALPHA if self.w_est < self.cwnd_prior else 1.0
        self.w_est += alpha / self.cwnd
        if self.w_cubic(t) < self.w_est:
            self.cwnd = max(self.cwnd, self.w_est)
            return
        target = self.w_cubic(t + srtt)
        if target < self.cwnd:
            target = self.cwnd
        elif target > 1.5 * self.cwnd:
            target = 1.5 * self.cwnd
        self.cwnd += (target - self.cwnd) / self.cwnd


@pytest.mark.parametrize(
    ("packets", "rtt"), [(20, 0.1), (20, 0.02), (160, 0.02), (160, 0.2), (1280, 0.1), (1280, 0.005)]
)
def test_the_window_is_that_of_the_equations(packets: int, rtt: float) -> None:
    flight, now = slow_start_over(packets, rtt)
    w_max = cubic(flight).curve[0] / MSS
    reference: Reference | None = None
    acknowledged = 0
    while acknowledged < 40 * packets:
        numbers = fill(flight, now)
        now += rtt
        for number in numbers:
            flight.update(now, [number])
            if reference is None:
                reference = Reference(w_max, w_max, w_max * BETA, now)
            reference.acked(now, flight.rtt.smoothed)
            acknowledged += 1
            assert segments(flight) == pytest.approx(reference.cwnd, abs=0.01)
    assert segments(flight) > w_max * BETA


def test_after_k_seconds_it_is_back_where_the_loss_was_and_flat() -> None:
    flight, now = slow_start_over(1280)
    now = round_trip(flight, now, RTT)
    w_max, k, _ = cubic(flight).curve
    assert k == pytest.approx(cbrt(0.3 * w_max / MSS / C))
    assert cubic(flight).w_cubic(k) == w_max
    assert cubic(flight).w_cubic(0) == pytest.approx(BETA * w_max)
    began = now
    windows = {}
    while now < began + 2 * k:
        now = round_trip(flight, now, RTT)
        windows[now - began] = flight.controller.window
    growth = {at: windows[at] - windows[before] for before, at in zip(windows, list(windows)[1:], strict=False)}
    at_k = min(windows, key=lambda at: abs(at - k))
    assert windows[at_k] == pytest.approx(w_max, rel=0.01)
    # Concave before, convex behind: the growth of a round trip is smallest near K.
    assert abs(min(growth, key=lambda at: growth[at]) - k) < 0.2 * k
    assert max(windows.values()) > 1.2 * w_max


def test_with_a_short_round_trip_it_grows_as_reno_does() -> None:
    rtt = 0.002
    flight, now = slow_start_over(40, rtt)
    began = flight.controller.window
    rounds = 20
    for _ in range(rounds):
        now = round_trip(flight, now, rtt)
    w_max, k, w_est = cubic(flight).curve
    assert flight.controller.window == pytest.approx(w_est, abs=1)
    assert flight.controller.window == pytest.approx(began + rounds * ALPHA * MSS, rel=0.03)
    assert cubic(flight).w_cubic(rounds * rtt) < w_est
    assert w_max > w_est
    assert k > rounds * rtt


def test_above_the_former_window_reno_friendliness_has_renos_slope() -> None:
    rtt = 0.002
    flight, now = slow_start_over(20, rtt)
    w_max = cubic(flight).curve[0]
    while flight.controller.window < w_max:
        now = round_trip(flight, now, rtt)
    before = flight.controller.window
    for _ in range(20):
        now = round_trip(flight, now, rtt)
    assert flight.controller.window == pytest.approx(before + 20 * MSS, abs=2 * MSS)


def test_a_second_loss_before_it_recovered_lowers_w_max_further() -> None:
    flight, now = slow_start_over(160)
    now = round_trip(flight, now, RTT)
    first = cubic(flight).curve[0]
    window = flight.controller.window
    assert window < first
    _, now = lose_one(flight, now, RTT)
    assert cubic(flight).curve[0] == pytest.approx(window * (1 + BETA) / 2)
    assert flight.controller.window == int(window * BETA)


def test_a_loss_behind_the_former_w_max_raises_it() -> None:
    flight, now = slow_start_over(40)
    first = cubic(flight).curve[0]
    while flight.controller.window <= first:
        now = round_trip(flight, now, RTT)
    window = flight.controller.window
    _, now = lose_one(flight, now, RTT)
    assert cubic(flight).curve[0] == window


def test_after_persistent_congestion_the_curve_begins_where_slow_start_ends() -> None:
    flight, now = slow_start_over(160)
    now = round_trip(flight, now, RTT)
    numbers = fill(flight, now)
    now += 5.0
    flight.update(now, numbers[-1:], numbers[:-1], persistent=True)
    threshold = cubic(flight).threshold
    assert threshold is not None
    while flight.controller.window < threshold:
        now = round_trip(flight, now, RTT)
    assert flight.controller.window < 1.01 * threshold
    w_max, k, _ = cubic(flight).curve
    assert (w_max, k) == (threshold, 0.0)


def test_undo_gives_back_the_whole_curve() -> None:
    flight, now = slow_start_over(160)
    for _ in range(20):
        now = round_trip(flight, now, RTT)
    curve = cubic(flight).curve
    window = flight.controller.window
    number, now = lose_one(flight, now, RTT)
    assert cubic(flight).curve != curve
    flight.update(now, [number])
    assert cubic(flight).curve == curve
    assert flight.controller.window == window
    for _ in range(10):
        now = round_trip(flight, now, RTT)
    assert window < flight.controller.window < 1.2 * window


def idle(flight: Flight, now: float, duration: float) -> float:
    return now + duration


def trickle(flight: Flight, now: float, duration: float) -> float:
    end = now + duration
    while now < end:
        number = flight.send(now)
        now += RTT
        flight.update(now, [number])
    return now


@pytest.mark.parametrize("meanwhile", [idle, trickle])
def test_time_in_which_the_window_was_not_filled_does_not_count(
    meanwhile: Callable[[Flight, float, float], float],
) -> None:
    def run(pause: float) -> tuple[int, int]:
        flight, now = slow_start_over(160)
        for _ in range(10):
            now = round_trip(flight, now, RTT)
        before = flight.controller.window
        if pause:
            now = meanwhile(flight, now, pause)
        for _ in range(10):
            now = round_trip(flight, now, RTT)
        return before, flight.controller.window

    before, without = run(0.0)
    again, with_pause = run(60.0)
    assert before == again
    assert with_pause == pytest.approx(without, rel=0.03)


# --- HyStart++ --------------------------------------------------------------------------------------------------------


def rounds_at(flight: Flight, now: float, *rtts: float) -> float:
    for rtt in rtts:
        now = round_trip(flight, now, rtt)
    return now


@pytest.mark.parametrize("name", ["cubic", "reno"])
def test_a_round_trip_that_takes_longer_ends_slow_start_after_five_careful_rounds(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = rounds_at(flight, 0.0, 0.04, 0.04)
    controller = flight.controller
    assert isinstance(controller, LossBased)

    def state() -> str:
        return controller.slow_start

    assert state() == "yes"
    now = rounds_at(flight, now, 0.045)
    assert state() == "conservative"
    window = flight.controller.window
    for _ in range(4):
        # A quarter of slow start's growth.
        now = rounds_at(flight, now, 0.05)
        assert flight.controller.window == pytest.approx(1.25 * window, rel=0.01)
        window = flight.controller.window
        assert state() == "conservative"
    now = rounds_at(flight, now, 0.05)
    assert state() == "no"
    assert flight.controller.window < 1.06 * window


def test_jitter_does_not_end_slow_start() -> None:
    flight = Flight("cubic", mss=MSS)
    now = rounds_at(flight, 0.0, 0.04, 0.04, 0.06)
    assert cubic(flight).slow_start == "conservative"
    rounds_at(flight, now, 0.04)
    assert cubic(flight).slow_start == "yes"
    assert cubic(flight).threshold is None


def test_a_single_late_acknowledgement_is_not_noticed() -> None:
    flight = Flight("cubic", mss=MSS)
    now = rounds_at(flight, 0.0, 0.04, 0.04)
    first, *others = fill(flight, now)
    for number in others:
        flight.update(now + 0.04, [number])
    flight.update(now + 0.09, [first])
    rounds_at(flight, now + 0.1, 0.04)
    assert cubic(flight).slow_start == "yes"


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [
        (0.010, 0.0135, "yes"),  # 4 ms at least
        (0.010, 0.0145, "conservative"),
        (0.064, 0.071, "yes"),  # an eighth
        (0.064, 0.073, "conservative"),
        (0.400, 0.415, "yes"),  # 16 ms at most
        (0.400, 0.417, "conservative"),
    ],
)
def test_how_much_longer_it_has_to_take(before: float, after: float, state: str) -> None:
    flight = Flight("cubic", mss=MSS)
    rounds_at(flight, 0.0, before, before, before, after)
    assert cubic(flight).slow_start == state


def test_fewer_than_eight_samples_say_nothing() -> None:
    flight = Flight("cubic", mss=MSS)
    now = rounds_at(flight, 0.0, 0.04, 0.04)
    numbers = fill(flight, now)
    size = len(numbers) // 7 + 1
    for first in range(0, len(numbers), size):
        flight.update(now + 0.08, numbers[first : first + size])
    assert cubic(flight).slow_start == "yes"


def test_a_loss_in_the_careful_rounds_ends_slow_start_at_once() -> None:
    flight = Flight("cubic", mss=MSS)
    now = rounds_at(flight, 0.0, 0.04, 0.04, 0.06)
    assert cubic(flight).slow_start == "conservative"
    lose_one(flight, now, 0.06)
    assert cubic(flight).slow_start == "no"


def test_only_the_first_slow_start_is_careful() -> None:
    flight, now = slow_start_over(160)
    numbers = fill(flight, now)
    now += 5.0
    flight.update(now, numbers[-1:], numbers[:-1], persistent=True)
    rounds_at(flight, now, 0.04, 0.04, 0.04, 0.09)
    assert cubic(flight).slow_start == "yes"
