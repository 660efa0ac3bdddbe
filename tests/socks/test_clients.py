"""Real programs and libraries as clients of the listener, through the exit over plain sockets, to a real origin."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.server
import importlib
import shutil
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from python_socks import ProxyError, ProxyType
from python_socks.async_.asyncio import Proxy

from quicsocks.socks.credentials import Credentials
from quicsocks.socks.direct import SocketExit
from quicsocks.socks.fake import loopback_exit

from .conftest import Run
from .support import Door, door

BIG = hashlib.shake_128(b"big").digest(3_000_000)


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self, body: bytes, *, length: bool = True) -> None:
        self.send_response(200)
        if length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        if length:
            self.wfile.write(body)
        else:
            for at in range(0, len(body), 10_000):
                piece = body[at : at + 10_000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

    def do_GET(self) -> None:
        if self.path == "/big":
            self._answer(BIG)
        elif self.path == "/chunked":
            self._answer(BIG, length=False)
        else:
            self._answer(f"{self.path} for {self.headers['Host']}".encode())

    do_HEAD = do_GET

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(hashlib.sha256(body).hexdigest().encode())

    do_PUT = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def origin() -> Iterator[tuple[str, int]]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield ("127.0.0.1", server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


@contextlib.asynccontextmanager
async def world(**options: Any) -> Any:
    """A door to origin.test and other.test, which are one real origin; closed.test refuses connections."""
    with origin() as address, socket.create_server(("127.0.0.1", 0)) as bound:
        closed = bound.getsockname()
        bound.close()
        places = {("origin.test", 80): address, ("other.test", 8080): address, ("closed.test", 80): closed}
        exit = loopback_exit(places)
        try:
            async with door(exit, **options) as d:
                yield d
        finally:
            assert isinstance(exit, SocketExit)
            await exit.close()


async def curl(d: Door, scheme: str, *arguments: str, user: str = "") -> tuple[int, bytes, str]:
    host, port = d.address
    process = await asyncio.create_subprocess_exec(
        "curl", "-q", "-sS", "--max-time", "15", "--noproxy", "", "-x", f"{scheme}://{user}{host}:{port}", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate(BIG)
    assert process.returncode is not None
    return process.returncode, out, errors.decode()


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
# socks4 and socks5 resolve the name themselves, and there is nothing to resolve it with here.
with_names = pytest.mark.parametrize(
    ("scheme", "options"),
    [("socks4a", ()), ("socks5h", ()), ("http", ()), ("http", ("-p",))],
    ids=["socks4a", "socks5h", "forwarded", "CONNECT"],
)


@pytest.mark.programs
@needs_curl
@with_names
def test_curl_fetches(scheme: str, options: tuple[str, ...], on_loop: Run) -> None:
    async def main() -> None:
        async with world() as d:
            urls = ("http://origin.test/a", "http://other.test:8080/b?c", "http://origin.test/d")
            code, out, errors = await curl(d, scheme, *options, *urls)
            assert (code, errors) == (0, "")
            assert out == b"/a for origin.test/b?c for other.test:8080/d for origin.test"
            for path in ("big", "chunked"):
                code, out, errors = await curl(d, scheme, *options, f"http://origin.test/{path}")
                assert (code, errors) == (0, "")
                assert out == BIG
            code, out, errors = await curl(d, scheme, *options, "-I", "http://origin.test/big")
            assert (code, errors) == (0, "")
            assert f"Content-Length: {len(BIG)}".encode() in out

    on_loop(main())


@pytest.mark.programs
@needs_curl
@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
def test_curl_fetches_by_address(scheme: str, on_loop: Run) -> None:
    async def main() -> None:
        with origin() as (host, port):
            exit = loopback_exit()
            async with door(exit) as d:
                code, out, errors = await curl(d, scheme, f"http://{host}:{port}/a")
                assert (code, out, errors) == (0, f"/a for {host}:{port}".encode(), "")
            await exit.close()

    on_loop(main())


@pytest.mark.programs
@needs_curl
@with_names
def test_curl_uploads(scheme: str, options: tuple[str, ...], on_loop: Run) -> None:
    async def main() -> None:
        expected = hashlib.sha256(BIG).hexdigest().encode()
        async with world() as d:
            for how in (
                ("--data-binary", "@-"),
                ("-T", "-"),
                ("--data-binary", "@-", "-H", "Expect: 100-continue"),
                ("--data-binary", "@-", "-H", "Transfer-Encoding: chunked"),
            ):
                code, out, errors = await curl(d, scheme, *options, *how, "http://origin.test/")
                assert (code, out, errors) == (0, expected, "")

    on_loop(main())


@pytest.mark.programs
@needs_curl
@pytest.mark.parametrize(
    ("scheme", "options", "words"),
    [
        ("socks5h", (), "(5)"),
        ("socks4a", (), "91"),
        ("http", ("-f",), "502"),
        ("http", ("-p",), "502"),
    ],
)
def test_curl_is_told_that_a_connection_was_refused(
    scheme: str, options: tuple[str, ...], words: str, on_loop: Run
) -> None:
    async def main() -> None:
        async with world() as d:
            code, _out, errors = await curl(d, scheme, *options, "http://closed.test/")
            assert code != 0
            assert words in errors

    on_loop(main())


@pytest.mark.programs
@needs_curl
@pytest.mark.parametrize(("scheme", "options"), [("socks5h", ()), ("http", ()), ("http", ("-p",))])
def test_curl_gives_a_password(scheme: str, options: tuple[str, ...], on_loop: Run) -> None:
    async def main() -> None:
        async with world(credentials=Credentials({"alice": "secret"})) as d:
            code, out, errors = await curl(d, scheme, *options, "http://origin.test/a", user="alice:secret@")
            assert (code, out, errors) == (0, b"/a for origin.test", "")
            code, out, _errors = await curl(d, scheme, "-f", *options, "http://origin.test/a", user="alice:wrong@")
            assert code != 0
            assert out == b""
            assert d.listener.statistics().denied >= 1

    on_loop(main())


@pytest.mark.parametrize("scheme", ["socks5h", "socks4a", "http"])
def test_requests_and_pysocks(scheme: str, on_loop: Run) -> None:
    def fetch(address: tuple[str, int]) -> list[bytes]:
        with requests.Session() as session:
            session.trust_env = False
            session.proxies = {"http": f"{scheme}://{address[0]}:{address[1]}"}
            answers = [session.get(f"http://origin.test/{path}", timeout=10).content for path in ("a", "b", "big")]
            answers.append(session.post("http://origin.test/", data=iter([b"one", b"two"]), timeout=10).content)
            return answers

    async def main() -> None:
        async with world() as d:
            answers = await asyncio.to_thread(fetch, d.address)
            digest = hashlib.sha256(b"onetwo").hexdigest().encode()
            assert answers == [b"/a for origin.test", b"/b for origin.test", BIG, digest]

    on_loop(main())


@pytest.mark.parametrize("kind", ["SOCKS5", "SOCKS4", "HTTP"])
def test_pysocks_is_told_that_a_connection_was_refused(kind: str, on_loop: Run) -> None:
    # By its name as a string: the type checker would take our folder of that name for it.
    pysocks = importlib.import_module("socks")
    words = {"SOCKS5": "0x05", "SOCKS4": "0x5b", "HTTP": "502"}[kind]

    def connect(address: tuple[str, int]) -> None:
        with pysocks.socksocket() as sock:
            sock.set_proxy(getattr(pysocks, kind), *address, rdns=True)
            sock.settimeout(10)
            sock.connect(("closed.test", 80))

    async def main() -> None:
        async with world() as d:
            with pytest.raises(pysocks.ProxyError, match=words):
                await asyncio.to_thread(connect, d.address)

    on_loop(main())


@pytest.mark.parametrize("kind", list(ProxyType))
def test_python_socks(kind: ProxyType, on_loop: Run) -> None:
    async def main() -> None:
        async with world() as d:
            host, port = d.address
            proxy = Proxy(kind, host, port, rdns=True)
            sock = await proxy.connect("origin.test", 80, timeout=10)
            with sock:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(sock, b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                sock.shutdown(socket.SHUT_WR)
                got = b""
                while data := await loop.sock_recv(sock, 65536):
                    got += data
                assert got.endswith(b"\r\n\r\n/x for h")
            with pytest.raises(ProxyError):
                await proxy.connect("closed.test", 80, timeout=10)

    on_loop(main())


@pytest.mark.programs
@pytest.mark.skipif(shutil.which("nc") is None, reason="nc is not installed")
@pytest.mark.parametrize("protocol", ["5", "4", "connect"])
def test_nc(protocol: str, on_loop: Run) -> None:
    # What ssh's ProxyCommand uses; -N half-closes after the input, and the answer must still come.
    async def main() -> None:
        with origin() as (host, port):
            exit = loopback_exit()
            async with door(exit) as d:
                via = f"{d.address[0]}:{d.address[1]}"
                process = await asyncio.create_subprocess_exec(
                    "nc", "-N", "-X", protocol, "-x", via, host, str(port),
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                )  # fmt: skip
                out, errors = await process.communicate(b"GET /n HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                assert (process.returncode, errors) == (0, b"")
                assert out.endswith(b"\r\n\r\n/n for h")
            await exit.close()

    on_loop(main())
