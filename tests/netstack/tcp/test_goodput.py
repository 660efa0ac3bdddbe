"""What a path gives, and what is sent for nothing, on simulated bottlenecks: nothing is sent again that was not lost, no loss
takes a timeout, and the path is used."""

from __future__ import annotations

from typing import Any

import pytest

from quicsocks.netstack.tcp.types import Options
from tests.sim.link import Conditions

from .pair import End, Pair

TOTAL = 6_000_000


def moved(congestion: str, **path: Any) -> tuple[float, dict[str, Any], Pair]:
    """Bits per second, the sender's statistics, and the world."""
    pair = Pair(3, Conditions(delay=0.02, **path), options=Options(congestion=congestion), v6=True)
    near, far = End(0, TOTAL, 1, 0), End(1, 0, 0, TOTAL)
    pair.open(near, far)
    took = pair.run(120.0, until=lambda: far.received == TOTAL)
    assert far.received == TOTAL
    assert near.connection is not None
    return TOTAL * 8 / took, near.connection.statistics(), pair


@pytest.mark.parametrize(("congestion", "least"), [("cubic", 0.55), ("reno", 0.4), ("bbr", 0.7)])
@pytest.mark.parametrize("queue", [60_000, 250_000])
def test_a_bottleneck_is_filled_and_only_what_is_lost_is_sent_again(congestion: str, least: float, queue: int) -> None:
    rate, statistics, pair = moved(congestion, rate=50e6, queue=queue)
    assert rate >= least * 50e6
    assert statistics["timeouts"] == 0
    assert statistics["segments_resent"] == pair.links[0].dropped


@pytest.mark.parametrize("congestion", ["cubic", "reno"])
def test_random_loss_costs_no_timeouts(congestion: str) -> None:
    _, statistics, pair = moved(congestion, rate=50e6, queue=250_000, loss=0.005)
    assert statistics["timeouts"] == 0
    assert statistics["segments_resent"] <= pair.links[0].dropped + 2


def test_reordering_is_not_taken_for_loss_for_long() -> None:
    rate, statistics, pair = moved("cubic", rate=20e6, queue=1 << 20, reorder=0.05, reorder_by=0.005)
    assert pair.links[0].dropped == 0
    assert statistics["segments_resent"] <= 20
    assert statistics["reordering_seen"]
    assert rate >= 15e6


def test_ecn_marks_instead_of_losses() -> None:
    pair = Pair(
        4, Conditions(delay=0.02, rate=20e6, queue=200_000, mark_above=40_000), options=Options(ecn=True), v6=True
    )
    near, far = End(0, TOTAL, 1, 0), End(1, 0, 0, TOTAL)
    pair.open(near, far)
    pair.run(120.0, until=lambda: far.received == TOTAL)
    assert near.connection is not None
    statistics = near.connection.statistics()
    assert statistics["marks"] >= 2
    assert pair.links[0].dropped == statistics["segments_resent"] == 0


def test_delayed_acknowledgements_do_not_stall_small_writes() -> None:
    pair = Pair(5, Conditions(delay=0.01), options=Options())
    near, far = End(0, 3000, 1, 3000, write=10), End(1, 3000, 0, 3000, write=10)
    pair.open(near, far)
    assert pair.run(60.0) < 1.0
