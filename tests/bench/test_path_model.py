"""bench/path_model.py on a clock that jumps: what arrives, when, and what is dropped."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bench.path_model import IN_FLIGHT_LIMIT, LinkModel, LinkSettings, changed


def model(seed: int = 1, **settings: Any) -> LinkModel:
    return LinkModel(LinkSettings(**settings), random.Random(seed).random)


def arrivals(link: LinkModel) -> list[tuple[float, bytes]]:
    """Let the clock jump from timer to timer until the link is empty."""
    found = []
    while (timer := link.get_timer()) is not None:
        found += [(timer, packet) for packet in link.packets_to_send(timer)]
    return found


# --- delay and rate ---------------------------------------------------------------------------------------------------


def test_a_packet_arrives_after_the_delay_and_not_before() -> None:
    link = model(delay=0.05)
    link.receive_packet(b"a", 10.0)
    assert link.get_timer() == 10.05
    assert link.packets_to_send(10.0499) == []
    assert link.packets_to_send(10.05) == [b"a"]
    assert link.get_timer() is None


def test_an_empty_link_has_no_timer_and_nothing_to_send() -> None:
    link = model(delay=0.05)
    assert link.get_timer() is None
    assert link.packets_to_send(1e9) == []


def test_packets_leave_one_after_the_other_at_the_rate() -> None:
    link = model(delay=0.05, rate=8000.0, queue=10_000)  # 1000 bytes a second
    for name in (b"a", b"b", b"c"):
        link.receive_packet(name * 500, 0.0)
    assert [(round(when, 9), packet[:1]) for when, packet in arrivals(link)] == [
        (0.55, b"a"),
        (1.05, b"b"),
        (1.55, b"c"),
    ]


def test_an_idle_link_saves_up_no_rate() -> None:
    link = model(rate=8000.0, queue=10_000)
    link.receive_packet(bytes(500), 0.0)
    assert arrivals(link)[0][0] == 0.5
    link.receive_packet(bytes(500), 100.0)
    link.receive_packet(bytes(500), 100.0)
    assert [when for when, _ in arrivals(link)] == [100.5, 101.0]


def test_packets_of_the_same_time_keep_their_order() -> None:
    link = model(delay=0.01)
    sent = [bytes([number]) for number in reversed(range(100))]
    for packet in sent:
        link.receive_packet(packet, 5.0)
    assert link.packets_to_send(6.0) == sent


# --- queue ------------------------------------------------------------------------------------------------------------


def test_a_full_queue_drops_the_newest() -> None:
    link = model(rate=8000.0, queue=1000)
    for name in (b"a", b"b", b"c"):
        link.receive_packet(name * 500, 0.0)
    assert [packet[:1] for _, packet in arrivals(link)] == [b"a", b"b"]
    assert link.statistics.queue_drops == 1


def test_the_queue_drains_with_time() -> None:
    link = model(rate=8000.0, queue=1000)
    link.receive_packet(bytes(1000), 0.0)
    link.receive_packet(bytes(500), 0.4)  # 600 bytes are still in front: no room
    link.receive_packet(bytes(500), 0.5)  # 500 are: just enough
    assert len(arrivals(link)) == 2
    assert link.statistics.queue_drops == 1


def test_the_default_queue_is_one_round_trip_at_full_rate_and_never_tiny() -> None:
    assert LinkSettings(delay=0.05, rate=100e6).queue_limit == 1_250_000
    assert LinkSettings(delay=0.0, rate=1e6).queue_limit == 64 << 10
    assert LinkSettings(delay=0.05).queue_limit == IN_FLIGHT_LIMIT


def test_without_a_rate_memory_is_bounded_all_the_same() -> None:
    link = model(delay=60.0)
    packet = bytes(1 << 20)
    for _ in range(100):
        link.receive_packet(packet, 0.0)
    assert len(link.packets_to_send(60.0)) == 64
    assert link.statistics.queue_drops == 36
    link.receive_packet(packet, 61.0)  # the room is given back
    assert link.statistics.queue_drops == 36


# --- loss, duplication, jitter ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [0.005, 0.1, 0.5])
def test_about_as_many_are_lost_as_asked_for(loss: float) -> None:
    link = model(loss=loss)
    for _ in range(20_000):
        link.receive_packet(b"x", 0.0)
    # Six standard deviations of the binomial distribution.
    assert abs(link.statistics.lost - 20_000 * loss) < 6 * (20_000 * loss * (1 - loss)) ** 0.5
    assert len(link.packets_to_send(0.0)) == 20_000 - link.statistics.lost


def test_a_seed_repeats_the_losses_and_another_one_does_not() -> None:
    def survivors(seed: int) -> list[bytes]:
        link = model(seed, loss=0.2, jitter=0.01)
        for number in range(200):
            link.receive_packet(bytes([number]), 0.0)
        return [packet for _, packet in arrivals(link)]

    assert survivors(1) == survivors(1)
    assert survivors(1) != survivors(2)


def test_the_same_packets_are_lost_whatever_else_is_set() -> None:
    def lost(**settings: float) -> set[int]:
        link = model(7, loss=0.3, **settings)
        for number in range(250):
            link.receive_packet(bytes([number]), 0.0)
        return set(range(250)) - {packet[0] for _, packet in arrivals(link)}

    assert lost() == lost(jitter=0.5) == lost(duplicate=0.5)


def test_a_lost_packet_has_used_the_link() -> None:
    link = model(loss=1.0, rate=8000.0, queue=10_000)
    link.receive_packet(bytes(500), 0.0)
    link.change(LinkSettings(rate=8000.0, queue=10_000))
    link.receive_packet(bytes(500), 0.0)
    assert [when for when, _ in arrivals(link)] == [1.0]


def test_duplicates_come_twice() -> None:
    link = model(duplicate=1.0)
    link.receive_packet(b"a", 0.0)
    assert link.packets_to_send(0.0) == [b"a", b"a"]
    assert link.statistics.duplicated == 1


def test_jitter_lets_packets_overtake_and_stays_within_its_bound() -> None:
    link = model(delay=0.1, jitter=0.05)
    for number in range(100):
        link.receive_packet(bytes([number]), number * 0.001)
    got = arrivals(link)
    assert [packet[0] for _, packet in got] != list(range(100))
    assert sorted(packet[0] for _, packet in got) == list(range(100))
    assert all(0.1 <= when - packet[0] * 0.001 <= 0.15 + 1e-9 for when, packet in got)


# --- changes, counters, bad settings ----------------------------------------------------------------------------------


def test_a_change_leaves_what_is_on_the_way_alone() -> None:
    link = model(delay=1.0)
    link.receive_packet(b"old", 0.0)
    link.change(changed(link.settings, loss=1.0))
    link.receive_packet(b"new", 0.1)
    assert arrivals(link) == [(1.0, b"old")]


def test_the_counters_add_up() -> None:
    link = model(loss=0.3, duplicate=0.2, rate=8e6, queue=20_000)
    for number in range(300):
        link.receive_packet(bytes(100 + number % 50), number * 1e-5)
    arrivals(link)
    seen = link.statistics
    assert seen.packets_in == 300
    assert seen.packets_in - seen.lost - seen.queue_drops + seen.duplicated == seen.packets_out
    assert seen.largest == 149
    assert seen.lost > 0
    assert seen.queue_drops > 0
    assert seen.duplicated > 0


def test_being_late_is_noticed() -> None:
    link = model(delay=0.05)
    assert link.statistics.mean_lateness == 0
    link.receive_packet(b"a", 0.0)
    link.receive_packet(b"b", 0.01)
    link.packets_to_send(0.07)
    assert link.statistics.latest == pytest.approx(0.02)
    assert link.statistics.mean_lateness == pytest.approx(0.015)


@pytest.mark.parametrize(
    "settings",
    [{"delay": -1}, {"delay": 61}, {"jitter": -0.1}, {"loss": 1.1}, {"duplicate": -0.1}, {"rate": 0}, {"queue": 0}],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        model(**settings)


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known are delay, jitter"):
        changed(LinkSettings(), delai=1.0)
