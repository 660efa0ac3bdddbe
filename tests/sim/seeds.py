"""Seeded runs of the whole transport: ``python -m tests.sim.seeds FIRST [LAST] [--engines client,server]``.

One seed is one scenario, drawn by ``scenario`` and played by ``run``. Prints the seeds that fail, each with why.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from dataclasses import replace

from .run import Failed, Outcome, Run
from .scenario import draw


def play(seed: int, engines: tuple[str, str] = ("native", "native")) -> Outcome:
    """Raises AssertionError with the line that runs it again."""
    scenario = draw(seed)
    if "aioquic" in engines:
        # It keeps no former keys: where the first packets of a phase are lost, it waits for others for ever. And it moves
        # no session, nor answers on a path that is only probed.
        scenario = replace(scenario, key_updates=(), migrations=())
    try:
        return Run(scenario, engines).play()
    except Exception as error:
        again = f"python -m tests.sim.seeds {seed} --engines {','.join(engines)}"
        raise Failed(f"seed {seed} fails; run it again with: {again}\n{type(error).__name__}: {error}") from error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int, nargs="?")
    parser.add_argument("--engines", default="native,native")
    parser.add_argument("--slow", type=float, default=1e9, help="print runs that stood still for so many seconds")
    arguments = parser.parse_args()
    client, server = arguments.engines.split(",")
    last = arguments.last if arguments.last is not None else arguments.first
    failed, begun = 0, time.perf_counter()
    for seed in range(arguments.first, last + 1):
        try:
            outcome = play(seed, (client, server))
        except Failed as error:
            failed += 1
            print(error, flush=True)
            if arguments.first == last:
                traceback.print_exc()
            continue
        if outcome.worst > arguments.slow or arguments.first == last:
            print(f"seed {seed}: {outcome}", flush=True)
    runs = last + 1 - arguments.first
    print(f"{runs} runs, {failed} failed, {(time.perf_counter() - begun) / runs * 1e3:.1f} ms each")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
