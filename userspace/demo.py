"""``quicsocks demo``: the main job on this machine alone, with real processes and a real curl.

An origin, a concentrator with an exact allow rule for that origin, and a client are started on loopback; a file is
fetched through SOCKS5 and through HTTP; what happened is printed. Everything lives in a temporary folder and ends with
the command. It measures nothing that bench/ does not measure better.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

FILE_SIZE = 128 << 20
"""Bytes fetched each time: a fraction of a second, and a few seconds on the reference engine."""
START_TIMEOUT = 20.0
"""Seconds for a process to say that it is ready."""
FETCH_TIMEOUT = 120
"""Seconds for one fetch."""
_BLOCK = bytes(range(256)) * 256


class DemoFailed(Exception):
    """What did not work, in one line."""


def run(*, once: bool = False, size: int = FILE_SIZE, out: IO[str] | None = None) -> int:
    """Show the main job; stays up until interrupted unless once. Returns an exit code."""
    out = out or sys.stdout
    curl = shutil.which("curl")
    if curl is None:
        print("quicsocks demo: curl is not installed; install it: apt-get install curl", file=sys.stderr)
        return 1
    try:
        with contextlib.ExitStack() as stack:
            _show(stack, curl, size, once, out)
    except DemoFailed as failed:
        print(f"quicsocks demo: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=out)
    return 0


def _show(stack: contextlib.ExitStack, curl: str, size: int, once: bool, out: IO[str]) -> None:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quicsocks-demo-")))
    origin = stack.enter_context(_origin(size))
    proxy_port = _free_port(socket.SOCK_STREAM)
    quic_port = _free_port(socket.SOCK_DGRAM)
    concentrator = _Process("concentrator", folder, [
        "concentrator", "--listen", f"127.0.0.1:{quic_port}", "--state", str(folder / "server"),
        "--runtime", str(folder / "r"), "--public-name", f"127.0.0.1:{quic_port}",
        "--allow", f"127.0.0.1/32:{origin.port}", "--print-link",
    ])  # fmt: skip
    stack.callback(concentrator.stop)
    link = concentrator.first_line()
    concentrator.wait_ready()
    client = _Process("client", folder, [
        "run", "--state", str(folder / "client"), "--runtime", str(folder / "r"),
        "--listen", f"127.0.0.1:{proxy_port}",
    ], {"QUICSOCKS_LINK": link})  # fmt: skip
    stack.callback(client.stop)
    client.wait_ready()

    def say(label: str, text: str) -> None:
        print(f"  {label:<14} {text}", file=out, flush=True)

    print("quicsocks demo: all on this machine, no root needed", file=out)
    say("origin", f"http://127.0.0.1:{origin.port}/ ({size / 1e6:.1f} MB)")
    say("concentrator", f"127.0.0.1:{quic_port}/udp, process {concentrator.pid}, may dial only that origin")
    say("client", f"127.0.0.1:{proxy_port}, process {client.pid}: SOCKS5, SOCKS4a and HTTP")
    for label, proxy in (("SOCKS5", f"socks5h://127.0.0.1:{proxy_port}"), ("HTTP", f"http://127.0.0.1:{proxy_port}")):
        fetched = _fetch(curl, proxy, origin.port, size)
        say(
            f"via {label}",
            f"{fetched.size / 1e6:.1f} MB, {fetched.size / fetched.seconds / 1e6:.1f} MB/s, "
            f"first byte after {fetched.first_byte * 1000:.1f} ms, content verified",
        )
    status = _ask(client)
    say("tunnel", f"stream lane, one QUIC connection ({status})")
    refused = _refused(curl, proxy_port, quic_port)
    say("policy", f"another port of this machine: {refused}")
    if once:
        return
    print(f"\nStays up until Ctrl-C. Try: curl -x socks5h://127.0.0.1:{proxy_port} "
          f"http://127.0.0.1:{origin.port}/ -o /dev/null", file=out, flush=True)  # fmt: skip
    for process in (client, concentrator):
        process.watch(out)
    while client.alive and concentrator.alive:
        time.sleep(0.5)
    raise DemoFailed("a process has ended; see above")


# The origin.


@dataclass(frozen=True, slots=True)
class _Origin:
    port: int


@contextlib.contextmanager
def _origin(size: int) -> Iterator[_Origin]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(size))
            self.end_headers()
            left = size
            with contextlib.suppress(OSError):
                while left:
                    left -= self.wfile.write(_BLOCK[: min(left, len(_BLOCK))])

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing: the demonstration's lines are its own."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield _Origin(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


def _expected_hash(size: int) -> str:
    digest = hashlib.sha256()
    left = size
    while left:
        block = _BLOCK[: min(left, len(_BLOCK))]
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()


# curl.


@dataclass(frozen=True, slots=True)
class _Fetched:
    size: int
    seconds: float
    first_byte: float


def _fetch(curl: str, proxy: str, port: int, size: int) -> _Fetched:
    with tempfile.NamedTemporaryFile() as body:
        done = subprocess.run(
            [curl, "-q", "-sS", "--noproxy", "", "-x", proxy, "-o", body.name, "-m", str(FETCH_TIMEOUT),
             "-w", "%{json}", f"http://127.0.0.1:{port}/file"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise DemoFailed(f"curl through {proxy} failed: {done.stderr.strip() or done.returncode}")
        with open(body.name, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _expected_hash(size):
        raise DemoFailed(f"what came through {proxy} is not what the origin sent")
    times = json.loads(done.stdout)
    return _Fetched(int(times["size_download"]), float(times["time_total"]), float(times["time_starttransfer"]))


def _refused(curl: str, proxy_port: int, other_port: int) -> str:
    """The answer to a request that no rule allows."""
    done = subprocess.run(
        [curl, "-q", "-sS", "--noproxy", "", "-x", f"http://127.0.0.1:{proxy_port}", "-o", os.devnull, "-m", "20",
         "-w", "%{http_code} %header{proxy-status}", f"http://127.0.0.1:{other_port}/"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    code, _, detail = done.stdout.partition(" ")
    if code != "502" and code != "403":
        raise DemoFailed(f"a destination without a rule was not refused, but answered with {code}")
    return f"refused, HTTP {code} ({detail.split(';')[1].strip() if ';' in detail else 'no reason given'})"


# Processes.


class _Process:
    """One of our own commands, with what it says kept for when something goes wrong."""

    def __init__(self, name: str, folder: Path, argv: list[str], environ: dict[str, str] | None = None) -> None:
        self._name = name
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = folder / f"{name}.notify"
        self._ready.bind(str(path))
        self._ready.settimeout(START_TIMEOUT)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("QUICSOCKS_")}
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by stop()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "quicsocks.userspace", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**clean, **(environ or {}), "NOTIFY_SOCKET": str(path)},
            start_new_session=True,
        )
        self._runtime = folder / "r"
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def runtime(self) -> Path:
        return self._runtime

    def first_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise DemoFailed(f"the {self._name} did not start: {self.said()}")
        return line

    def wait_ready(self) -> None:
        try:
            while b"READY=1" not in self._ready.recv(4096):
                pass
        except TimeoutError:
            raise DemoFailed(f"the {self._name} did not become ready: {self.said()}") from None

    def said(self) -> str:
        self._said.seek(0)
        lines = self._said.read().strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def watch(self, out: IO[str]) -> None:
        """Show from now on what the process says."""
        self._said.seek(0)
        for line in self._said:
            print(f"  {self._name}: {line.rstrip()}", file=out, flush=True)

    def stop(self) -> None:
        if self.alive:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._said.close()
        self._ready.close()


def _ask(client: _Process) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "quicsocks.userspace", "status", "--json", "--runtime", str(client.runtime)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        told = json.loads(done.stdout)
        one = next(entry for entry in (told if isinstance(told, list) else [told]) if entry.get("role") == "client")
        return f"engine {one['engine']}, RTT {one['rtt'] * 1000:.2f} ms, {one['bytes_in'] / 1e6:.1f} MB in"
    except (ValueError, KeyError, StopIteration, TypeError):
        raise DemoFailed(f"the client did not tell its status: {done.stderr.strip() or done.stdout.strip()}") from None


def _free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
