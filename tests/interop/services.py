"""Origins besides nginx: git over HTTP (git http-backend behind nginx), sshd, and a small TCP origin with manners.

Each is started in the origin's place and ends with the system. None may listen anywhere but on the origin's addresses
and its loopback.
"""

from __future__ import annotations

import hashlib
import http.server
import os
import pwd
import random
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.interop.places import Place
from tests.interop.processes import Process, Spawner


class GitBackend:
    """Serves every repository under folder/git as /git/NAME.git, over the smart HTTP protocol (git-http-backend(1))."""

    def __init__(self, place: Place, folder: Path, host: str) -> None:
        self.folder = folder / "repositories"
        self.home = folder
        repositories = self.folder / "git"
        repositories.mkdir(parents=True)
        self.commit = _make_repository(repositories / "sample.git", folder)
        listener = place.listen(host)
        self.address: tuple[str, int] = listener.getsockname()[:2]
        self._server = http.server.ThreadingHTTPServer(self.address, _handler(self), bind_and_activate=False)
        self._server.socket.close()
        listener.settimeout(None)
        self._server.socket = listener
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="git-backend", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()


def _handler(backend: GitBackend) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve(b"")

        def do_POST(self) -> None:
            self._serve(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

        def _serve(self, body: bytes) -> None:
            path, _, query = self.path.partition("?")
            env = {
                "PATH": os.environ["PATH"],
                "HOME": str(backend.home),
                "GIT_PROJECT_ROOT": str(backend.folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_ADDR": self.client_address[0],
            }
            done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=False)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = [line.partition(": ")[::2] for line in head.decode().split("\r\n") if line]
            status = next((value for name, value in fields if name == "Status"), "200 OK")
            self.send_response(int(status.split()[0]))
            for name, value in fields:
                if name != "Status":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """nginx in front keeps the log."""

    return Handler


def _make_repository(bare: Path, home: Path) -> str:
    """A repository of one commit with 2 MB of incompressible files; returns the commit's name."""
    work = home / "work"
    work.mkdir()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "Test"),
        **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "test@origin.test"),
        **dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), "2026-01-01T00:00:00Z"),
    }

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(work), *words], env=env, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet", "--initial-branch=main")
    source = random.Random("repository")
    for number in range(20):
        (work / f"file{number}").write_bytes(source.randbytes(100_000))
    git("add", ".")
    git("commit", "--quiet", "--message", "Sample")
    git("clone", "--quiet", "--bare", str(work), str(bare))
    return git("rev-parse", "HEAD")


class Sshd:
    """sshd on a high port with a host key and one authorised key of its own. It logs in as whoever runs the tests."""

    def __init__(self, spawner: Spawner, place: Place, hosts: Sequence[str], port: int) -> None:
        self.port = port
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.folder = spawner.tmp / "sshd"
        self.folder.mkdir()
        self.client_key = spawner.home / "id_ed25519"
        self.known_hosts = spawner.home / "known_hosts"
        host_key = self.folder / "host_key"
        for path in (host_key, self.client_key):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=20)
        spawner.give(self.client_key)
        (self.folder / "authorized_keys").write_bytes(self.client_key.with_suffix(".pub").read_bytes())
        kind, key, *_ = host_key.with_suffix(".pub").read_text().split()
        self.known_hosts.write_text(f"* {kind} {key}\n")
        config = self.folder / "sshd_config"
        listen = "".join(f"ListenAddress {host}\n" for host in hosts)
        config.write_text(
            f"Port {port}\n{listen}HostKey {host_key}\nPidFile none\nStrictModes no\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nPasswordAuthentication no\nUseDNS no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n"
            "Subsystem sftp internal-sftp\nLogLevel VERBOSE\n"
        )
        # Debian's sshd insists on /run/sshd; a tmpfs in mounts of its own spares the machine's /run.
        mounts = ["/run"] if os.geteuid() == 0 and place.enter() else []
        command = ["/usr/sbin/sshd", "-D", "-e", "-f", str(config)]
        if mounts:
            command = ["sh", "-c", 'mkdir -p -m 755 /run/sshd && exec "$@"', "sh", *command]
        elif os.geteuid() == 0:
            # As Debian's own service makes it; /run is empty again after the next boot.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.process: Process = spawner.start(place, command, name="sshd", root=True, scratch=mounts)
        self.process.wait_line("Server listening on")

    def sessions_from(self) -> list[str]:
        """The addresses from which a session was accepted."""
        lines = [line for line in self.process.stderr if line.startswith("Accepted publickey for ")]
        return [line.split(" from ")[1].split()[0] for line in lines]


class Mannerly:
    """A TCP origin that reads until FIN, then answers with a line, and only then ends: it needs a true half-close.

    The answer is "LENGTH SHA256\\n". A client whose FIN is swallowed waits for ever; one whose answer is cut off by its
    own FIN gets nothing.
    """

    def __init__(self, place: Place, host: str, port: int = 0) -> None:
        self._listener = place.listen(host, port)
        self._listener.settimeout(None)
        self.port = int(self._listener.getsockname()[1])
        self.peers: list[str] = []
        self._thread = threading.Thread(target=self._serve, name="mannerly", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, peer = self._listener.accept()
            except OSError:
                return
            self.peers.append(peer[0])
            threading.Thread(target=self._answer, args=(sock,), daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        hasher, size = hashlib.sha256(), 0
        with sock, suppress(OSError):
            sock.settimeout(30)
            while data := sock.recv(65536):
                hasher.update(data)
                size += len(data)
            sock.sendall(f"{size} {hasher.hexdigest()}\n".encode())

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
