"""BBRv3: losses that were none, marks, persistent congestion and new paths. Read ``test_bbr`` first."""

from __future__ import annotations

import pytest

from quicsocks.netstack.flight import Flight
from tests.netstack.bottleneck import MSS, Bottleneck, Flow
from tests.netstack.rounds import fill, round_trip
from tests.netstack.test_bbr import BDP, RATE, RTT, bbr, offer, path, run_until


def fill_paced(link: Bottleneck, flow: Flow) -> Flight:
    run_until(link, flow, "cruise")
    return flow.flight


def test_a_loss_that_was_none_is_undone() -> None:
    link, flow = path()
    flight = fill_paced(link, flow)
    window = flight.controller.window
    flow.remembers = True
    offer(link, flow, 0.7 * RATE)
    link.run(link.now + 0.2)
    sent, link.loss = flow.sent, 1.0
    while flow.sent < sent + 10 * MSS:
        link.run(link.now + 0.0001)
    link.loss = 0.0
    while bbr(flight).bounds[0] is None:
        link.run(link.now + 0.001)
    assert bbr(flight).state == "cruise"
    assert bbr(flight).bounds[1] is not None
    lost = flight.lost()
    assert len(lost) >= 10
    flight.update(link.now + 0.001, lost[:-1])
    assert bbr(flight).bounds[0] is not None
    flight.update(link.now + 0.002, lost[-1:])
    assert bbr(flight).bounds[:2] == (None, None)
    assert flight.controller.window >= 0.9 * window


def test_startup_goes_on_when_the_losses_that_ended_it_were_none() -> None:
    flight = Flight("bbr", mss=MSS)
    now = 0.0
    for _ in range(3):
        now = round_trip(flight, now, RTT)
    while bbr(flight).state == "startup":
        assert now < 1.0
        numbers = fill(flight, now)
        now += RTT
        for i in range(0, len(numbers) - 4, 4):
            if bbr(flight).state != "startup":
                break
            flight.update(now, numbers[i + 1 : i + 4], numbers[i : i + 1])
        flight.update(now, [number for number in flight.outstanding() if number <= numbers[-1]])
    assert bbr(flight).full_bw_reached
    flight.update(now + 0.001, flight.lost())
    assert bbr(flight).state == "startup"
    assert not bbr(flight).full_bw_reached
    assert bbr(flight).bounds == (None, None, None)


def test_marks_end_startup_and_lower_the_bounds_while_cruising() -> None:
    flight = Flight("bbr", mss=MSS)
    now = round_trip(flight, 0.0, RTT)
    numbers = fill(flight, now)
    flight.update(now + RTT, numbers, marks=1)
    assert bbr(flight).state != "startup"
    link, flow = path()
    flight = fill_paced(link, flow)
    now = link.now
    for _ in range(3):
        fill(flight, now)
        now += RTT
        flight.update(now, flight.outstanding(), marks=1)
    assert bbr(flight).bounds[0] is not None


def test_persistent_congestion_leaves_four_packets_and_the_model_brings_it_back() -> None:
    link, flow = path()
    flight = fill_paced(link, flow)
    now = link.now + 3.0
    flight.update(now, [], flight.outstanding(), persistent=True)
    assert flight.controller.window == 4 * MSS
    assert flight.controller.pacing_rate > 0.5 * RATE
    for _ in range(10):
        now = round_trip(flight, now, RTT)
    assert flight.controller.window > 0.5 * BDP


def test_a_new_path_begins_anew() -> None:
    link, flow = path()
    flight = fill_paced(link, flow)
    flight.reset(link.now)
    assert bbr(flight).state == "startup"
    assert bbr(flight).model[0] == 0.0
    assert flight.controller.window == 10 * MSS
    assert flight.controller.pacing_rate == 0.0
    now = round_trip(flight, link.now, 0.1)
    assert bbr(flight).model[2] == pytest.approx(0.1)
    assert flight.controller.window >= 20 * MSS
    assert now > link.now
