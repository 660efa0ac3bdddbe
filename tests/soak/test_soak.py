"""A minute of load on loopback: hundreds of flows at once, every byte checked, nothing left over at the end.

The minute is a warm-up and then QUICSOCKS_TEST_SOAK_SECONDS, 50 unless that is set; ``make soak`` sets an hour. Whatever it is,
it comes in stages, and after each of them everything must have been given back.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable

import pytest

from tests.interop.proxies import Quicsocks
from tests.interop.system import System
from tests.soak.flows import ENDINGS, Driver, Origin

SECONDS = float(os.environ.get("QUICSOCKS_TEST_SOAK_SECONDS", "50"))
WARM_UP = 8.0
"""Seconds of the same load before memory is measured: pools, caches and the allocator's arenas fill."""
STAGE = 60.0
"""Seconds of load before a look at what is left behind."""
AT_ONCE = 200
GROWTH = 24 << 20
"""Bytes that a process may grow after the warm-up, however long the run. A leak of one 64 KiB buffer a flow would be several
times that in a minute, and one of a hundred bytes a flow in an hour."""
SETTLED = 20.0
"""Seconds in which everything must be given back; lost packets of the last flows may still be sent again."""
SEED = 20260101
ENGINE = ("--engine", "native")


async def drive(
    proxy: tuple[str, int] | None, at_once: int, seconds: float, *, seed: int = SEED, corrupt: bool = False
) -> Driver:
    origin = Origin(corrupt=corrupt)
    try:
        driver = Driver(origin, proxy, seed)
        await driver.run(at_once, seconds)
    finally:
        await origin.close()
    return driver


def test_the_driver_finds_no_fault_with_the_kernel() -> None:
    """The control: what the driver expects is what TCP does without anything in between."""
    driver = asyncio.run(drive(None, 100, 2))
    assert driver.problems == []
    assert all(driver.played[ending] >= 10 for ending in ENDINGS), driver.played


def test_the_driver_notices_one_wrong_bit() -> None:
    driver = asyncio.run(drive(None, 20, 0.3, corrupt=True))
    assert any("wrong ones" in problem for problem in driver.problems)


@pytest.mark.soak
@pytest.mark.programs
def test_a_minute_of_hundreds_of_flows(loopback: System) -> None:
    proxy = Quicsocks(loopback, run_flags=ENGINE, concentrator_flags=ENGINE)
    proxy.start()
    try:
        idle = proxy.descriptors()
        warm = asyncio.run(drive((proxy.host, proxy.port), AT_ONCE, WARM_UP))
        assert warm.problems == []
        rest(proxy, idle)
        before = proxy.rss()
        say(0.0, warm, before)
        played = Counter[str]()
        stages = max(1, round(SECONDS / STAGE))
        for stage in range(stages):
            seconds = SECONDS / stages
            driver = asyncio.run(drive((proxy.host, proxy.port), AT_ONCE, seconds, seed=SEED + 1 + stage))
            assert driver.problems == []
            played += driver.played
            rest(proxy, idle)
            say((stage + 1) * seconds, driver, proxy.rss())
            growth = {name: size - before[name] for name, size in proxy.rss().items()}
            assert all(size <= GROWTH for size in growth.values()), growth
        assert all(played[ending] >= 10 for ending in ENDINGS), played
        for process in proxy.processes.values():
            assert process.poll() is None
            assert "Traceback" not in process.output
    finally:
        proxy.stop()


def rest(proxy: Quicsocks, idle: dict[str, int]) -> None:
    """Nothing is left of the load."""
    settle(proxy, lambda: proxy.descriptors() == idle, f"descriptors as before the load: {idle}")
    settle(proxy, lambda: proxy.status("client")["flows"] == 0, "no flow open at the client")
    settle(proxy, lambda: proxy.status("concentrator")["flows"] == 0, "no flow open at the concentrator")


def say(at: float, driver: Driver, rss: dict[str, int]) -> None:
    """One line for whoever watches an hour (pytest -s)."""
    sizes = ", ".join(f"{name} {size / (1 << 20):.1f}" for name, size in rss.items())
    flows = sum(driver.played.values())
    print(f"{at:6.0f} s: {flows} flows, {driver.bytes / 1e6:.0f} MB; resident MiB: {sizes}", flush=True)


def settle(proxy: Quicsocks, condition: Callable[[], bool], what: str) -> None:
    for _ in range(int(SETTLED / 0.1)):
        if condition():
            return
        assert not proxy.client.pause(0.1), f"the client ended:\n{proxy.client.output}"
    raise AssertionError(f"not {what} after {SETTLED} s: {proxy.descriptors()}, {proxy.status()}")
