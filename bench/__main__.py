"""``python -m bench``: run the benchmark, print its tables, and write result.json, result.md and result.png.

Run it from the tree's root. Read docs/performance.md for what the figures mean, bench/runner.py for the order of
things. Exit status: 0 when it ran, 1 when it could not, 2 for a wrong command line, 130 on Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import report
from bench.cases import CASES, FULL, QUICK
from bench.origin import raise_descriptor_limit
from bench.peers.registry import PEERS
from bench.processes import StartError
from bench.runner import Plan, Runner

# Seconds for a whole run; what would begin later is skipped. Five minutes and one minute, less what drawing takes.
FULL_BUDGET, QUICK_BUDGET = 285.0, 55.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.show is not None:
        return _show(options.show)
    chosen_peers = [peer for peer in PEERS if peer.name in options.peers]
    chosen_cases = [case for case in CASES if case.name in options.cases]
    plan = Plan(
        peers=chosen_peers,
        cases=chosen_cases,
        effort=QUICK if options.quick else FULL,
        quick=options.quick,
        repeat=options.repeat,
        budget=(QUICK_BUDGET if options.quick else FULL_BUDGET) * options.repeat,
    )
    raise_descriptor_limit()
    try:
        result = Runner(plan, lambda line: print(line, file=sys.stderr, flush=True)).run()
    except StartError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    tables = report.markdown(result)
    print(tables)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "result.md").write_text(tables)
    try:
        report.draw(result, options.out / "result.png")
    except ImportError:
        print("bench: no picture: matplotlib is not installed; pip install '.[bench]'", file=sys.stderr)
    print(f"bench: results are in {options.out}", file=sys.stderr)
    return 0


def _show(path: Path) -> int:
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        print(f"bench: cannot read {path}: {error}", file=sys.stderr)
        return 1
    print(report.markdown(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Compare quicsocks with its neighbours: the same work, on this machine, in one run.",
        epilog="example: python -m bench --quick --peers quicsocks,aioquic --cases down,up",
    )
    parser.add_argument("--quick", action="store_true", help="under a minute, and rougher, instead of under five")
    parser.add_argument(
        "--peers",
        type=_names("peer", [peer.name for peer in PEERS]),
        default=[peer.name for peer in PEERS],
        metavar="A,B",
        help="only these, of " + ", ".join(peer.name for peer in PEERS),
    )
    parser.add_argument(
        "--cases",
        type=_names("case", [case.name for case in CASES]),
        default=[case.name for case in CASES],
        metavar="A,B",
        help="only these, of " + ", ".join(case.name for case in CASES),
    )
    parser.add_argument("--repeat", type=_positive, default=1, metavar="N", help="rounds; figures are their medians")
    parser.add_argument(
        "--out", type=Path, default=Path("bench/results"), metavar="DIR", help="where to write (bench/results)"
    )
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the tables of an old result.json, run nothing")
    return parser


class _names:
    """An argument type: a list of known names, separated by commas."""

    def __init__(self, kind: str, known: Sequence[str]) -> None:
        self._kind = kind
        self._known = known

    def __call__(self, text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in self._known:
                raise argparse.ArgumentTypeError(f"no {self._kind} {name}: there are {', '.join(self._known)}")
        return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of rounds: give 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
