"""curl through every front door: content by hash, ranges, uploads, TLS, half-close; and that it came out of the exit."""

from __future__ import annotations

import hashlib
import os
import re

import pytest

from tests.interop.nginx import digest
from tests.interop.proxies import Proxy, Quicsocks, on, on_each
from tests.interop.system import NAME, ORIGIN_V4, ORIGIN_V6, System

pytestmark = [pytest.mark.netns, pytest.mark.programs]

UPLOAD = 3_000_000


def curl(proxy: Proxy, *words: str, input: bytes | None = None) -> bytes:
    """Run curl as nobody where applications run; its standard output."""
    argv = ["curl", "--silent", "--show-error", "--fail", "--max-time", "40", *words]
    done = proxy.system.spawner.run(proxy.place, argv, input=input, timeout=60)
    assert done.returncode == 0, f"curl {words}: {done.stderr.decode()}"
    return done.stdout


def check_download(proxy: Proxy, scheme: str, host: str, file: str, *words: str, tls: bool = False) -> None:
    """Fetch file by host through scheme: right bytes, and nginx saw the exit's address."""
    system = proxy.system
    target = f"/{file}?{proxy.name}-{scheme}-{os.urandom(4).hex()}"
    trust = ["--cacert", str(system.certificates.authority)] if tls else []
    url = f"{'https' if tls else 'http'}://{host}{target}"
    body = curl(proxy, "--proxy", proxy.url(scheme), *trust, *words, url)
    assert digest(body) == system.nginx.hashes[file]
    entry = system.nginx.wait_entry(target)
    assert entry.remote in (system.seen_v4, system.seen_v6)
    assert entry.scheme == ("https" if tls else "http")


@on("socks5")
def test_socks5_with_an_address(proxy: Proxy) -> None:
    check_download(proxy, "socks5", ORIGIN_V4, "1m")


@on("socks5")
def test_socks5h_with_a_name_that_only_the_exit_knows(proxy: Proxy) -> None:
    check_download(proxy, "socks5h", NAME, "1m")


@on("socks5", "ipv6")
def test_socks5_with_an_ipv6_address(proxy: Proxy) -> None:
    check_download(proxy, "socks5h", f"[{ORIGIN_V6}]", "100k")


@on("socks5", "ipv6")
def test_socks5h_with_a_name_that_has_ipv6_only(proxy: Proxy) -> None:
    check_download(proxy, "socks5h", "v6.origin.test", "100k")


@on("socks4")
def test_socks4_with_an_address(proxy: Proxy) -> None:
    check_download(proxy, "socks4", ORIGIN_V4, "1m")


@on("socks4a")
def test_socks4a_with_a_name(proxy: Proxy) -> None:
    check_download(proxy, "socks4a", NAME, "1m")


@on("http")
def test_http_forwarded(proxy: Proxy) -> None:
    check_download(proxy, "http", NAME, "1m")


@on("http")
def test_http_over_connect(proxy: Proxy) -> None:
    check_download(proxy, "http", NAME, "1m", "--proxytunnel")


@on("http")
def test_https_over_connect(proxy: Proxy) -> None:
    check_download(proxy, "http", NAME, "1m", tls=True)


@on("socks5")
def test_https_over_socks5h(proxy: Proxy) -> None:
    check_download(proxy, "socks5h", NAME, "1m", tls=True)


@on("socks5")
def test_a_big_file(proxy: Proxy) -> None:
    check_download(proxy, "socks5h", NAME, "64m")


@on_each(socks5h="socks5", http="http")
def test_a_range(proxy: Proxy, scheme: str) -> None:
    whole = (proxy.system.nginx.root / "1m").read_bytes()
    body = curl(proxy, "--proxy", proxy.url(scheme), "--range", "1000-65999", f"http://{NAME}/1m")
    assert body == whole[1000:66000]


@on_each(socks5h="socks5", http="http")
def test_an_interrupted_download_is_resumed(proxy: Proxy, scheme: str) -> None:
    whole = (proxy.system.nginx.root / "1m").read_bytes()
    part = proxy.system.spawner.home / f"part-{proxy.name}-{scheme}"
    part.write_bytes(whole[:400_000])
    proxy.system.spawner.give(part)
    curl(proxy, "--proxy", proxy.url(scheme), "--continue-at", "-", "--output", str(part), f"http://{NAME}/1m")
    assert digest(part) == proxy.system.nginx.hashes["1m"]


@pytest.mark.parametrize("framing", ["content-length", "chunked", "expect"])
@on_each(socks5h="socks5", http="http upload")
def test_an_upload(proxy: Proxy, scheme: str, framing: str) -> None:
    body = hashlib.shake_128(f"{scheme}{framing}".encode()).digest(UPLOAD)
    name = f"{proxy.name}-{scheme}-{framing}"
    source = proxy.system.spawner.home / name
    source.write_bytes(body)
    # From standard input curl does not know the length and uses chunks.
    words = ["--upload-file", "-" if framing == "chunked" else str(source)]
    if framing == "expect":
        words += ["--header", "Expect: 100-continue"]
    given = body if framing == "chunked" else None
    curl(proxy, "--proxy", proxy.url(scheme), *words, f"http://{NAME}/uploads/{name}", input=given)
    assert digest(proxy.system.nginx.uploads / name) == digest(body)
    assert proxy.system.nginx.wait_entry(f"/uploads/{name}", "PUT").status == 201


@on("http")
def test_several_requests_to_several_hosts_on_one_connection(proxy: Proxy) -> None:
    system = proxy.system
    urls = [f"http://{host}/1k" for host in (NAME, "v4.origin.test", NAME, ORIGIN_V4)]
    body = curl(proxy, "--proxy", proxy.url("http"), "--write-out", "\n%{num_connects}\n", *urls)
    whole = (system.nginx.root / "1k").read_bytes()
    assert body.count(whole) == len(urls)
    assert [int(count) for count in re.findall(rb"\n(\d)\n", body.replace(whole, b""))] == [1, 0, 0, 0]


@on("http")
def test_head_has_no_body(proxy: Proxy) -> None:
    head = curl(proxy, "--proxy", proxy.url("http"), "--head", f"http://{NAME}/1m").decode()
    assert "Content-Length: 1048576" in head


@on("socks5", "password")
def test_a_password_is_asked_for_and_checked(proxy: Proxy, system: System) -> None:
    guarded = type(proxy)(system, user="user", password="a:pass word@")
    guarded.start()
    try:
        argv = ["curl", "-sS", "--max-time", "20", "--socks5-hostname", guarded.authority, f"http://{NAME}/1k"]
        right = system.spawner.run(guarded.place, [*argv, "--proxy-user", "user:a:pass word@"])
        assert digest(right.stdout) == system.nginx.hashes["1k"], right.stderr.decode()
        for words in ([], ["--proxy-user", "user:wrong"], ["--proxy-user", "other:a:pass word@"]):
            wrong = system.spawner.run(guarded.place, [*argv, *words])
            assert wrong.returncode == 97, f"curl calls a failed SOCKS handshake 97: {wrong.stderr.decode()}"
            assert wrong.stdout == b""
    finally:
        guarded.stop()


def test_an_http_password_is_asked_for_and_checked(product: Quicsocks, system: System) -> None:
    guarded = Quicsocks(system, user="user", password="secret")
    guarded.start()
    try:
        argv = ["curl", "-sS", "--max-time", "20", "--proxy", f"http://{guarded.authority}", "-o", "/dev/null"]
        argv += ["-w", "%{http_code}"]
        answers = {
            words: system.spawner.run(guarded.place, [*argv, *words, f"http://{NAME}/1k"]).stdout
            for words in ((), ("--proxy-user", "user:wrong"), ("--proxy-user", "user:secret"))
        }
        assert list(answers.values()) == [b"407", b"407", b"200"]
    finally:
        guarded.stop()


@on("socks5", "half-close")
def test_a_half_close_reaches_the_origin_and_its_answer_comes_back(proxy: Proxy) -> None:
    """nc -N ends its direction after its input; the origin answers only then."""
    system = proxy.system
    data = hashlib.shake_128(b"half-close").digest(500_000)
    argv = ["nc", "-N", "-X", "5", "-x", proxy.authority, ORIGIN_V4, str(system.mannerly.port)]
    done = system.spawner.run(proxy.place, argv, input=data)
    assert done.stdout.decode() == f"{len(data)} {digest(data)}\n", done.stderr.decode()
    assert system.mannerly.peers[-1] == system.seen_v4


def test_a_unix_socket_listener(system: System) -> None:
    """curl reaches it as socks5h://localhost/PATH; nobody but its owner can."""
    path = system.folder("unix") / "socks"
    proxy = Quicsocks(system, run_flags=["--listen", f"unix:{path}"])
    proxy.start()
    try:
        assert path.stat().st_mode & 0o777 == 0o600
        body = curl(proxy, "--proxy", f"socks5h://localhost{path}", f"http://{NAME}/1m")
        assert digest(body) == system.nginx.hashes["1m"]
    finally:
        proxy.stop()
    assert not path.exists()
