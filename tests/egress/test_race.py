"""Happy Eyeballs on a jumping clock."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.egress.race import ATTEMPT_DELAY, Race, interleave
from quicsocks.userspace.egress.special import IPAddress

A, B, C, D = (ip_address(text) for text in ("2a00::1", "192.0.2.1", "2a00::2", "192.0.2.2"))


def started(race: Race, now: float) -> list[IPAddress]:
    """All that is started at once."""
    attempts = []
    while (address := race.next_attempt(now)) is not None:
        attempts.append(address)
    return attempts


def state(race: Race) -> str:
    return "expired" if race.expired else "lost" if race.lost else "running"


def test_families_take_turns_beginning_with_the_first() -> None:
    assert interleave([A, C, B, D]) == [A, B, C, D]
    assert interleave([B, D, A, C]) == [B, A, D, C]
    assert interleave([A, C, A]) == [A, C]
    assert interleave([]) == []


def test_a_name_with_many_addresses_is_not_dialled_many_times() -> None:
    many = [ip_address(f"192.0.2.{last}") for last in range(1, 200)]
    assert len(interleave(many)) == 16


def test_the_second_attempt_waits_a_quarter_second() -> None:
    race = Race([A, B, C], 100.0, timeout=10.0)
    assert started(race, 100.0) == [A]
    assert race.get_timer() == 100.0 + ATTEMPT_DELAY
    assert started(race, 100.2) == []
    assert started(race, 100.25) == [B]
    assert started(race, 100.4) == []
    assert started(race, 100.5) == [C]
    assert race.get_timer() == 110.0
    assert state(race) == "running"


def test_a_failure_starts_the_next_at_once() -> None:
    race = Race([A, B, C], 0.0, timeout=10.0)
    assert started(race, 0.0) == [A]
    race.attempt_failed(A, 0.01)
    assert started(race, 0.01) == [B]
    assert race.get_timer() == 0.01 + ATTEMPT_DELAY
    race.attempt_failed(B, 0.02)
    assert started(race, 0.02) == [C]
    assert state(race) == "running"
    race.attempt_failed(C, 0.03)
    assert state(race) == "lost"


def test_a_failure_of_an_earlier_attempt_starts_one_and_not_two() -> None:
    race = Race([A, B, C, D], 0.0, timeout=10.0)
    started(race, 0.0)
    assert started(race, 0.25) == [B]
    race.attempt_failed(A, 0.3)
    assert started(race, 0.3) == [C]
    assert started(race, 0.3) == []


def test_time_runs_out() -> None:
    race = Race([A, B], 0.0, timeout=0.2)
    assert started(race, 0.0) == [A]
    assert race.get_timer() == 0.2
    race.handle_timer(0.1)
    assert state(race) == "running"
    race.handle_timer(0.2)
    assert state(race) == "expired"
    assert started(race, 0.3) == []


@given(
    st.lists(st.sampled_from([A, B, C, D]), min_size=1, unique=True),
    st.lists(st.tuples(st.sampled_from(["fail", "wait"]), st.floats(0.0, 1.0)), max_size=20),
)
def test_each_address_is_tried_once_in_order_and_the_race_ends(
    candidates: list[IPAddress], steps: list[tuple[str, float]]
) -> None:
    now, tried, running = 0.0, [], []
    race = Race(candidates, now, timeout=5.0)
    for step, amount in [*steps, *[("fail", 0.0)] * 4, ("wait", 5.0)]:
        new = started(race, now)
        tried += new
        running += new
        if step == "fail" and running:
            race.attempt_failed(running.pop(0), now)
        elif step == "wait":
            now += amount
            assert race.get_timer() >= 0
            race.handle_timer(now)
    assert tried == candidates[: len(tried)]
    assert race.lost
