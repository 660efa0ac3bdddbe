"""A real nginx as origin: files, ranges, uploads by WebDAV PUT, TLS, a page with fifty resources, a package index, git.

Everything it serves is made here from a seed, so that a test can name a file's hash. Every request is in the access
log together with the address it came from: that is how a test shows that a request came out of the concentrator.
"""

from __future__ import annotations

import hashlib
import random
import re
import struct
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from tests.interop.certificates import Certificates
from tests.interop.places import Place
from tests.interop.processes import Process, Spawner

FILES = {"1k": 1_000, "100k": 100_000, "1m": 1 << 20, "8m": 8 << 20, "64m": 64 << 20}
RESOURCES = 50
PACKAGE = "quicsocks-probe"
SEED = 20_26


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the access log. remote: who asked. size: bytes of the body sent."""

    remote: str
    scheme: str
    method: str
    target: str
    status: int
    size: int
    host: str


class Nginx:
    """hosts: the addresses to listen on. http and https are its ports; git: the port of the git backend behind it."""

    def __init__(
        self,
        spawner: Spawner,
        place: Place,
        hosts: tuple[str, ...],
        certificates: Certificates,
        *,
        http: int = 80,
        https: int = 443,
        git: tuple[str, int] | None = None,
    ) -> None:
        self.http = http
        self.https = https
        self.folder = spawner.tmp / "nginx"
        self.root = self.folder / "root"
        self.uploads = self.folder / "uploads"
        self._log = self.folder / "access.log"
        self._spawner = spawner
        self._place = place
        self._process: Process | None = None
        for folder in (self.folder, self.root, self.uploads):
            folder.mkdir()
        spawner.give(self.uploads)
        self.hashes = {name: _write_file(self.root / name, size, name) for name, size in FILES.items()}
        _write_page(self.root / "page")
        _write_index(self.root / "simple")
        self._config = self.folder / "nginx.conf"
        self._config.write_text(self._configuration(hosts, certificates, git))

    def start(self) -> None:
        argv = ["nginx", "-e", "stderr", "-c", str(self._config), "-p", str(self.folder)]
        self._process = self._spawner.start(self._place, argv, name="nginx", root=True)
        self._process.wait_line("start worker process ")

    def entries(self) -> list[Entry]:
        """The access log so far."""
        if not self._log.exists():
            return []
        found = []
        for line in self._log.read_text().splitlines():
            remote, scheme, method, target, status, size, host = line.split(" ", 6)
            found.append(Entry(remote, scheme, method, target, int(status), int(size), host))
        return found

    def wait_entry(self, target: str, method: str = "GET", timeout: float = 5.0) -> Entry:
        """The last request for target; nginx logs it when it is complete."""
        deadline = time.monotonic() + timeout
        while True:
            for entry in reversed(self.entries()):
                if entry.target == target and entry.method == method:
                    return entry
            assert self._process is not None
            if time.monotonic() > deadline or self._process.pause(0.02):
                raise AssertionError(f"nginx saw no {method} {target}; it saw {self.entries()[-5:]}")

    def _configuration(self, hosts: tuple[str, ...], tls: Certificates, git: tuple[str, int] | None) -> str:
        bracketed = [f"[{host}]" if ":" in host else host for host in hosts]
        listen = "\n".join(f"    listen {host}:{self.http}; listen {host}:{self.https} ssl;" for host in bracketed)
        backend = (
            ""
            if git is None
            else f"""
    location /git/ {{
      proxy_pass http://{git[0]}:{git[1]};
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      client_max_body_size 0;
    }}"""
        )
        return f"""
daemon off;
pid {self.folder}/nginx.pid;
worker_processes 1;
error_log stderr notice;
user nobody nogroup;
events {{ worker_connections 4096; }}
http {{
  log_format plain '$remote_addr $scheme $request_method $request_uri $status $body_bytes_sent $http_host';
  access_log {self._log} plain;
  default_type application/octet-stream;
  types {{ text/html html; image/png png; }}
  client_body_temp_path {self.uploads}/.body;
  proxy_temp_path {self.folder}/proxy;
  fastcgi_temp_path {self.folder}/fastcgi;
  uwsgi_temp_path {self.folder}/uwsgi;
  scgi_temp_path {self.folder}/scgi;
  sendfile on;
  keepalive_timeout 20s;
  server {{
{listen}
    ssl_certificate {tls.chain};
    ssl_certificate_key {tls.key};
    root {self.root};
    location / {{ autoindex on; }}
    location = /beacon {{ return 204; }}
    location /uploads/ {{
      root {self.folder};
      dav_methods PUT DELETE;
      client_max_body_size 0;
      client_body_buffer_size 64k;
    }}{backend}
  }}
}}
"""


def digest(path_or_bytes: Path | bytes) -> str:
    """SHA-256 in hex of a file or of bytes."""
    data = path_or_bytes if isinstance(path_or_bytes, bytes) else path_or_bytes.read_bytes()
    return hashlib.sha256(data).hexdigest()


def _write_file(path: Path, size: int, name: str) -> str:
    data = random.Random(f"{SEED}{name}").randbytes(size)
    path.write_bytes(data)
    return digest(data)


def _write_page(folder: Path) -> None:
    """Fifty images of different colours; a script counts those that have really been decoded and reports."""
    folder.mkdir()
    for number in range(RESOURCES):
        colour = bytes((40 + 4 * number, (97 * number) % 256, 255 - 4 * number))
        (folder / f"{number}.png").write_bytes(_png(48, colour))
    images = "".join(f'<img src="{number}.png" alt="missing {number}" title="{number}">' for number in range(RESOURCES))
    (folder / "index.html").write_text(f"""<!doctype html><meta charset=utf-8><title>loading</title>
<style>body {{ font: 20px sans-serif; width: 640px }} img {{ margin: 4px }}</style>
<h1 id=result>loading</h1>{images}
<script>
addEventListener("load", () => {{
  const whole = [...document.images].filter(i => i.complete && i.naturalWidth === 48).length;
  document.getElementById("result").textContent = whole + " of {RESOURCES} loaded";
  document.title = "done";
  fetch("/beacon?loaded=" + whole);
}});
</script>""")


def _png(side: int, colour: bytes) -> bytes:
    """A PNG (RFC 2083) of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    rows = (b"\0" + colour * side) * side
    header = struct.pack("!IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _write_index(folder: Path) -> None:
    """A package index (PEP 503) with one wheel (PEP 427)."""
    normal = re.sub(r"[-_.]+", "-", PACKAGE)
    module = PACKAGE.replace("-", "_")
    package = folder / normal
    package.mkdir(parents=True)
    stem = f"{module}-1.0"
    files = {
        f"{module}.py": 'ANSWER = "carried through the tunnel"\n',
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in files) + f"{stem}.dist-info/RECORD,,\n"
    wheel = package / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{stem}.dist-info/RECORD", record)
    link = f'<a href="{wheel.name}#sha256={digest(wheel)}">{wheel.name}</a>'
    (package / "index.html").write_text(f"<!doctype html><title>{normal}</title>{link}")
