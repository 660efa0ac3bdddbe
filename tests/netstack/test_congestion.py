"""What all loss-based controllers do, NewReno's growth, and the pacer."""

from __future__ import annotations

import pytest

from quicsocks.netstack.congestion import Pacer
from quicsocks.netstack.flight import Flight
from quicsocks.netstack.loss_based import LossBased
from tests.netstack.rounds import fill, grow_to, lose_one, round_trip

MSS = 1200
RTT = 0.05
NAMES = ("reno", "cubic", "bbr")
LOSS_BASED = ("reno", "cubic")
BETA = {"reno": 0.5, "cubic": 0.7}


def controller(flight: Flight) -> LossBased:
    assert isinstance(flight.controller, LossBased)
    return flight.controller


# --- Windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("mss", "window"), [(1200, 12000), (1452, 14520), (1472, 14720), (1500, 14720), (9000, 18000)])
def test_the_initial_window_is_the_rfcs(name: str, mss: int, window: int) -> None:
    flight = Flight(name, mss=mss)
    # BBR keeps four packets in flight whatever their size.
    assert flight.controller.window == (max(window, 4 * mss) if name == "bbr" else window)
    assert flight.controller.name == name
    assert flight.controller.mss == mss


def test_a_name_that_is_not_known_is_an_error() -> None:
    with pytest.raises(ValueError, match="vegas"):
        Flight("vegas")


@pytest.mark.parametrize("name", LOSS_BASED)
def test_larger_packets_make_the_initial_window_larger_and_no_other(name: str) -> None:
    flight = Flight(name, mss=MSS)
    flight.set_mss(1452)
    assert flight.controller.window == 14520
    round_trip(flight, 0.0, RTT)
    before = flight.controller.window
    flight.set_mss(1472)
    assert flight.controller.window == before


@pytest.mark.parametrize("name", NAMES)
def test_a_window_is_never_smaller_than_the_minimum_in_larger_packets(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = 0.0
    for _ in range(10):
        fill(flight, now)
        now += 1.0
        flight.update(now, [], flight.outstanding(), persistent=True)
    least = 4 if name == "bbr" else 2
    assert flight.controller.window == least * MSS
    flight.set_mss(9000)
    assert flight.controller.window == least * 9000


# --- Slow start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSS_BASED)
def test_slow_start_doubles_the_window_in_a_round_trip(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = 0.0
    for doubled in (2, 4, 8, 16):
        now = round_trip(flight, now, RTT)
        assert flight.controller.window == doubled * 10 * MSS
    assert controller(flight).slow_start == "yes"
    assert controller(flight).threshold is None


@pytest.mark.parametrize("name", LOSS_BASED)
def test_a_window_that_is_not_filled_does_not_grow(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = 0.0
    for _ in range(50):
        number = flight.send(now)
        flight.app_limited()
        now += RTT
        flight.update(now, [number])
    assert flight.controller.window == 10 * MSS


@pytest.mark.parametrize("name", LOSS_BASED)
def test_nor_does_it_in_congestion_avoidance(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = grow_to(flight, 100, RTT)
    _, now = lose_one(flight, now, RTT)
    now = round_trip(flight, now, RTT)
    before = flight.controller.window
    for _ in range(200):
        numbers = [flight.send(now) for _ in range(5)]
        now += RTT
        flight.update(now, numbers)
    # What was filled before counts for a round trip more.
    assert before <= flight.controller.window <= before + MSS


@pytest.mark.parametrize("name", LOSS_BASED)
def test_acknowledgements_that_arrive_together_all_count(name: str) -> None:
    flight = Flight(name, mss=MSS)
    numbers = fill(flight, 0.0)
    for number in numbers:  # None is sent in between: in the end, little is in flight.
        flight.update(RTT, [number])
    assert flight.controller.window == 20 * MSS


# --- Congestion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSS_BASED)
def test_a_loss_reduces_the_window_once_a_recovery_period(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = grow_to(flight, 100, RTT)
    window = flight.controller.window
    numbers = fill(flight, now)
    flight.update(now + RTT, numbers[3:10], numbers[:1])
    reduced = int(window * BETA[name])
    assert flight.controller.window == reduced
    assert controller(flight).threshold == reduced
    # Packets sent before that: the same event. Their acknowledgement does not make it grow.
    flight.update(now + RTT + 0.001, numbers[10:], numbers[1:3])
    assert flight.controller.window == reduced
    # A packet sent after it: the next.
    now += RTT + 0.002
    first, *others = fill(flight, now)
    flight.update(now + RTT, others, [first])
    assert flight.controller.window == int(reduced * BETA[name])


@pytest.mark.parametrize("name", LOSS_BASED)
def test_marks_are_as_losses_and_once_a_round_trip(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = grow_to(flight, 100, RTT)
    window = flight.controller.window
    numbers = fill(flight, now)
    flight.update(now + RTT, numbers[:2], marks=1)
    assert flight.controller.window == int(window * BETA[name])
    flight.update(now + RTT + 0.001, numbers[2:], marks=7)
    assert flight.controller.window == int(window * BETA[name])
    now += RTT + 0.002
    numbers = fill(flight, now)
    flight.update(now + RTT, numbers, marks=1)
    assert flight.controller.window == int(int(window * BETA[name]) * BETA[name])


@pytest.mark.parametrize("name", LOSS_BASED)
def test_a_mark_and_a_loss_in_one_update_are_one_event(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = grow_to(flight, 100, RTT)
    window = flight.controller.window
    numbers = fill(flight, now)
    flight.update(now + RTT, numbers[1:], numbers[:1], marks=1)
    assert flight.controller.window == int(window * BETA[name])


@pytest.mark.parametrize("name", LOSS_BASED)
def test_persistent_congestion_leaves_the_minimum_and_slow_start_to_go_on_from(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = grow_to(flight, 100, RTT)
    window = flight.controller.window
    numbers = fill(flight, now)
    now += 5.0
    flight.update(now, numbers[-1:], numbers[:-1], persistent=True)
    assert flight.controller.window == 2 * MSS
    assert controller(flight).threshold == int(window * BETA[name])
    assert controller(flight).slow_start == "yes"
    now = round_trip(flight, now, RTT)
    assert flight.controller.window == 4 * MSS


@pytest.mark.parametrize("name", LOSS_BASED)
def test_a_window_never_falls_below_two_packets(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = 0.0
    for _ in range(20):
        _, now = lose_one(flight, now, RTT)
        assert flight.controller.window >= 2 * MSS
    assert flight.controller.window == 2 * MSS


# --- Losses that were none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSS_BASED)
def test_a_loss_that_was_none_gives_the_window_back(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = grow_to(flight, 100, RTT)
    window = flight.controller.window
    number, now = lose_one(flight, now, RTT)
    assert flight.controller.window < window
    flight.update(now + 0.005, [number])
    assert flight.controller.window == window
    assert controller(flight).threshold is None


@pytest.mark.parametrize("name", LOSS_BASED)
def test_as_long_as_one_of_several_is_lost_the_reduction_stands(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = grow_to(flight, 100, RTT)
    window = flight.controller.window
    numbers = fill(flight, now)
    now += RTT
    flight.update(now, numbers[2:], numbers[:2])
    reduced = flight.controller.window
    flight.update(now + 0.001, numbers[:1])
    assert flight.controller.window == reduced < window
    flight.update(now + 0.002, numbers[1:2])
    assert flight.controller.window == window


@pytest.mark.parametrize("name", LOSS_BASED)
def test_losses_that_are_told_of_later_belong_to_the_event(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = grow_to(flight, 100, RTT)
    window = flight.controller.window
    numbers = fill(flight, now)
    now += RTT
    flight.update(now, numbers[5:10], numbers[:1])
    flight.update(now, numbers[10:], numbers[1:2])
    reduced = flight.controller.window
    flight.update(now, numbers[:1])
    assert flight.controller.window == reduced < window
    flight.update(now, numbers[1:2])
    assert flight.controller.window == window


@pytest.mark.parametrize("name", LOSS_BASED)
def test_a_packet_of_a_former_event_does_not_undo_the_last(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = grow_to(flight, 100, RTT)
    former, now = lose_one(flight, now, RTT)
    last, now = lose_one(flight, now, RTT)
    reduced = flight.controller.window
    flight.update(now, [former])
    assert flight.controller.window == reduced
    flight.update(now, [last])
    assert flight.controller.window > reduced


@pytest.mark.parametrize("name", LOSS_BASED)
def test_a_mark_is_not_undone(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = grow_to(flight, 100, RTT)
    numbers = fill(flight, now)
    now += RTT
    flight.update(now, numbers[1:], numbers[:1], marks=1)
    reduced = flight.controller.window
    flight.update(now, numbers[:1])
    assert flight.controller.window == reduced


@pytest.mark.parametrize("name", LOSS_BASED)
def test_after_an_undo_a_real_loss_counts(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = grow_to(flight, 100, RTT)
    number, now = lose_one(flight, now, RTT)
    flight.update(now, [number])
    window = flight.controller.window
    _, now = lose_one(flight, now + 0.001, RTT)
    assert flight.controller.window == int(window * BETA[name])


# --- NewReno ----------------------------------------------------------------------------------------------------------


def test_reno_grows_by_a_packet_a_window() -> None:
    flight = Flight("reno", mss=MSS)
    now = grow_to(flight, 100, RTT)
    _, now = lose_one(flight, now, RTT)
    window = flight.controller.window
    for rounds in range(1, 20):
        now = round_trip(flight, now + 0.001, RTT)
        assert abs(flight.controller.window - (window + rounds * MSS)) <= MSS


@pytest.mark.parametrize("name", LOSS_BASED)
def test_a_new_path_begins_with_the_initial_window(name: str) -> None:
    flight = Flight(name, mss=MSS)
    now = grow_to(flight, 100, RTT)
    _, now = lose_one(flight, now, RTT)
    flight.reset(now)
    assert flight.controller.window == 10 * MSS
    assert controller(flight).threshold is None
    assert controller(flight).slow_start == "yes"
    now = round_trip(flight, now, RTT)
    assert flight.controller.window == 20 * MSS


# --- The pacer --------------------------------------------------------------------------------------------------------


def sendable(flight: Flight, now: float) -> int:
    """Packets that the pacer lets go at once."""
    count = 0
    while flight.pacer.octets(flight.controller, now) >= flight.controller.mss:
        flight.pacer.sent(flight.controller.mss)
        count += 1
    return count


def test_the_first_burst_is_the_initial_window() -> None:
    for began in (0.0, 1e6):
        flight = Flight("cubic", mss=MSS, now=began)
        assert sendable(flight, began) == 10


def test_a_connection_that_was_idle_may_burst_again() -> None:
    flight = Flight("cubic", mss=MSS)
    flight.rtt.sample(0.1)
    assert sendable(flight, 0.0) == 10
    assert sendable(flight, 0.001) == 0
    assert sendable(flight, 1.0) == 10


@pytest.mark.parametrize("slow_start", [True, False])
def test_the_rate_is_a_little_more_than_the_window_gives(slow_start: bool) -> None:
    flight = Flight("cubic", mss=MSS)
    now = grow_to(flight, 100, RTT)
    if not slow_start:
        _, now = lose_one(flight, now, RTT)
    flight.pacer.octets(flight.controller, now)
    gain = 2 if slow_start else 1.25
    assert flight.pacer.rate == pytest.approx(gain * flight.controller.window / flight.rtt.smoothed)


@pytest.mark.parametrize("packets", [10, 50, 500, 20000])
def test_a_timer_of_a_millisecond_reaches_the_rate_and_does_not_exceed_it(packets: int) -> None:
    flight = Flight("cubic", mss=MSS)
    now = grow_to(flight, packets, RTT)
    sendable(flight, now)
    size = 0
    begin = now
    while now < begin + 0.5:
        # The loop wakes up to a millisecond after the time that it was asked for.
        now = max(flight.pacer.next_at(now), now + 1e-9) + 0.001
        size += sendable(flight, now) * MSS
    assert size / (now - begin) == pytest.approx(flight.pacer.rate, rel=0.02)


def test_bursts_are_small_at_low_rates_and_large_at_high_ones() -> None:
    flight = Flight("reno", mss=MSS)
    flight.rtt.sample(0.5)
    flight.pacer.octets(flight.controller, 0.0)
    assert flight.pacer.burst == 2 * MSS
    grow_to(flight, 20000, RTT)
    flight.pacer.octets(flight.controller, 100.0)
    assert flight.pacer.burst == pytest.approx(0.002 * flight.pacer.rate, rel=1e-6)
    assert flight.pacer.burst > 45 * MSS


@pytest.mark.parametrize("now", [0.0, 1.7, 12345.678, 1e6, 1e9])
def test_at_the_time_it_names_a_packet_may_leave(now: float) -> None:
    flight = Flight("cubic", mss=1452, now=now)
    flight.rtt.sample(0.0371)
    for _ in range(1000):
        sendable(flight, now)
        at = flight.pacer.next_at(now)
        assert at > now
        now = at
        assert flight.pacer.octets(flight.controller, now) >= flight.controller.mss
        assert flight.pacer.next_at(now) == now


def test_a_pacer_without_a_controller_to_ask_has_no_burst() -> None:
    pacer = Pacer()
    assert (pacer.rate, pacer.burst) == (0.0, 0)
    assert pacer.next_at(3.0) == 3.0
