"""Thousands of seeded runs of the whole transport. QUICSOCKS_TEST_SEEDS=FIRST-LAST plays others; ``seeds`` runs one again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from quicsocks.userspace.quic.types import Limits, Priority

from .link import Conditions
from .run import Failed, Run
from .scenario import BEGINS, Direction, Flow, Scenario, draw
from .seeds import play

FIRST, LAST = (int(number) for number in os.environ.get("QUICSOCKS_TEST_SEEDS", "0-3999").split("-"))
AT_ONCE = 250
MIXED = 100


@pytest.mark.parametrize("first", range(FIRST, LAST + 1, AT_ONCE))
def test_native_with_native(first: int) -> None:
    for seed in range(first, min(first + AT_ONCE, LAST + 1)):
        play(seed)


@pytest.mark.parametrize("engines", [("native", "aioquic"), ("aioquic", "native")], ids="-".join)
def test_native_with_aioquic(engines: tuple[str, str]) -> None:
    for seed in range(FIRST, min(FIRST + MIXED, LAST + 1)):
        play(seed, engines)


def test_a_seed_is_played_the_same_way_again() -> None:
    for seed in range(20):
        assert play(seed) == play(seed)


def test_seeds_draw_all_that_there_is_to_draw() -> None:
    drawn = [draw(seed) for seed in range(500)]

    facts: tuple[Callable[[Scenario], object], ...] = (
        lambda scenario: scenario.retry,
        lambda scenario: scenario.rebinds,
        lambda scenario: scenario.migrations,
        lambda scenario: scenario.key_updates,
        lambda scenario: scenario.datagrams,
        lambda scenario: scenario.up.blackouts,
        lambda scenario: scenario.up.mtu_changes,
        lambda scenario: scenario.up.mark_above,
        lambda scenario: scenario.up.corrupt,
        lambda scenario: scenario.up.reorder,
        lambda scenario: scenario.up.duplicate,
        lambda scenario: any(flow.there.reset_after is not None for flow in scenario.flows),
        lambda scenario: any(flow.there.stop_after is not None for flow in scenario.flows),
        lambda scenario: any(flow.back is None for flow in scenario.flows),
    )
    for fact in facts:
        assert 20 < sum(bool(fact(scenario)) for scenario in drawn) < 480


def test_octets_that_are_others_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Run.progress

    def spoil(run: Run) -> None:
        honest(run)
        for way in run.all_ways:
            way.begin += 1

    monkeypatch.setattr(Run, "progress", spoil)
    with pytest.raises(Failed, match="other octets"):
        Run(busy_scenario()).play()


def test_a_stall_is_noticed() -> None:
    run = Run(busy_scenario())

    def cut() -> None:
        run.pair.up.conditions = replace(run.pair.up.conditions, loss=1.0)

    run.pair.at(BEGINS + 0.3, cut)
    with pytest.raises(Failed, match="no progress for"):
        run.play()


def busy_scenario() -> Scenario:
    """A good network, and 100 kB each way that take a second."""
    conditions = Conditions(delay=0.02, rate=1e6)
    flow = Flow(True, 0.0, Priority.NORMAL, Direction(100_000), Direction(100_000))
    return replace(
        draw(0),
        limits=Limits(),
        up=conditions,
        down=conditions,
        flows=(flow,),
        datagrams=(),
        key_updates=(),
        rebinds=(),
        migrations=(),
    )
