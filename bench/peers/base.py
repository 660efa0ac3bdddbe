"""What a peer of the benchmark is: something that can be started at a place and then carries flows to the origin.

Read bench/processes.py for how programs are started. A peer must bind only to the addresses of its place, keep all its
files in the folder it is given, and start nothing that outlives ``Running.stop``.
"""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.emulator import ROOT, End
from bench.flows import Via
from bench.processes import Program, Usage


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer runs: on loopback, or its two sides at the two ends of an emulated path.

    address: of the server's side, where the origin listens too. client, server: the ends; None for this namespace.
    """

    address: str = "127.0.0.1"
    client: End | None = None
    server: End | None = None

    def client_argv(self, argv: Sequence[str]) -> list[str]:
        """The command line for the application's side."""
        return list(argv) if self.client is None else self.client.argv(argv)

    def server_argv(self, argv: Sequence[str]) -> list[str]:
        """The command line for the far side."""
        return list(argv) if self.server is None else self.server.argv(argv)


@dataclass(slots=True)
class Running:
    """A started peer. programs: by role, "client", "server" or "proxy" for both in one. via: how flows go through it.
    http: the same for plain HTTP requests, if it forwards them."""

    programs: dict[str, Program] = field(default_factory=dict)
    via: Via | None = None
    http: Via | None = None

    def command(self, case: str, target: tuple[str, int], arguments: dict[str, Any]) -> list[str] | None:
        """The load generator's command line for a case of bench/load.py; None when the case is not for this peer."""
        if self.via is None:
            return None
        return load_command(case, self.via, target, arguments)

    def carries(self, case: str) -> bool:
        """Whether a case of bench/load.py is for this peer."""
        return self.command(case, ("", 0), {}) is not None

    def usage(self) -> dict[str, Usage]:
        """What each role uses, with its descendants."""
        return {role: program.usage() for role, program in self.programs.items()}

    def stop(self) -> None:
        """End all its programs, the application's side first."""
        for program in reversed(list(self.programs.values())):
            program.stop()


class Peer(ABC):
    """One system to compare. name: for the command line. label: for tables."""

    name: str
    label: str

    def missing(self) -> str | None:
        """Why it cannot run here, as one line that says what to do; None when it seems it can."""
        return None

    def note(self) -> str | None:
        """What a reader of its figures has to know; None for nothing."""
        return None

    @abstractmethod
    def start(self, place: Place, folder: Path) -> Running:
        """Start it and wait until it accepts flows. Raises StartError; then nothing of it is left running."""


def load_command(case: str, via: Via, target: tuple[str, int], arguments: dict[str, Any]) -> list[str]:
    """The command line of bench/load.py. Run it with ``ROOT`` as the working directory."""
    request = {"case": case, "via": [via.kind, *via.address], "target": list(target), **arguments}
    return [sys.executable, "-m", "bench.load", json.dumps(request)]


def bench_module(name: str, *arguments: str) -> list[str]:
    """The command line of one of this folder's programs. Run it with ``ROOT`` as the working directory."""
    return [sys.executable, "-m", f"bench.{name}", *arguments]


__all__ = ["ROOT", "Peer", "Place", "Running", "bench_module", "load_command"]
