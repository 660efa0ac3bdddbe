"""One run: every peer in turn, every case on it, on loopback and then on the emulated path, within a bounded time.

Read bench/cases.py for what is measured. A peer or a case that fails costs its own figures and nobody else's: the reason
takes their place. It must not print figures: that is report.py's.
"""

from __future__ import annotations

import datetime
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cases import Case, CaseError, Effort, Figures, Subject, verify
from bench.emulator import EmulatedPath, EmulatorUnavailable, unavailable
from bench.peers.base import ROOT, Peer, Place, Running, bench_module
from bench.peers.plain import Direct
from bench.processes import Program, StartError, free_port, machine_cpu

# The path of the figures: a connection across an ocean on a good day.
PATH_DELAY, PATH_LOSS, PATH_RATE = 0.05, 0.005, 100e6
# What a peer takes to start, to move the first bytes and to stop.
OVERHEAD = 2.0
OUT_OF_TIME = "the time of the run was up"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. budget: seconds for the whole run; what would begin too late is skipped and says so."""

    peers: Sequence[Peer]
    cases: Sequence[Case]
    effort: Effort
    quick: bool
    repeat: int
    budget: float


class Runner:
    """Runs a plan. say: takes one line of progress each time something begins or fails."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._deadline = time.monotonic() + plan.budget

    def run(self) -> dict[str, Any]:
        """Run all of it; the whole result as JSON has it. Raises StartError when the origin itself does not start."""
        began, (busy, stolen), own = time.monotonic(), machine_cpu(), _own_cpu()
        results: dict[str, Any] = {}
        reasons = {peer.name: peer.missing() for peer in self._plan.peers}
        for peer in self._plan.peers:
            reason = reasons[peer.name]
            if reason is not None:
                self._say(f"{peer.label}: skipped: {reason}")
            results[peer.name] = {"label": peer.label, "note": peer.note(), "skipped": reason, "cases": {}}
        present = [peer for peer in self._plan.peers if reasons[peer.name] is None]
        near = [case for case in self._plan.cases if not case.on_path]
        far = [case for case in self._plan.cases if case.on_path]
        path: dict[str, Any] = {"skipped": "no case asked for it"}
        if far:
            path = self._path_description()
            if "skipped" in path:
                self._say(f"emulated path: skipped: {path['skipped']}")
                far = []

        rounds: dict[tuple[str, str], list[Figures]] = {}
        for _ in range(self._plan.repeat):
            for peer in present:
                # One peer after the other with all its cases, so that the last ones are cut when time runs out.
                for cases, place in ((near, self._on_loopback), (far, self._on_path)):
                    if cases:
                        with tempfile.TemporaryDirectory(prefix="quicsocks-bench-") as name:
                            for case, figures in place(peer, cases, Path(name)).items():
                                rounds.setdefault((peer.name, case), []).append(figures)
        for (peer_name, case_name), all_figures in rounds.items():
            results[peer_name]["cases"][case_name] = combined(all_figures)

        seconds = time.monotonic() - began
        busy_now, stolen_now = machine_cpu()
        others = (busy_now - busy) - (_own_cpu() - own)
        capacity = seconds * (os.cpu_count() or 1)
        return {
            "version": 1,
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "quick": self._plan.quick,
            "repeat": self._plan.repeat,
            "seconds": seconds,
            "foreign_cpu_share": max(0.0, others / capacity),
            "stolen_cpu_share": (stolen_now - stolen) / capacity,
            "path": path,
            "peers": results,
        }

    def _on_loopback(self, peer: Peer, cases: Sequence[Case], folder: Path) -> dict[str, Figures]:
        return self._at(Place(), peer, cases, folder)

    def _on_path(self, peer: Peer, cases: Sequence[Case], folder: Path) -> dict[str, Figures]:
        # A new path for each: the same seed, empty queues, and no kernel state left from the one before.
        try:
            with EmulatedPath(delay=PATH_DELAY, loss=PATH_LOSS, rate=PATH_RATE) as path:
                figures = self._at(Place(path.right.address, path.left, path.right), peer, cases, folder)
                seen = path.statistics()
        except EmulatorUnavailable as error:
            return {case.name: {"failed": str(error)} for case in cases}
        for values in figures.values():
            if "failed" in values or "skipped" in values:
                continue
            values["largest_packet_bytes"] = max(seen.forward.largest, seen.back.largest)
            values["emulator_late_ms"] = max(seen.forward.mean_lateness, seen.back.mean_lateness) * 1e3
        return figures

    def _at(self, place: Place, peer: Peer, cases: Sequence[Case], folder: Path) -> dict[str, Figures]:
        figures: dict[str, Figures] = {}
        if self._left() < OVERHEAD:
            return {case.name: {"skipped": OUT_OF_TIME} for case in cases}
        port = free_port()
        listen = "127.0.0.1" if place.server is None else "0.0.0.0"
        argv = place.server_argv(bench_module("origin", listen, str(port)))
        origin = Program("origin", argv, folder, directory=ROOT)
        running: Running | None = None
        try:
            origin.wait_listening(port)
            running = peer.start(place, folder)
            subject = Subject(running, place, (place.address, port), folder, self._plan.effort, {})
            verify(subject)
            subject.idle = {role: usage.rss for role, usage in running.usage().items()}
            for case in cases:
                figures[case.name] = self._case(peer, case, subject)
        except (StartError, CaseError, OSError) as error:
            self._say(f"{peer.label}: failed: {error}")
            for case in cases:
                figures.setdefault(case.name, {"failed": str(error)})
        finally:
            if running is not None:
                running.stop()
            origin.stop()
        return figures

    def _case(self, peer: Peer, case: Case, subject: Subject) -> Figures:
        if not case.suits(subject.running):
            return {"skipped": "not for this peer"}
        if self._left() < case.seconds(self._plan.effort) + OVERHEAD:
            return {"skipped": OUT_OF_TIME}
        self._say(f"{peer.label}: {case.title}")
        try:
            return case.run(subject)
        except CaseError as error:
            self._say(f"{peer.label}: {case.title}: failed: {error}")
            return {"failed": str(error)}

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _path_description(self) -> dict[str, Any]:
        if reason := unavailable():
            return {"skipped": reason}
        try:
            ceiling = measure_ceiling(1.0 if self._plan.quick else 2.0)
        except (EmulatorUnavailable, CaseError, StartError) as error:
            return {"skipped": str(error)}
        return {
            "delay_ms": PATH_DELAY * 1e3,
            "loss": PATH_LOSS,
            "rate_mbit_per_s": PATH_RATE / 1e6,
            "tcp": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
            "ceiling_mbit_per_s": ceiling,
        }


def measure_ceiling(seconds: float) -> float:
    """What the emulator itself can carry, Mbit/s of TCP payload one way, when its path has no limit.

    Raises EmulatorUnavailable, StartError, CaseError.
    """
    with tempfile.TemporaryDirectory(prefix="quicsocks-bench-") as name, EmulatedPath() as path:
        place = Place(path.right.address, path.left, path.right)
        port = free_port()
        argv = place.server_argv(bench_module("origin", "0.0.0.0", str(port)))
        origin = Program("origin", argv, Path(name), directory=ROOT)
        try:
            origin.wait_listening(port)
            running = Direct().start(place, Path(name))
            effort = Effort(seconds, 10**9, 0, 0, 0, 0, 0, 0, 0, 0, 0)
            subject = Subject(running, place, (place.address, port), Path(name), effort, {})
            result = subject.load("download", seconds, {"flows": 1, "size": 10**9})
        finally:
            origin.stop()
    return float(result["bytes"] / result["seconds"] * 8 / 1e6)


def combined(rounds: Sequence[Figures]) -> Figures:
    """The figures of several rounds of a case as one: medians of those that gave any, else the last reason."""
    good = [figures for figures in rounds if "failed" not in figures and "skipped" not in figures]
    if not good:
        return dict(rounds[-1])
    result: Figures = {}
    for key, value in good[-1].items():
        values = [figures[key] for figures in good if figures.get(key) is not None]
        if isinstance(value, dict):
            result[key] = combined(values)
        elif isinstance(value, int | float):
            result[key] = statistics.median(values)
        else:
            result[key] = value
    return result


def machine() -> dict[str, Any]:
    """What a reader needs to know of this machine to compare its figures with another's."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    }


def _own_cpu() -> float:
    # At the beginning and at the end of a run all children have ended and been waited for.
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )
