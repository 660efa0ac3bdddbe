"""Deadlines of one kind, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quicsocks.socks.deadlines import SHORTEST, Deadlines


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """As much of an event loop as deadlines need. early: by how much its timers fire before their time."""

    def __init__(self, early: float = 0.0) -> None:
        self.now = 100.0
        self.early = early
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        assert delay >= SHORTEST
        self.timers.append(Timer(self.now + delay - self.early, callback))
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        """Let time pass, and fire what is due, each at its time."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.at <= end and not timer.cancelled]:
            timer = min(due, key=lambda timer: timer.at)
            self.timers.remove(timer)
            self.now = max(self.now, timer.at)
            timer.callback()
        self.now = end

    @property
    def waiting(self) -> int:
        return sum(not timer.cancelled for timer in self.timers)


@pytest.mark.parametrize("early", [0.0, 0.0005])
def test_each_expires_at_its_time_and_in_order(early: float) -> None:
    clock = FakeClock(early)
    expired: list[tuple[str, float]] = []
    deadlines: Deadlines[str] = Deadlines(10.0, lambda item: expired.append((item, clock.now)), clock)
    for item in "abc":
        deadlines.add(item)
        clock.advance(1.0)
    assert clock.waiting == 1
    clock.advance(6.9)
    assert expired == []
    clock.advance(20.0)
    assert [item for item, _ in expired] == ["a", "b", "c"]
    assert [round(at, 1) for _, at in expired] == [110.0, 111.0, 112.0]
    assert not any(at < due for (_, at), due in zip(expired, (110.0, 111.0, 112.0), strict=True))
    assert clock.waiting == 0
    assert len(deadlines) == 0


def test_what_is_discarded_does_not_expire_and_costs_no_timer_of_its_own() -> None:
    clock = FakeClock()
    expired: list[int] = []
    deadlines: Deadlines[int] = Deadlines(10.0, expired.append, clock)
    for item in range(1000):
        deadlines.add(item)
        deadlines.discard(item)
        deadlines.discard(item)
    assert clock.waiting == 1
    assert len(deadlines) == 0
    clock.advance(5.0)
    deadlines.add(1)
    clock.advance(9.5)
    assert expired == []
    clock.advance(0.5)
    assert expired == [1]
    clock.advance(100.0)
    assert clock.waiting == 0


def test_items_may_come_and_go_while_others_expire() -> None:
    clock = FakeClock()
    expired: list[str] = []

    def on_expired(item: str) -> None:
        expired.append(item)
        if item == "a":
            deadlines.discard("b")
            deadlines.add("again")

    deadlines: Deadlines[str] = Deadlines(10.0, on_expired, clock)
    for item in "abc":
        deadlines.add(item)
    clock.advance(10.0)
    assert expired == ["a", "c"]
    clock.advance(9.0)
    assert expired == ["a", "c"]
    clock.advance(1.0)
    assert expired == ["a", "c", "again"]


def test_a_failure_in_one_does_not_keep_the_others() -> None:
    clock = FakeClock()
    expired: list[str] = []

    def on_expired(item: str) -> None:
        expired.append(item)
        if item == "bad":
            raise ValueError(item)

    deadlines: Deadlines[str] = Deadlines(10.0, on_expired, clock)
    deadlines.add("bad")
    deadlines.add("good")
    with pytest.raises(ValueError, match="bad"):
        clock.advance(10.0)
    clock.advance(1.0)
    assert expired == ["bad", "good"]


def test_closing_forgets_all() -> None:
    clock = FakeClock()
    expired: list[str] = []
    deadlines: Deadlines[str] = Deadlines(10.0, expired.append, clock)
    deadlines.close()
    deadlines.add("a")
    deadlines.close()
    deadlines.close()
    assert clock.waiting == 0
    clock.advance(100.0)
    assert expired == []
