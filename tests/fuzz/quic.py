"""Fuzzing of the native QUIC engine, for as long as one likes: ``python -m tests.fuzz.quic TARGET [--seconds N] [--seed N]``.

A target is a function of octets (``quic_packets``, ``quic_handshake``, ``quic_operations``); it returns marks of what it has
brought about. Inputs are made by the target's generator, and by changing those kept in corpus/quic/TARGET/ and those that
have brought about something new in this run. What fails is made shorter, and written to a file in the folder given by
--failures, to be run again with --input FILE; should the process die, its input is the file ``last`` there. --keep N writes
inputs that together have brought about most to corpus/.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .octets import minimised, some_of
from .quic_handshake import handshake, some_meddling
from .quic_operations import operations, some_operations
from .quic_packets import frames, packets, some_packets

CORPUS = Path(__file__).parent / "corpus" / "quic"
FRESH = 0.5
"""Of all inputs, those that are not made of others."""


@dataclass(frozen=True)
class Target:
    name: str
    run: Callable[[bytes], frozenset[object]]
    some: Callable[[random.Random], bytes]

    def corpus(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())]


TARGETS = {
    target.name: target
    for target in (
        Target("frames", frames, some_packets),
        Target("packets", packets, some_packets),
        Target("handshake", handshake, some_meddling),
        Target("operations", operations, some_operations),
    )
}


@dataclass
class Campaign:
    """A run of a target over many inputs, the same for a seed: first what is in the corpus. pool: inputs that have brought
    about something new."""

    target: Target
    seed: int
    pool: list[bytes] = field(default_factory=list)
    marks: set[object] = field(default_factory=set)
    runs: int = 0

    def __post_init__(self) -> None:
        self.waiting = self.target.corpus()

    def next_input(self) -> bytes:
        if self.waiting:
            return self.waiting.pop(0)
        draw = random.Random(f"{self.target.name} {self.seed} {self.runs}")
        if not self.pool or draw.random() < FRESH:
            return self.target.some(draw)
        return some_of(self.pool, draw)

    def run(self, data: bytes) -> None:
        self.runs += 1
        found = self.target.run(data)
        if not found <= self.marks:
            self.marks |= found
            self.pool.append(data)


def failure_of(target: Target, data: bytes) -> str:
    """The kind of error and where it was raised; empty when all is well."""
    try:
        target.run(data)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} {last.filename} {last.lineno}"
    return ""


def save(folder: Path, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()[:12]
    path.write_bytes(data)
    return path


def report(target: Target, data: bytes, folder: Path) -> None:
    kind = failure_of(target, data)
    if kind:
        data = minimised(data, lambda shorter: failure_of(target, shorter) == kind)
    path = save(folder, data)
    traceback.print_exc()
    print(f"run it again with: python -m tests.fuzz.quic {target.name} --input {path}", flush=True)


def best_of(target: Target, pool: list[bytes], count: int) -> list[bytes]:
    """Inputs that together bring about as much as so many can, each as short as does it."""
    brought = {data: target.run(data) for data in sorted(set(pool), key=len)}
    seen, kept = set[object](), list[bytes]()
    while len(kept) < count:
        best = max(brought, key=lambda data: len(brought[data] - seen) / (500 + len(data)))
        new = brought[best] - seen
        if not new:
            break
        best = minimised(best, lambda shorter, new=new: target.run(shorter) >= new, 300)  # type: ignore[misc]
        seen |= target.run(best)
        kept.append(best)
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="until interrupted, when not given")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the time, when not given")
    parser.add_argument("--failures", type=Path, default=Path("artifacts/fuzz"))
    parser.add_argument("--input", type=Path, help="run this one alone")
    parser.add_argument("--keep", type=int, default=0, help="write the best so many to the corpus at the end")
    arguments = parser.parse_args()
    target = TARGETS[arguments.target]
    if arguments.input is not None:
        print(*sorted(map(str, target.run(arguments.input.read_bytes()))), sep="\n")
        return 0
    campaign, failed = Campaign(target, arguments.seed), 0
    print(f"{target.name}, seed {arguments.seed}", flush=True)
    folder = arguments.failures / target.name
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last"
    begun = told = time.monotonic()
    try:
        while time.monotonic() - begun < arguments.seconds and failed < 20:
            data = campaign.next_input()
            last.write_bytes(data)
            try:
                campaign.run(data)
            except Exception:
                failed += 1
                report(target, data, folder)
            if time.monotonic() - told > 10.0:
                told = time.monotonic()
                print(f"{campaign.runs} runs, {len(campaign.marks)} marks, {failed} failed", flush=True)
    except KeyboardInterrupt:
        pass
    last.unlink()
    seconds = time.monotonic() - begun
    print(f"{campaign.runs} runs in {seconds:.0f} s, {len(campaign.marks)} marks, {failed} failed")
    for data in best_of(target, campaign.pool, arguments.keep) if arguments.keep else []:
        save(CORPUS / target.name, data)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
