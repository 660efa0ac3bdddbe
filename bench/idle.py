"""``python -m bench.idle``: what open, idle flows cost: memory of each side, and CPU time of a flow that moves beside them.

Run it from the tree's root. A concentrator and one client, with their limits raised to the number of flows; each flow
has carried a byte. Figures: resident memory of each side without and with the flows, kB a flow and side, and CPU seconds
a GB of one download (both sides together) without and with them.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.flows import Via
from bench.peers.base import ROOT, bench_module, load_command
from bench.peers.quicsocks import LINK, quicsocks_program
from bench.processes import Program, StartError, free_port

SIZE = 100_000_000_000  # bytes of a download: more than there is time for
OPENING = 120.0  # seconds to open all flows
GRACE = 20.0  # seconds that a load may take beyond its own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 1 when a program does not start or a load fails."""
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--flows", type=int, default=5000, metavar="N", help="open at once (5000)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of each download (3)")
    options = parser.parse_args(arguments)
    need = 2 * options.flows + 200
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < need:
        print(f"bench: needs a hard limit of {need} open files (ulimit -Hn)", file=sys.stderr)
        return 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (need, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quicsocks-bench-")))
            figures = _Sides(folder, stack, options.flows).measure(options.seconds)
    except (StartError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures))
    for side in ("server", "client"):
        print(
            f"{side}: {figures['idle_mb'][side]:.1f} MB idle, {figures['open_mb'][side]:.1f} MB with {figures['flows']}"
            f" flows, {figures['kb_per_flow'][side]:.1f} kB a flow"
        )
    without, with_ = figures["cpu_s_per_gb"], figures["cpu_s_per_gb_beside"]
    print(f"one download: {without:.2f} CPU s/GB alone, {with_:.2f} beside them, ratio {with_ / without:.2f}")
    return 0


class _Sides:
    """A concentrator, a client and an origin. Everything ends with stack. Raises StartError."""

    def __init__(self, folder: Path, stack: ExitStack, flows: int) -> None:
        program = quicsocks_program()
        if program is None:
            raise StartError("quicsocks is not installed beside this Python: pip install -e .")
        self._folder = folder
        self._flows = flows
        environment = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
        self._origin = ("127.0.0.1", free_port())
        origin = Program("origin", bench_module("origin", *map(str, self._origin)), folder, directory=ROOT)
        stack.callback(origin.stop)
        origin.wait_listening(self._origin[1])
        address = f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
        room = str(flows + 100)
        argv = [program, "concentrator", "--listen", address, "--public-name", address, "--print-link"]
        argv += ["--state", str(folder / "concentrator"), "--allow", "127.0.0.1/32", "--limit-flows-per-client", room]
        self._server = Program("concentrator", argv, folder, environment=environment)
        stack.callback(self._server.stop)
        self._server.wait_until(lambda: LINK.search(self._server.output()) is not None, "prints no link")
        link = LINK.search(self._server.output())
        assert link is not None
        link_file = folder / "link"
        link_file.touch(mode=0o600)
        link_file.write_bytes(link[0] + b"\n")
        self._via = Via("socks5", ("127.0.0.1", free_port()))
        argv = [program, "run", "--state", str(folder / "client"), "--link-file", str(link_file)]
        argv += ["--listen", f"127.0.0.1:{self._via.address[1]}"]
        argv += ["--limit-connections", room, "--limit-connections-per-address", room]
        self._client = Program("run", argv, folder, environment=environment)
        stack.callback(self._client.stop)
        self._client.wait_listening(self._via.address[1])

    def measure(self, seconds: float) -> dict[str, Any]:
        time.sleep(1.0)  # what start-up has left to do
        idle = self._resident()
        # The windows grow once, and not on the flows' account.
        self._download(0.5)
        alone = self._download(seconds)
        argv = load_command("idle", self._via, self._origin, {"count": self._flows, "seconds": OPENING})
        load = Program("idle-load", argv, self._folder, lines=True, directory=ROOT)
        try:
            if not select.select([load.stdout], [], [], OPENING + GRACE)[0]:
                raise StartError(f"the flows were not open after {OPENING + GRACE:.0f} s")
            result = json.loads(load.stdout.readline())
            if result.get("failure") or result.get("error"):
                raise StartError(f"{result.get('open')} flows open, then: {result.get('failure') or result['error']}")
            time.sleep(0.5)  # what was allocated only for opening them may go
            now = self._resident()
            beside = self._download(seconds)
        finally:
            load.stop()
        return {
            "flows": result["open"],
            "idle_mb": {side: octets / 1e6 for side, octets in idle.items()},
            "open_mb": {side: octets / 1e6 for side, octets in now.items()},
            "kb_per_flow": {side: (now[side] - idle[side]) / 1e3 / result["open"] for side in now},
            "cpu_s_per_gb": alone,
            "cpu_s_per_gb_beside": beside,
        }

    def _resident(self) -> dict[str, int]:
        return {"server": self._server.usage().rss, "client": self._client.usage().rss}

    def _download(self, seconds: float) -> float:
        """CPU seconds a GB."""
        argv = load_command("download", self._via, self._origin, {"flows": 1, "size": SIZE, "seconds": seconds})
        cpu = self._cpu()
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=seconds + GRACE, check=True)
        answer = json.loads(done.stdout)
        if "error" in answer:
            raise StartError(f"a load failed: {answer['error']}")
        return (self._cpu() - cpu) / (float(answer["bytes"]) / 1e9)

    def _cpu(self) -> float:
        return self._server.usage().cpu + self._client.usage().cpu


if __name__ == "__main__":
    sys.exit(main())
