"""Goodput against round-trip time and loss is that of the stored table; ``throughput`` says how to store it anew."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quicsocks.userspace.quic.types import Limits

from .throughput import CONTROLLERS, LOSSES, ROUND_TRIPS, cell, deviations, key_of, load, row


@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_goodput_is_what_it_was(controller: str, round_trip: int) -> None:
    found = deviations(row(controller, round_trip), load()[controller][key_of(round_trip)])
    assert not found, "when this is meant: python -m tests.sim.throughput --store"


def test_the_table_has_every_cell() -> None:
    table = load()
    assert list(table) == list(CONTROLLERS)
    for rows in table.values():
        assert list(rows) == [key_of(round_trip) for round_trip in ROUND_TRIPS]
        assert all(len(row) == len(LOSSES) for row in rows.values())


def test_a_measurement_is_the_same_again() -> None:
    assert cell("bbr", 10, 2.0) == cell("bbr", 10, 2.0)


def test_a_window_that_is_too_small_is_noticed() -> None:
    small = replace(Limits(), initial_stream_window=100_000, stream_window=100_000)
    found = deviations(row("cubic", 100, small), load()["cubic"]["100ms"])
    assert any(text.startswith("0.0 % loss") for text in found)


def test_less_and_much_more_are_noticed() -> None:
    assert deviations([9.6, 11.4, 9.4, 11.6], [10.0] * 4) == [
        "0.5 % loss: 9.4 Mbit/s, -6% against 10.0",
        "2.0 % loss: 11.6 Mbit/s, +16% against 10.0",
    ]
