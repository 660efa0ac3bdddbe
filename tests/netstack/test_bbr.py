"""BBRv3: delivery rates against draft-ietf-ccwg-bbr §4.1, and the draft's example test cases for the state machine."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.netstack.bbr import Bbr
from quicsocks.netstack.flight import Flight
from tests.netstack.bottleneck import MSS, Bottleneck, Flow, utilisation
from tests.netstack.rounds import fill, round_trip

MBIT = 1e6 / 8
RATE = 50 * MBIT
RTT = 0.04
BDP = RATE * RTT


def bbr(flow: Flow | Flight) -> Bbr:
    controller = flow.flight.controller if isinstance(flow, Flow) else flow.controller
    assert isinstance(controller, Bbr)
    return controller


def path(*, queue: float = 2.0, loss: float = 0.0, seed: int = 1) -> tuple[Bottleneck, Flow]:
    link = Bottleneck(RATE, int(queue * BDP), loss=loss, seed=seed)
    return link, link.add("bbr", RTT)


class Log:
    """The states that a flow goes through."""

    def __init__(self, link: Bottleneck, flow: Flow) -> None:
        self.entries: list[tuple[float, str]] = []
        self.flow = flow
        link.each = self._look

    def _look(self, now: float) -> None:
        state = bbr(self.flow).state
        if not self.entries or self.entries[-1][1] != state:
            self.entries.append((now, state))

    @property
    def states(self) -> list[str]:
        return [state for _, state in self.entries]

    def lasted(self, state: str) -> list[float]:
        """How long each stay in the state was."""
        return [
            until - at for (at, was), (until, _) in zip(self.entries, self.entries[1:], strict=False) if was == state
        ]


def run_until(link: Bottleneck, flow: Flow, state: str, limit: float = 20.0) -> None:
    while bbr(flow).state != state:
        assert link.now < limit
        link.run(link.now + 0.001)


def offer(link: Bottleneck, flow: Flow, rate: float) -> None:
    """For a second from now on, the application has only so many octets a second."""
    began, sent = link.now, flow.sent
    flow.limit = lambda now: sent + rate * (now - began)
    for tick in range(1, 100):
        link.at(began + tick * 0.01, lambda: link.poke(flow))


# --- Delivery rates ---------------------------------------------------------------------------------------------------


def test_a_rate_is_what_was_delivered_since_the_packet_left() -> None:
    flight = Flight("bbr", mss=MSS)
    numbers = [flight.send(i * 0.001) for i in range(10)]
    # A hundred milliseconds later, one a 2 ms: the ACKs are slower than the sending, and count.
    for i, number in enumerate(numbers):
        flight.update(0.1 + i * 0.002, [number])
        # All were sent before anything was delivered.
        assert bbr(flight).delivery_rate == pytest.approx((i + 1) * MSS / (0.1 + i * 0.002))
    later = flight.send(0.118)
    flight.update(0.218, [later])
    assert bbr(flight).delivery_rate == pytest.approx(MSS / 0.1)


def test_the_sending_rate_bounds_it() -> None:
    flight = Flight("bbr", mss=MSS)
    first = [flight.send(0.0) for _ in range(4)]
    flight.update(0.05, first[:1])
    slow = [flight.send(0.05 + 0.02 * i) for i in range(1, 6)]
    flight.update(0.15, [*first[1:], *slow])
    # Within 0.1 s of the ACK at 0.05 s all others arrived; but it had taken 0.15 s to send them.
    assert bbr(flight).delivery_rate == pytest.approx(8 * MSS / 0.15)


def test_the_application_holds_down_only_what_was_sent_until_the_bubble_has_passed() -> None:
    flight = Flight("bbr", mss=MSS)
    now = 0.0
    numbers = [flight.send(now) for _ in range(3)]
    flight.app_limited()
    held = flight.send(now)
    flight.update(now + RTT, numbers)
    assert not bbr(flight).sample_app_limited
    after = flight.send(now + RTT)
    flight.update(now + RTT + 0.001, [held])
    assert bbr(flight).sample_app_limited
    # More was delivered than when it was limited.
    free = flight.send(now + RTT + 0.001)
    flight.update(now + 2 * RTT, [after])
    assert bbr(flight).sample_app_limited
    flight.update(now + 2 * RTT + 0.001, [free])
    assert not bbr(flight).sample_app_limited


@given(st.lists(st.floats(1e-4, 0.05), min_size=1, max_size=60), st.floats(1e-3, 0.5))
def test_over_a_fixed_bottleneck_no_rate_exceeds_it(gaps: list[float], rtt: float) -> None:
    """Sent in any rhythm, delivered at a fixed rate: samples never say more than the link does."""
    interval = 0.002
    flight = Flight("bbr", mss=MSS)
    now = arrival = 0.0
    events: list[tuple[float, int, Callable[[], None]]] = []
    arrivals = []
    sent = []
    for gap in gaps:
        now += gap
        arrival = max(arrival + interval, now + rtt)
        sent.append(now)
        arrivals.append(arrival)
    numbers: list[int] = []
    events = [(at, 1, lambda at=at: numbers.append(flight.send(at))) for at in sent]  # type: ignore[misc]
    events += [(at, 0, lambda i=i, at=at: flight.update(at, [numbers[i]])) for i, at in enumerate(arrivals)]  # type: ignore[misc]
    for _, kind, what in sorted(events, key=lambda event: (event[0], event[1])):
        what()
        if kind == 0:
            assert bbr(flight).delivery_rate <= MSS / interval * 1.001 or len(gaps) == 1 or rtt < interval


# --- Startup and Drain ------------------------------------------------------------------------------------------------


def test_startup_begins_to_pace_with_the_first_round_trip_that_is_known() -> None:
    flight = Flight("bbr", mss=MSS)
    assert bbr(flight).state == "startup"
    assert flight.controller.pacing_rate == 0.0
    round_trip(flight, 0.0, 0.1)
    assert flight.controller.pacing_rate >= 2.77 * 10 * MSS / 0.1
    known = Flight("bbr", mss=MSS)
    known.rtt.sample(0.05)
    known.send(0.0)
    assert known.controller.pacing_rate == pytest.approx(2.77 * 10 * MSS / 0.05)


def test_a_plateau_ends_startup_and_drain_empties_the_queue() -> None:
    link, flow = path()
    log = Log(link, flow)
    link.run(2.0)
    # What is drained needs no time in "down".
    assert log.states[:3] == ["startup", "drain", "cruise"]
    assert bbr(flow).full_bw_reached
    max_bw, _, min_rtt = bbr(flow).model
    assert max_bw == pytest.approx(RATE, rel=0.02)
    assert min_rtt == pytest.approx(RTT, rel=0.02)
    assert flow.lost == 0
    assert log.lasted("drain")[0] < 3 * RTT
    assert bbr(flow).bounds == (None, None, None)
    # No queue is left.
    assert flow.flight.rtt.latest < 1.1 * RTT


def test_startup_doubles_its_rate_each_round() -> None:
    link, flow = path()
    rounds: dict[int, float] = {}

    def each(now: float) -> None:
        rounds.setdefault(bbr(flow).round_count, bbr(flow).model[0])

    link.each = each
    run_until(link, flow, "drain")
    rates = [rate for count, rate in sorted(rounds.items()) if 0 < rate < 0.9 * RATE]
    assert len(rates) >= 4
    assert all(later >= 1.5 * rate for rate, later in pairwise(rates[1:]))


@pytest.mark.parametrize("seed", range(10))
def test_losses_end_startup_while_the_rate_grows_only_when_they_are_many(seed: int) -> None:
    """Six losses of 200 packets are no full pipe, when each round brings twice as much as the one before."""

    def found(loss: float) -> float:
        link, flow = path(loss=loss, seed=seed)
        while bbr(flow).state == "startup":
            link.run(link.now + 0.001)
        return bbr(flow).model[0] / RATE

    assert found(0.02) > 0.9
    assert found(0.2) < 0.9


def test_heavy_loss_ends_startup_even_when_the_application_holds_it_down() -> None:
    link, flow = path(loss=0.1)
    flow.limit = lambda now: int(0.5 * RATE * now)
    for tick in range(1, 300):
        link.at(tick * 0.01, lambda: link.poke(flow))
    run_until(link, flow, "drain", 3.0)
    assert bbr(flow).full_bw_reached
    assert bbr(flow).bounds[2] is not None


def test_an_application_that_holds_it_down_never_ends_startup_without_loss() -> None:
    link, flow = path()
    flow.limit = lambda now: int(0.1 * RATE * now)
    for tick in range(1, 1000):
        link.at(tick * 0.01, lambda: link.poke(flow))
    log = Log(link, flow)
    link.run(4.5)
    assert log.states == ["startup"]
    assert not bbr(flow).full_bw_reached


# --- ProbeBW ----------------------------------------------------------------------------------------------------------


def test_it_probes_every_two_or_three_seconds() -> None:
    link, flow = path()
    log = Log(link, flow)
    link.run(20.0)
    ups = [at for at, state in log.entries if state == "up"]
    assert len(ups) >= 5
    for state, before, after in zip(log.states[3:], log.states[2:], log.states[4:], strict=False):
        if state == "refill":
            assert (before, after) == ("cruise", "up")
        if state == "up":
            assert (before, after) == ("refill", "down")
        if state == "down":
            assert after in ("cruise", "refill", "probe-rtt")
    # Or 63 round trips; with ProbeRTT in between, the time begins anew.
    rests = [at for at, state in log.entries if state == "probe-rtt"]
    waits = [later - at for at, later in pairwise(ups) if not any(at < rest < later for rest in rests)]
    assert len(waits) >= 2
    assert all(2.0 <= wait < 3.0 + 10 * RTT for wait in waits)
    # A round trip, which the queue may lengthen.
    assert all(RTT <= duration <= 2 * RTT for duration in log.lasted("refill"))


@pytest.mark.parametrize(
    ("state", "gain"),
    [("startup", 2.77), ("drain", 0.5), ("down", 0.9), ("cruise", 1.0), ("refill", 1.0), ("up", 1.25)],
)
def test_each_state_has_its_pacing_gain(state: str, gain: float) -> None:
    link, flow = path()
    run_until(link, flow, state)
    if state == "startup":
        link.run(0.2)
    else:
        run_until(link, flow, state)
    assert flow.flight.controller.pacing_rate == pytest.approx(gain * 0.99 * bbr(flow).model[1], rel=1e-6)


def test_a_path_ten_times_as_fast_is_used_in_full() -> None:
    link = Bottleneck(10 * MBIT, int(100 * MBIT * RTT))
    flow = link.add("bbr", RTT)
    link.run(4.0)
    assert bbr(flow).model[0] == pytest.approx(10 * MBIT, rel=0.05)
    link.rate = 100 * MBIT
    link.run(14.0)
    assert bbr(flow).model[0] == pytest.approx(100 * MBIT, rel=0.05)


def test_a_path_a_tenth_as_fast_is_believed_within_two_cycles() -> None:
    link = Bottleneck(100 * MBIT, int(100 * MBIT * RTT))
    flow = link.add("bbr", RTT)
    link.run(4.0)
    link.rate = 10 * MBIT
    link.run(14.0)
    assert bbr(flow).model[0] == pytest.approx(10 * MBIT, rel=0.1)


def test_loss_while_cruising_lowers_the_short_term_bounds_and_refill_lifts_them() -> None:
    link, flow = path()
    run_until(link, flow, "cruise")
    assert bbr(flow).bounds[:2] == (None, None)
    link.loss = 0.05
    link.run(link.now + 5 * RTT)
    link.loss = 0.0
    assert bbr(flow).state == "cruise"
    bw, inflight, _ = bbr(flow).bounds
    assert bw is not None
    assert inflight is not None
    # Towards what is delivered, and by no more than a CUBIC would.
    assert 0.7**5 * RATE < bw < RATE
    assert bbr(flow).model[1] == bw
    run_until(link, flow, "refill")
    assert bbr(flow).bounds[:2] == (None, None)


@pytest.mark.parametrize("seed", range(5))
def test_losses_at_random_do_not_lower_the_bounds(seed: int) -> None:
    """Not in six seconds, in which it probes and goes down."""
    link, flow = path(seed=seed)
    run_until(link, flow, "cruise")
    link.loss = 0.005
    log = Log(link, flow)
    least = RATE
    while link.now < 7.0:
        link.run(link.now + 0.01)
        if bbr(flow).state == "cruise":
            least = min(least, bbr(flow).model[1])
    assert {"cruise", "up", "down"} <= set(log.states)
    assert least > 0.98 * RATE


def test_a_path_that_becomes_slower_and_loses_packets_is_believed_at_once() -> None:
    link, flow = path()
    run_until(link, flow, "cruise")
    link.rate, link.loss = 0.6 * RATE, 0.01
    link.run(link.now + 10 * RTT)
    assert bbr(flow).state == "cruise"
    assert bbr(flow).model[1] < 0.65 * RATE


def test_an_application_that_sends_little_is_judged_by_what_it_loses() -> None:
    def bound(loss: float) -> float | None:
        link, flow = path()
        run_until(link, flow, "cruise")
        offer(link, flow, 0.7 * RATE)
        link.run(link.now + 0.2)
        link.loss = loss
        link.run(link.now + 0.4)
        assert bbr(flow).state == "cruise"
        return bbr(flow).bounds[0]

    assert bound(0.002) is None
    assert bound(0.1) is not None


def test_loss_while_probing_bounds_what_is_in_flight_and_ends_the_probe() -> None:
    link, flow = path()
    run_until(link, flow, "up")
    link.loss = 0.1
    run_until(link, flow, "down", link.now + 2 * RTT)
    link.run(link.now + 0.5 * RTT)  # What it has lost is told by then.
    longterm = bbr(flow).bounds[2]
    assert longterm is not None
    assert 0.7 * BDP * 0.95 <= longterm <= 1.6 * BDP


def test_a_probe_that_brings_but_a_queue_of_our_own_ends_after_a_round() -> None:
    link, flow = path()
    run_until(link, flow, "cruise")
    link.run(link.now + RTT)
    flow.queued_most = 0.0
    log = Log(link, flow)
    link.run(link.now + 12.0)
    ups = log.lasted("up")
    assert len(ups) >= 3
    assert all(RTT < duration < 1.4 * RTT for duration in ups)
    # What 1.25 times the rate leaves in a round trip, and a few packets.
    assert flow.queued_most < 0.3 * RTT


def test_beside_the_queue_of_another_a_probe_has_its_three_rounds() -> None:
    link, flow = path(queue=3.0)
    link.add("reno", RTT)
    link.run(10.0)
    log = Log(link, flow)
    link.run(40.0)
    ups = log.lasted("up")
    assert sum(duration > 3 * RTT for duration in ups) >= len(ups) / 2


def test_a_probe_for_the_round_trip_time_begins_without_a_silence() -> None:
    """Every stream of the connection would wait for as long."""
    link, flow = path()
    run_until(link, flow, "probe-rtt")
    begun, quiet, sent, since = link.now, 0.0, flow.sent, link.now
    while link.now < begun + RTT:
        link.run(link.now + 0.0005)
        if flow.sent > sent:
            sent, since = flow.sent, link.now
        quiet = max(quiet, link.now - since)
    assert bbr(flow).state == "probe-rtt"
    assert flow.flight.in_flight < 0.6 * BDP
    assert quiet < 0.1 * RTT


def test_after_a_probe_that_went_too_high_the_next_stops_there_and_tries_again_at_once() -> None:
    link, flow = path()
    run_until(link, flow, "up")
    link.loss = 0.1
    run_until(link, flow, "down")
    link.loss = 0.0
    log = Log(link, flow)
    link.run(link.now + 9.0)
    refills = [at for at, state in log.entries if state == "refill"]
    # About two seconds, then a round trip, then, as the probe was neither too high nor cautious, the usual wait.
    assert refills[0] - log.entries[0][0] > 1.5
    assert refills[1] - refills[0] < 5 * RTT
    assert refills[2] - refills[1] > 1.5
    assert log.lasted("up")[0] < log.lasted("up")[1]


def test_a_queue_that_overflows_is_left_some_room_while_cruising() -> None:
    link, flow = path(queue=0.2)
    link.run(3.0)
    seen = 0

    def each(now: float) -> None:
        nonlocal seen
        longterm = bbr(flow).bounds[2]
        if bbr(flow).state == "cruise" and longterm is not None:
            seen += 1
            assert flow.flight.controller.window <= 0.85 * longterm + 1

    link.each = each
    link.run(10.0)
    assert seen > 1000
    assert flow.lost * MSS < 0.02 * flow.delivered


def test_a_bound_that_is_not_reached_is_not_raised() -> None:
    link, flow = path(queue=0.2)
    run_until(link, flow, "up")
    run_until(link, flow, "down")
    longterm = bbr(flow).bounds[2]
    assert longterm is not None
    began, sent = link.now, flow.sent
    flow.limit = lambda now: sent + int(0.3 * RATE * (now - began))
    for tick in range(1, 2000):
        link.at(began + tick * 0.005, lambda: link.poke(flow))
    log = Log(link, flow)
    link.run(began + 8.0)
    assert "up" in log.states
    assert flow.delivered > 0
    assert bbr(flow).bounds[2] == longterm


def test_a_small_queue_is_not_overrun_for_long() -> None:
    link, flow = path(queue=0.1)
    link.run(3.0)
    lost, delivered = flow.lost, flow.delivered
    link.run(15.0)
    assert (flow.lost - lost) * MSS < 0.02 * (flow.delivered - delivered)
    assert flow.delivered - delivered > 0.9 * RATE * 12


def test_acknowledgements_that_come_together_make_the_window_larger() -> None:
    def window(size: int) -> tuple[float, int]:
        flight = Flight("bbr", mss=MSS)
        now = 0.0
        for _ in range(60):
            numbers = fill(flight, now)
            now += RTT
            for first in range(0, len(numbers), size):
                flight.update(now + first * 1e-5, numbers[first : first + size])
            now += len(numbers) * 1e-5
        return bbr(flight).extra_acked, flight.controller.window

    extra, _ = window(1000)
    assert extra > 10 * MSS


def test_a_path_that_holds_less_than_a_packet_is_used_with_four() -> None:
    link = Bottleneck(0.5 * MBIT, 20 * MSS)
    flow = link.add("bbr", 0.001)
    assert utilisation(link, 2.0, 20.0) > 0.9
    assert flow.flight.controller.window >= 4 * MSS
    assert bbr(flow).model[0] == pytest.approx(0.5 * MBIT, rel=0.1)


def test_when_to_probe_depends_on_the_seed_alone() -> None:
    def probes(seed: int) -> list[float]:
        link = Bottleneck(RATE, int(RATE * 0.1))
        flow = link.add("bbr", 0.1)
        bbr(flow).set_seed(seed)
        log = Log(link, flow)
        link.run(5.0)
        return [at for at, state in log.entries if state == "refill"]

    assert probes(1) == probes(1)
    assert len({probes(seed)[0] for seed in range(5)}) == 5


# --- ProbeRTT ---------------------------------------------------------------------------------------------------------


def test_every_five_seconds_it_makes_room_to_see_the_shortest_round_trip() -> None:
    link, flow = path()
    log = Log(link, flow)
    least: list[int] = []
    seen = log._look

    def each(now: float) -> None:
        seen(now)
        if bbr(flow).state == "probe-rtt":
            least.append(flow.flight.controller.window)

    link.each = each
    link.run(16.0)
    entered = [at for at, state in log.entries if state == "probe-rtt"]
    assert 2 <= len(entered) <= 3
    assert min(least) == pytest.approx(0.5 * BDP, rel=0.1)
    assert all(0.2 <= duration < 0.2 + 4 * RTT for duration in log.lasted("probe-rtt"))
    after = [state for before, state in zip(log.states, log.states[1:], strict=False) if before == "probe-rtt"]
    assert set(after) == {"cruise"}


def test_a_longer_round_trip_is_believed_when_the_filter_has_run_out() -> None:
    link, flow = path()
    link.run(4.0)
    flow.rtt = 2 * RTT
    link.run(25.0)
    assert bbr(flow).model[2] == pytest.approx(2 * RTT, rel=0.05)
    assert utilisation(link, 25.0, 30.0) > 0.9


def test_idle_time_is_as_good_as_a_probe() -> None:
    link, flow = path()
    link.run(3.0)
    offered = flow.sent
    flow.limit = lambda now: offered if now < 9.5 else 1 << 40
    log = Log(link, flow)
    link.at(9.5, lambda: link.poke(flow))
    link.run(9.4)
    assert flow.flight.in_flight == 0
    assert flow.flight.controller.pacing_rate == pytest.approx(0.99 * bbr(flow).model[1], rel=0.3)
    link.run(11.0)
    assert "probe-rtt" not in log.states


def test_from_probe_rtt_within_startup_it_goes_back_there() -> None:
    link, flow = path()
    flow.limit = lambda now: int(0.1 * RATE * now)
    for tick in range(1, 1000):
        link.at(tick * 0.01, lambda: link.poke(flow))
    log = Log(link, flow)
    link.run(1.0)
    flow.rtt = 1.5 * RTT
    link.run(8.0)
    assert log.states[:3] == ["startup", "probe-rtt", "startup"]
