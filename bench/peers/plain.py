"""The peers without a tunnel: no proxy at all, a SOCKS hop that only relays, microsocks, and bare aioquic.

microsocks (https://github.com/rofl0r/microsocks) is a small SOCKS5 server in C with a thread for each flow: what a hop
costs when it is done well. Bare aioquic is no proxy but the yardstick for what one QUIC connection moves in Python.
"""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

from bench.certificate import write_certificate
from bench.flows import Via
from bench.peers.base import ROOT, Peer, Place, Running, bench_module
from bench.processes import Program, StartError, free_port


class Direct(Peer):
    name = "direct"
    label = "direct"

    def start(self, place: Place, folder: Path) -> Running:
        return Running(via=Via("direct"))


class BareHop(Peer):
    name = "hop"
    label = "bare uvloop SOCKS hop"

    def start(self, place: Place, folder: Path) -> Running:
        port = free_port()
        argv = place.server_argv(bench_module("bare_hop", place.address, str(port)))
        return _started(Program("bare-hop", argv, folder, directory=ROOT), place, port)


class Microsocks(Peer):
    name = "microsocks"
    label = "microsocks"

    def missing(self) -> str | None:
        return None if shutil.which("microsocks") else "microsocks is not installed"

    def start(self, place: Place, folder: Path) -> Running:
        port = free_port()
        argv = place.server_argv(["microsocks", "-i", place.address, "-p", str(port)])
        return _started(Program("microsocks", argv, folder), place, port)


def _started(program: Program, place: Place, port: int) -> Running:
    try:
        program.wait_listening(port)
    except StartError:
        program.stop()
        raise
    return Running({"proxy": program}, Via("socks5", (place.address, port)))


class BareAioquic(Peer):
    name = "aioquic"
    label = "bare aioquic"

    def start(self, place: Place, folder: Path) -> Running:
        port = free_port(socket.SOCK_DGRAM)
        certificate, key = write_certificate(folder)
        argv = bench_module("bare_aioquic", "serve", place.address, str(port), str(certificate), str(key))
        server = Program("bare-aioquic", place.server_argv(argv), folder, directory=ROOT)
        try:
            server.wait_listening(port, "udp")
        except StartError:
            server.stop()
            raise
        return _RunningPump({"server": server}, server_address=(place.address, port))


class _RunningPump(Running):
    """bench/bare_aioquic.py is server, client and load generator in one, and knows only the cases that move bytes."""

    def __init__(self, programs: dict[str, Program], server_address: tuple[str, int]) -> None:
        super().__init__(programs)
        self._server = server_address

    def command(self, case: str, target: tuple[str, int], arguments: dict[str, Any]) -> list[str] | None:
        if case not in ("download", "upload"):
            return None
        host, port = self._server
        return bench_module(
            "bare_aioquic", "pump", json.dumps({"host": host, "port": port, "direction": case, **arguments})
        )
