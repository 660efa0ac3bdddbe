"""Controllers over a simulated bottleneck: how much of it they use, how they share it, how long they let it queue."""

from __future__ import annotations

import pytest

from tests.netstack.bottleneck import MSS, Bottleneck, utilisation

MBIT = 1e6 / 8
"""Octets per second."""
NAMES = ("reno", "cubic", "bbr")


def share(link: Bottleneck, begin: float, end: float) -> list[float]:
    """What each flow has of all that is delivered between begin and end."""
    link.run(begin)
    before = [flow.delivered for flow in link.flows]
    link.run(end)
    delivered = [flow.delivered - had for flow, had in zip(link.flows, before, strict=True)]
    return [octets / sum(delivered) for octets in delivered]


@pytest.mark.parametrize("name", ["cubic", "bbr"])
@pytest.mark.parametrize(("mbit", "rtt", "queue"), [(10, 0.02, 1.0), (50, 0.04, 1.0), (50, 0.04, 0.3), (200, 0.1, 0.5)])
def test_the_bottleneck_is_used(name: str, mbit: float, rtt: float, queue: float) -> None:
    rate = mbit * MBIT
    link = Bottleneck(rate, max(int(queue * rate * rtt), 5 * MSS))
    link.add(name, rtt)
    assert utilisation(link, 2.0, 8.0) >= 0.95
    assert sum(flow.lost for flow in link.flows) * MSS < 0.02 * sum(flow.delivered for flow in link.flows)


def test_reno_uses_it_when_the_queue_holds_a_window() -> None:
    link = Bottleneck(50 * MBIT, int(50 * MBIT * 0.04))
    link.add("reno", 0.04)
    assert utilisation(link, 2.0, 8.0) >= 0.95


@pytest.mark.parametrize("name", NAMES)
def test_a_gigabit_over_a_millisecond_is_reached(name: str) -> None:
    link = Bottleneck(1000 * MBIT, 500_000)
    link.add(name, 0.001)
    assert utilisation(link, 0.3, 0.6) >= 0.95


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("mbit", "rtt", "least"), [(100, 0.08, 0.85), (50, 0.04, 0.7), (10, 0.02, 0.7)])
def test_random_loss_does_not_slow_bbr_down(mbit: float, rtt: float, least: float, seed: int) -> None:
    """Between two probes, two seconds or 63 round trips apart, the draft lets each round with a loss lower the rate a
    little (its own estimate is 0.99 to the power of the rounds): the shorter the round trip, the more."""
    rate = mbit * MBIT
    link = Bottleneck(rate, int(rate * rtt), loss=0.01, seed=seed)
    link.add("bbr", rtt)
    assert utilisation(link, 3.0, 12.0) >= least


def test_it_does_slow_cubic_down() -> None:
    """The comparison that makes the former test mean something."""
    link = Bottleneck(50 * MBIT, int(50 * MBIT * 0.04), loss=0.01)
    link.add("cubic", 0.04)
    assert utilisation(link, 3.0, 12.0) < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_the_first_second_is_not_wasted(name: str) -> None:
    link = Bottleneck(50 * MBIT, int(50 * MBIT * 0.04))
    link.add(name, 0.04)
    assert utilisation(link, 0.0, 1.0) >= 0.75


@pytest.mark.parametrize("name", NAMES)
def test_jitter_of_acknowledgements_does_no_harm(name: str) -> None:
    link = Bottleneck(50 * MBIT, int(50 * MBIT * 0.05), jitter=0.003)
    link.add(name, 0.04)
    assert utilisation(link, 2.0, 8.0) >= 0.9


@pytest.mark.parametrize("name", NAMES)
def test_two_of_a_kind_share_evenly(name: str) -> None:
    link = Bottleneck(20 * MBIT, int(20 * MBIT * 0.03))
    link.add(name, 0.03)
    link.add(name, 0.03, at=2.0)
    shares = share(link, 20.0, 50.0)
    assert min(shares) >= 0.3


def test_cubic_leaves_reno_its_share_on_a_short_path() -> None:
    """RFC 9438 §4.3: in the Reno-friendly region."""
    link = Bottleneck(10 * MBIT, int(10 * MBIT * 0.01))
    link.add("reno", 0.01)
    link.add("cubic", 0.01)
    assert min(share(link, 5.0, 35.0)) >= 0.3


@pytest.mark.parametrize("other", ["reno", "cubic"])
def test_bbr_and_a_loss_based_flow_leave_each_other_something(other: str) -> None:
    link = Bottleneck(20 * MBIT, int(20 * MBIT * 0.03))
    link.add("bbr", 0.03)
    link.add(other, 0.03)
    assert min(share(link, 10.0, 40.0)) >= 0.15


def test_bbr_keeps_a_deep_queue_short() -> None:
    def queued(name: str) -> float:
        link = Bottleneck(20 * MBIT, int(20 * MBIT * 0.4))
        flow = link.add(name, 0.04)
        link.run(3.0)
        waits: list[float] = []
        link.each = lambda now: waits.append(max(0.0, link.free_at - now))
        link.run(13.0)
        assert flow.delivered > 0
        return sum(waits) / len(waits)

    assert queued("bbr") < 0.02
    assert queued("cubic") > 0.15


@pytest.mark.parametrize("name", NAMES)
def test_an_application_that_has_little_to_send_gets_it_through_and_its_window_stays(name: str) -> None:
    link = Bottleneck(50 * MBIT, int(50 * MBIT * 0.04))
    flow = link.add(name, 0.04)
    flow.limit = lambda now: int(now * 0.1 * 50 * MBIT)
    for tick in range(1, 1000):
        link.at(tick * 0.01, lambda: link.poke(flow))
    link.run(10.0)
    assert flow.delivered >= 0.98 * flow.limit(9.9)
    assert flow.lost == 0
    bdp = 50 * MBIT * 0.05
    # Twice what it has in flight. BBR's window is that of its model: twice the bottleneck's.
    assert flow.flight.controller.window <= (2 * bdp if name == "bbr" else 2 * 0.15 * bdp)


@pytest.mark.parametrize("name", NAMES)
def test_a_window_is_never_below_the_minimum_whatever_is_lost(name: str) -> None:
    link = Bottleneck(5 * MBIT, 5 * MSS, loss=0.2)
    flow = link.add(name, 0.03)
    least = (4 if name == "bbr" else 2) * MSS

    def check(now: float) -> None:
        assert flow.flight.controller.window >= least

    link.each = check
    link.run(10.0)
    assert flow.delivered > 0


@pytest.mark.parametrize("name", ["cubic", "bbr"])
def test_more_bandwidth_is_found(name: str) -> None:
    link = Bottleneck(5 * MBIT, int(50 * MBIT * 0.04))
    link.add(name, 0.04)
    link.run(5.0)
    link.rate = 50 * MBIT
    assert utilisation(link, 15.0, 25.0) >= 0.85


@pytest.mark.parametrize("name", NAMES)
def test_less_bandwidth_is_respected(name: str) -> None:
    link = Bottleneck(50 * MBIT, int(50 * MBIT * 0.04))
    flow = link.add(name, 0.04)
    link.run(5.0)
    link.rate = 5 * MBIT
    link.run(12.0)
    lost, delivered = flow.lost, flow.delivered
    link.run(22.0)
    assert flow.delivered - delivered >= 0.85 * 10 * 5 * MBIT
    assert (flow.lost - lost) * MSS <= 0.05 * (flow.delivered - delivered)
