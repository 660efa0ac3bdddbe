"""This project's own program, as its users start it: ``quicsocks concentrator`` and ``quicsocks run``."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from bench.flows import Via
from bench.peers.base import Peer, Place, Running
from bench.processes import Program, StartError, free_port

LINK = re.compile(rb"quicsocks://\S+")


class Quicsocks(Peer):
    """engine: of ``--engine``; the default one has the plain name. congestion: of ``--congestion``."""

    def __init__(self, engine: str = "", congestion: str = "") -> None:
        variant = "-".join(word for word in (engine, congestion) if word)
        self.name = f"quicsocks-{variant}" if variant else "quicsocks"
        self.label = f"quicsocks, {variant.replace('-', ', ')}" if variant else "quicsocks"
        self._options = [
            *(("--engine", engine) if engine else ()),
            *(("--congestion", congestion) if congestion else ()),
        ]

    def missing(self) -> str | None:
        if (program := quicsocks_program()) is None:
            return "quicsocks is not installed beside this Python: pip install -e ."
        result = subprocess.run([program, "run", "--help"], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            said = result.stderr.strip().splitlines()
            return f"quicsocks run --help fails: {said[-1] if said else 'it said nothing'}"
        return None

    def start(self, place: Place, folder: Path) -> Running:
        program = quicsocks_program()
        assert program is not None
        server_port, client_port = free_port(socket.SOCK_DGRAM), free_port()
        server_address = f"{place.address}:{server_port}"
        proxy = ("127.0.0.1", client_port)
        running = Running(via=Via("socks5", proxy), http=Via("http", proxy))
        link_file = folder / "link"
        # Neither the user's configuration nor the sockets of processes that run anyway.
        environment = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
        try:
            argv = [program, "concentrator", "--listen", server_address, "--public-name", server_address]
            argv += ["--state", str(folder / "concentrator"), "--allow", f"{place.address}/32", "--print-link"]
            argv += self._options
            server = Program("concentrator", place.server_argv(argv), folder, environment=environment)
            running.programs["server"] = server
            server.wait_listening(server_port, "udp")
            server.wait_until(lambda: LINK.search(server.output()) is not None, "prints no link")
            link = LINK.search(server.output())
            assert link is not None
            link_file.touch(mode=0o600)
            link_file.write_bytes(link[0] + b"\n")
            argv = [program, "run", "--state", str(folder / "client"), "--link-file", str(link_file)]
            argv += ["--listen", f"127.0.0.1:{client_port}", *self._options]
            client = Program("run", place.client_argv(argv), folder, environment=environment)
            running.programs["client"] = client
            client.wait_listening(client_port)
        except StartError:
            running.stop()
            raise
        return running


def quicsocks_program() -> str | None:
    """The installed command; None when there is none."""
    beside = Path(sys.executable).parent / "quicsocks"
    return str(beside) if beside.exists() else shutil.which("quicsocks")
