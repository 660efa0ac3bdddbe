"""Goodput of the native engine against round-trip time and loss, for each controller, beside a stored table.

    python -m tests.sim.throughput            measures, and says what has changed
    python -m tests.sim.throughput --store    and stores what it has measured, when the change is meant

One flow of one client over a bottleneck with a queue of one bandwidth-delay product, on the simulation's clock: the same
code gives the same table again. A cell is the mean of some seeds, from the stream's first octet on, with slow start.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from quicsocks.userspace.quic.types import Limits

from .link import Conditions
from .streaming import Streaming

STORED = Path(__file__).with_name("throughput.toml")
RATE = 20e6
"""Bits per second of the bottleneck."""
CONTROLLERS = ("bbr", "cubic", "reno")
ROUND_TRIPS = (10, 50, 100, 300)
"""ms"""
LOSSES = (0.0, 0.1, 0.5, 2.0)
"""Percent of the packets with data, at random."""
SEEDS = 4
"""Runs of a cell with losses: where a window is small, it is a few losses that decide."""
SLOWER, FASTER = 0.95, 1.15
"""Of what is stored: less is a loss, and more has to be stored, or it could be lost again unnoticed."""

Row = list[float]
"""Mbit/s, by ``LOSSES``."""
Table = Mapping[str, Mapping[str, Row]]
"""By controller, and by round-trip time."""


def seconds_of(round_trip: int) -> float:
    """How long a cell is measured."""
    return max(3.0, 0.03 * round_trip)


def cell(controller: str, round_trip: int, loss: float, limits: Limits | None = None) -> float:
    """Mbit/s."""
    return mean(_run(controller, round_trip, loss, limits, seed) for seed in range(SEEDS if loss else 1))


def row(controller: str, round_trip: int, limits: Limits | None = None) -> Row:
    return [round(cell(controller, round_trip, loss, limits), 2) for loss in LOSSES]


def key_of(round_trip: int) -> str:
    return f"{round_trip}ms"


def load() -> Table:
    stored: Table = tomllib.loads(STORED.read_text())
    return stored


def deviations(measured: Row, stored: Row) -> list[str]:
    """A sentence for each cell that is not what it was."""
    found = []
    for loss, now, before in zip(LOSSES, measured, stored, strict=True):
        share = now / before
        if not SLOWER <= share <= FASTER:
            found.append(f"{loss} % loss: {now} Mbit/s, {share - 1:+.0%} against {before}")
    return found


def _run(controller: str, round_trip: int, loss: float, limits: Limits | None, seed: int) -> float:
    delay = round_trip / 2e3
    down = Conditions(delay=delay, rate=RATE, queue=int(RATE / 8 * 2 * delay))
    up = Conditions(delay=delay, rate=RATE, queue=down.queue, loss=loss / 100)
    streaming = Streaming(up, down, congestion=controller, limits=limits, seed=seed)
    streaming.bulk()
    seconds = seconds_of(round_trip)
    streaming.pair.pass_time(seconds)
    return streaming.received() * 8 / seconds / 1e6


def _text(table: Table) -> str:
    lines = [
        "# Mbit/s over a bottleneck of 20 Mbit/s; written by `python -m tests.sim.throughput --store`.",
        f"# Columns: {', '.join(f'{loss} %' for loss in LOSSES)} loss.",
    ]
    for controller, rows in table.items():
        lines += ["", f"[{controller}]", *(f"{key} = {[float(value) for value in row]}" for key, row in rows.items())]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="store_true", help="the new table in place of the stored one")
    store = parser.parse_args().store
    table = {name: {key_of(time): row(name, time) for time in ROUND_TRIPS} for name in CONTROLLERS}
    print(_text(table), end="")
    stored = load() if STORED.exists() else {}
    changed = 0
    for controller, rows in stored.items():
        for key, before in rows.items():
            for deviation in deviations(table[controller][key], before):
                changed += 1
                print(f"{controller}, {key}, {deviation}", file=sys.stderr)
    if store:
        STORED.write_text(_text(table))
        return 0
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
