"""pproxy (https://github.com/qwj/python-proxy) as client and server: over Shadowsocks with an AEAD cipher, over its quic.

Its interpreter can be another than this one, since pproxy needs pycryptodome for ciphers in C and is at home on older
releases of aioquic: set QUICSOCKS_BENCH_PPROXY to that Python.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from bench.certificate import write_certificate
from bench.flows import Via
from bench.peers.base import Peer, Place, Running
from bench.processes import Program, StartError, free_port

# pproxy's main calls uvloop.install() and then asyncio.get_event_loop(), which with uvloop's policy raises RuntimeError
# since there is no current loop. It gets one, of the same kind. It also ends when it cannot print the address of a QUIC
# server, so that is not printed. All that carries traffic is left as it is.
LAUNCHER = """
import asyncio, sys
try:
    import uvloop
    uvloop.install = lambda: None
    loop = uvloop.new_event_loop()
except ImportError:
    loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
from pproxy import server
server.print_server_started = lambda *arguments: None
server.main(sys.argv[1:])
"""

INTERPRETER = os.environ.get("QUICSOCKS_BENCH_PPROXY", sys.executable)


class PproxyShadowsocks(Peer):
    name = "pproxy-ss"
    label = "pproxy, ss aes-256-gcm"

    def missing(self) -> str | None:
        return None if _imports("pproxy") else "pproxy is not installed"

    def note(self) -> str | None:
        if _imports("Crypto.Cipher.AES"):
            return "ciphers in C, by pycryptodome"
        return "pycryptodome is not installed, so pproxy's ciphers are its own in pure Python"

    def start(self, place: Place, folder: Path) -> Running:
        port = free_port()
        uri = f"ss://aes-256-gcm:benchmark@{place.address}:{port}"
        return _start(place, folder, uri, port, "tcp", [])


class PproxyQuic(Peer):
    name = "pproxy-quic"
    label = "pproxy, quic"

    def missing(self) -> str | None:
        if not _imports("pproxy"):
            return "pproxy is not installed"
        return None if _imports("aioquic") else "its quic needs aioquic"

    def start(self, place: Place, folder: Path) -> Running:
        port = free_port(socket.SOCK_DGRAM)
        certificate, key = write_certificate(folder)
        uri = f"quic+http://{place.address}:{port}"
        return _start(place, folder, uri, port, "udp", ["--ssl", f"{certificate},{key}"])


def _start(place: Place, folder: Path, uri: str, port: int, protocol: str, server_options: list[str]) -> Running:
    client_port = free_port()
    running = Running(
        via=Via("socks5", ("127.0.0.1", client_port)),
        http=Via("http", ("127.0.0.1", client_port)),
    )
    try:
        argv = [INTERPRETER, "-c", LAUNCHER, "-l", uri, *server_options]
        running.programs["server"] = Program("pproxy-server", place.server_argv(argv), folder)
        running.programs["server"].wait_listening(port, protocol)
        argv = [INTERPRETER, "-c", LAUNCHER, "-l", f"socks5+http://127.0.0.1:{client_port}", "-r", uri]
        running.programs["client"] = Program("pproxy-client", place.client_argv(argv), folder)
        running.programs["client"].wait_listening(client_port)
    except StartError:
        running.stop()
        raise
    return running


def _imports(module: str) -> bool:
    command = [INTERPRETER, "-c", f"import {module}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
