"""RTT estimation against the formulas of RFC 9002 §5."""

from __future__ import annotations

from math import inf, isfinite, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.netstack.rtt import RttEstimator

samples = st.floats(0.0, 3600.0)
delays = st.floats(0.0, 0.1)


def test_there_is_an_initial_value_until_the_first_sample() -> None:
    rtt = RttEstimator(0.333)
    assert (rtt.smoothed, rtt.variation, rtt.sampled, rtt.minimum) == (0.333, 0.333 / 2, False, 0.0)
    assert rtt.timeout_after() == pytest.approx(0.333 * 3)


def test_the_first_sample_replaces_it_and_the_peers_delay_is_not_taken_off() -> None:
    rtt = RttEstimator(0.333)
    rtt.sample(0.100, 0.020)
    assert (rtt.latest, rtt.smoothed, rtt.variation, rtt.minimum) == (0.100, 0.100, 0.050, 0.100)
    assert rtt.sampled


@given(st.lists(st.tuples(samples, delays), min_size=1, max_size=30))
def test_samples_are_smoothed_as_the_rfc_has_it(given_samples: list[tuple[float, float]]) -> None:
    rtt = RttEstimator()
    minimum = smoothed = variation = 0.0
    for index, (sample, delay) in enumerate(given_samples):
        rtt.sample(sample, delay)
        if index == 0:
            minimum, smoothed, variation = sample, sample, sample / 2
        else:
            minimum = min(minimum, sample)
            adjusted = sample
            if sample >= minimum + delay:
                adjusted = sample - delay
            # At the boundary, the two sides may differ by a rounding error.
            if abs(sample - (minimum + delay)) < 1e-9:
                adjusted = rtt.latest
            variation = 3 / 4 * variation + 1 / 4 * abs(smoothed - adjusted)
            smoothed = 7 / 8 * smoothed + 1 / 8 * adjusted
        assert rtt.minimum == minimum
        assert rtt.smoothed == pytest.approx(smoothed, abs=1e-9)
        assert rtt.variation == pytest.approx(variation, abs=1e-9)
        assert rtt.latest >= rtt.minimum


def test_a_delay_that_would_take_it_below_the_minimum_is_not_believed() -> None:
    rtt = RttEstimator()
    rtt.sample(0.100)
    rtt.sample(0.110, 0.025)
    assert rtt.latest == 0.110
    rtt.sample(0.130, 0.025)
    assert rtt.latest == pytest.approx(0.105)


def test_the_timeout_leaves_room_for_the_granularity() -> None:
    rtt = RttEstimator()
    for _ in range(200):
        rtt.sample(0.050)
    assert rtt.timeout_after(0.001) == pytest.approx(0.051)
    rtt.sample(0.090)
    assert rtt.timeout_after(0.001) == pytest.approx(rtt.smoothed + 4 * rtt.variation)
    assert rtt.timeout_after(1.0) == pytest.approx(rtt.smoothed + 1.0)


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=20))
def test_no_input_makes_it_anything_but_a_time(given_samples: list[tuple[float, float]]) -> None:
    rtt = RttEstimator()
    for sample, delay in given_samples:
        rtt.sample(sample, delay)
        for value in (rtt.latest, rtt.smoothed, rtt.variation, rtt.minimum, rtt.timeout_after()):
            assert isfinite(value)
            assert value >= 0.0


@pytest.mark.parametrize("sample", [-0.001, nan, inf, -inf])
def test_what_cannot_be_a_round_trip_is_no_sample(sample: float) -> None:
    rtt = RttEstimator()
    rtt.sample(sample)
    assert not rtt.sampled


def test_a_new_path_begins_anew() -> None:
    rtt = RttEstimator()
    rtt.sample(0.010)
    rtt.forget(0.2)
    assert (rtt.sampled, rtt.smoothed, rtt.minimum) == (False, 0.2, 0.0)
    rtt.sample(0.3)
    assert (rtt.smoothed, rtt.minimum) == (0.3, 0.3)


def test_the_minimum_can_rise_after_persistent_congestion() -> None:
    rtt = RttEstimator()
    rtt.sample(0.010)
    rtt.sample(0.100)
    rtt.start_minimum_again()
    assert rtt.minimum == 0.100
    rtt.sample(0.120)
    assert rtt.minimum == 0.100
