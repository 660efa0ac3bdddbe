"""The cases of the benchmark: what is asked of the load generator, and how its answer becomes figures.

Read bench/load.py for the load and bench/peers/base.py for what is loaded. A figure's unit is in its name: MB are 10^6
bytes, GB 10^9. A case returns figures, or raises CaseError with one line that goes into the table in their place.
"""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.flows import Via
from bench.peers.base import ROOT, Place, Running, load_command
from bench.processes import Program

# What a load generator may take beyond the seconds of its case: its start, slow handshakes, one stuck request.
GRACE = 20.0

# Each way before anything is measured. The slowest peer, with ciphers in pure Python, moves it in half a second.
VERIFY_SIZE, VERIFY_SECONDS = 64 << 10, 10.0

Figures = dict[str, Any]


class CaseError(Exception):
    """The case gave no figures; the text says why."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done. Every case ends at its seconds or at its amount, whichever comes first."""

    bulk_seconds: float
    bulk_bytes: int
    request_seconds: float
    requests: int
    latency_seconds: float
    latencies: int
    idle_flows: int
    idle_seconds: float
    path_seconds: float
    trips: int
    trip_seconds: float


FULL = Effort(3.0, 2_000_000_000, 3.0, 4000, 1.5, 300, 1000, 15.0, 12.0, 7, 4.0)
QUICK = Effort(0.6, 500_000_000, 0.6, 500, 0.3, 100, 200, 2.0, 1.5, 3, 1.2)


@dataclass(slots=True)
class Subject:
    """A running peer with all that a case needs. idle: its resident bytes by role, before any case has run."""

    running: Running
    place: Place
    target: tuple[str, int]
    folder: Path
    effort: Effort
    idle: dict[str, int]

    def load(self, case: str, seconds: float, amount: dict[str, int], via: Via | None = None) -> Figures:
        """Run the load generator from the client's side; its answer, with ``cpu``: what the peer has used meanwhile.

        amount: the case's arguments besides seconds. via: another way than the peer's usual one.
        """
        arguments = {**amount, "seconds": seconds}
        argv = (
            self.running.command(case, self.target, arguments)
            if via is None
            else load_command(case, via, self.target, arguments)
        )
        assert argv is not None  # suits has been asked
        before = self._cpu()
        try:
            done = subprocess.run(
                self.place.client_argv(argv),
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=seconds + GRACE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CaseError(f"hung: no end {GRACE:.0f} s after its time was up") from None
        cpu = self._cpu() - before
        result = _answer(done.stdout, done.stderr)
        result["cpu"] = result.get("cpu", 0.0) + cpu
        return result

    def _cpu(self) -> float:
        return sum(usage.cpu for usage in self.running.usage().values())


@dataclass(frozen=True, slots=True)
class Case:
    """name: for the command line and JSON. title: for people. load: the case of bench/load.py that it rests on.
    seconds: what it takes at most, without trouble."""

    name: str
    title: str
    load: str
    run: Callable[[Subject], Figures]
    seconds: Callable[[Effort], float]
    on_path: bool = False

    def suits(self, running: Running) -> bool:
        """Whether the peer can be asked for it: bare aioquic is no proxy, and no proxy has no memory."""
        return running.carries(self.load) and (self.name != "memory" or bool(running.programs))


def verify(subject: Subject) -> None:
    """Every byte must arrive as it was, in both directions, before anything is measured. Raises CaseError."""
    if subject.running.via is not None:
        subject.load("verify", VERIFY_SECONDS, {"size": VERIFY_SIZE})


def download(subject: Subject) -> Figures:
    return _bulk(subject, "download", 1)


def upload(subject: Subject) -> Figures:
    return _bulk(subject, "upload", 1)


def download16(subject: Subject) -> Figures:
    return _bulk(subject, "download", 16)


def _bulk(subject: Subject, case: str, flows: int, seconds: float | None = None) -> Figures:
    effort = subject.effort
    seconds = effort.bulk_seconds if seconds is None else seconds
    result = subject.load(case, seconds, {"flows": flows, "size": effort.bulk_bytes})
    return {
        "mb_per_s": result["bytes"] / result["seconds"] / 1e6,
        "cpu_s_per_gb": result["cpu"] / (result["bytes"] / 1e9) if subject.running.programs else None,
        "mb": result["bytes"] / 1e6,
        "seconds": result["seconds"],
        "jain": result.get("jain"),
        "late_mb_per_s": result["late_bytes"] / result["late_seconds"] / 1e6 if result.get("late_seconds") else None,
    }


def connections(subject: Subject) -> Figures:
    effort = subject.effort
    result = subject.load("connections", effort.request_seconds, {"concurrency": 32, "count": effort.requests})
    return {
        "requests_per_s": result["requests"] / result["seconds"],
        "cpu_ms_per_request": result["cpu"] / result["requests"] * 1e3 if subject.running.programs else None,
        "p50_ms": result["p50"] * 1e3,
        "p99_ms": result["p99"] * 1e3,
        "requests": result["requests"],
        "failures": result["failures"],
    }


def latency(subject: Subject) -> Figures:
    effort = subject.effort
    result = subject.load("latency", effort.latency_seconds, {"count": effort.latencies})
    return {"p50_ms": result["p50"] * 1e3, "p99_ms": result["p99"] * 1e3, "requests": result["requests"]}


def memory(subject: Subject) -> Figures:
    """Resident memory of each role, idle and with many open idle flows that have each carried a byte."""
    effort = subject.effort
    argv = subject.running.command("idle", subject.target, {"count": effort.idle_flows, "seconds": effort.idle_seconds})
    assert argv is not None
    load = Program("idle-load", subject.place.client_argv(argv), subject.folder, lines=True, directory=ROOT)
    try:
        ready, _, _ = select.select([load.stdout], [], [], effort.idle_seconds + GRACE)
        if not ready:
            raise CaseError(f"the flows were not open after {effort.idle_seconds + GRACE:.0f} s")
        result = _answer(load.stdout.readline().decode(), load.last_words())
        time.sleep(0.3)  # what was allocated only for opening them may go
        usage = subject.running.usage()
    finally:
        load.stop()
    if result["failure"]:
        raise CaseError(f"{result['open']} flows open, then: {result['failure']}")
    idle, now = sum(subject.idle.values()), sum(role.rss for role in usage.values())
    return {
        "idle_mb": {role: rss / 1e6 for role, rss in subject.idle.items()},
        "open_mb": {role: role_usage.rss / 1e6 for role, role_usage in usage.items()},
        "open_flows": result["open"],
        "kb_per_flow": max(0, now - idle) / 1e3 / max(1, result["open"]),
    }


def path_download(subject: Subject) -> Figures:
    return _bulk(subject, "download", 1, subject.effort.path_seconds)


def round_trips(subject: Subject) -> Figures:
    """Times from a request to its answers on the emulated path, and how many round trips each of them is."""
    effort = subject.effort
    amount = {"count": effort.trips}
    result = subject.load("round_trips", effort.trip_seconds, amount)
    figures = {f"{key}_ms": result[key] * 1e3 for key in ("reply", "first_byte", "total")}
    if subject.running.http is not None:
        answer = subject.load("round_trips", effort.trip_seconds, amount, subject.running.http)
        figures["http_total_ms"] = answer["total"] * 1e3
    return figures


CASES: tuple[Case, ...] = (
    Case("down", "one flow down", "download", download, lambda effort: effort.bulk_seconds),
    Case("up", "one flow up", "upload", upload, lambda effort: effort.bulk_seconds),
    Case("down16", "16 flows down", "download", download16, lambda effort: effort.bulk_seconds),
    Case("connections", "new connections", "connections", connections, lambda effort: effort.request_seconds),
    Case("latency", "time to first byte", "latency", latency, lambda effort: effort.latency_seconds),
    Case("memory", "memory", "idle", memory, lambda effort: effort.idle_seconds / 5),
    # Before the bulk: what is still on its way of an aborted transfer would delay them.
    Case(
        "trips", "round trips on the path", "round_trips", round_trips, lambda effort: effort.trip_seconds, on_path=True
    ),
    Case("path", "one flow on the path", "download", path_download, lambda effort: effort.path_seconds, on_path=True),
)


def _answer(stdout: str, stderr: str) -> Figures:
    try:
        result = json.loads(stdout)
    except ValueError:
        said = stderr.strip().splitlines()
        raise CaseError(f"the load generator failed: {said[-1] if said else 'it said nothing'}") from None
    assert isinstance(result, dict)
    if "error" in result:
        raise CaseError(result["error"])
    return result
