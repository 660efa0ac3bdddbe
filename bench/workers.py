"""``python -m bench.workers``: one worker of a concentrator against several, with many clients at once.

Run it from the tree's root. Every client is a ``quicsocks run`` of its own with one download through it; the clients,
the loads and the origin are the same for each number of workers. Figures are the concentrator's: CPU seconds a GB with
all its processes, and how many packets were at a wrong worker first. It prints one line of JSON a round, and the medians.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.flows import Via
from bench.peers.base import ROOT, bench_module, load_command
from bench.peers.quicsocks import LINK, quicsocks_program
from bench.processes import Program, StartError, free_port

SIZE = 100_000_000_000  # bytes of a download: more than there is time for
WARM_UP = 0.5  # seconds of the same load before anything is counted: handshakes, growing windows
GRACE = 20.0  # seconds that a load may take beyond its own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 1 when a program does not start or a load fails."""
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--workers", default="1,2", metavar="A,B", help="numbers of workers to compare (1,2)")
    parser.add_argument("--clients", type=int, default=8, metavar="N", help="clients at once (8)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of each load (3)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds; figures are their medians (3)")
    parser.add_argument("--engine", default="native", help="QUIC engine of both sides (native)")
    options = parser.parse_args(arguments)
    counts = [int(count) for count in options.workers.split(",")]
    rounds: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    for number in range(options.repeat):
        # There and back again, so that a machine that gets slower or faster favours nobody.
        for count in counts if number % 2 == 0 else reversed(counts):
            try:
                with ExitStack() as stack:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quicsocks-bench-")))
                    figures = _Crowd(folder, stack, count, options.clients, options.engine).measure(options.seconds)
            except (StartError, subprocess.SubprocessError) as error:
                print(f"bench: {error}", file=sys.stderr)
                return 1
            print(json.dumps({"workers": count, **figures}), flush=True)
            rounds[count].append(figures)
    for count, all_figures in rounds.items():
        medians = {name: statistics.median(figures[name] for figures in all_figures) for name in all_figures[0]}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in medians.items())
        print(f"{count} worker{'' if count == 1 else 's'}, {options.clients} clients: {shown}")
    return 0


class _Crowd:
    """A concentrator with its clients, and the origin. Everything ends with stack. Raises StartError."""

    def __init__(self, folder: Path, stack: ExitStack, workers: int, clients: int, engine: str) -> None:
        program = quicsocks_program()
        if program is None:
            raise StartError("quicsocks is not installed beside this Python: pip install -e .")
        self._program = program
        self._folder = folder
        self._environment = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
        self._workers = workers
        state = ["--state", str(folder / "concentrator")]
        self._origin = ("127.0.0.1", free_port())
        origin = Program("origin", bench_module("origin", *map(str, self._origin)), folder, directory=ROOT)
        stack.callback(origin.stop)
        origin.wait_listening(self._origin[1])
        address = f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
        argv = [program, "concentrator", "--listen", address, "--public-name", address, *state, "--engine", engine]
        argv += ["--allow", "127.0.0.0/8", "--workers", str(workers), "--print-link"]
        self.server = Program("concentrator", argv, folder, environment=self._environment)
        stack.callback(self.server.stop)
        self.server.wait_until(lambda: b"listening on" in self.server.output(), "does not listen")
        self._ways: list[Via] = []
        for number in range(clients):
            add = [program, "client", "add", f"client-{number}", "--print-link", *state]
            link = LINK.search(self._run(add))
            assert link is not None
            link_file = folder / f"link-{number}"
            link_file.touch(mode=0o600)
            link_file.write_bytes(link[0] + b"\n")
            way = Via("socks5", ("127.0.0.1", free_port()))
            argv = [program, "run", "--state", str(folder / f"client-{number}"), "--link-file", str(link_file)]
            argv += ["--listen", f"127.0.0.1:{way.address[1]}", "--name", f"client-{number}", "--engine", engine]
            client = Program(f"run-{number}", argv, folder, environment=self._environment)
            stack.callback(client.stop)
            client.wait_listening(way.address[1])
            self._ways.append(way)

    def measure(self, seconds: float) -> dict[str, float]:
        """All clients download at once."""
        self._load(WARM_UP)
        cpu = self.server.usage().cpu
        moved = self._load(seconds)
        cpu = self.server.usage().cpu - cpu
        status = json.loads(self._run([self._program, "status", "concentrator", "--json"]))
        counters = status["endpoint"]
        per_worker = [worker["clients"] for worker in status.get("workers", [])] or [len(status["clients"])]
        return {
            "mb_per_s": moved / seconds / 1e6,
            "cpu_s_per_gb": cpu / (moved / 1e9),
            "packets": counters.get("received", 0),
            "forwarded": counters.get("forwarded", 0),
            "most_clients_of_a_worker": max(per_worker),
        }

    def _load(self, seconds: float) -> int:
        """The bytes that have arrived."""
        arguments: dict[str, Any] = {"flows": 1, "size": SIZE, "seconds": seconds}
        loads = [
            subprocess.Popen(load_command("download", way, self._origin, arguments), cwd=ROOT, stdout=subprocess.PIPE)
            for way in self._ways
        ]
        try:
            answers = [json.loads(load.communicate(timeout=seconds + GRACE)[0]) for load in loads]
        finally:
            for load in loads:
                load.kill()
                load.wait()
        for answer in answers:
            if "error" in answer:
                raise StartError(f"a load failed: {answer['error']}")
        return sum(int(answer["bytes"]) for answer in answers)

    def _run(self, argv: list[str]) -> bytes:
        environment = {"PATH": "/usr/bin:/bin", **self._environment}
        return subprocess.run(argv, capture_output=True, check=True, timeout=20, env=environment).stdout


if __name__ == "__main__":
    sys.exit(main())
