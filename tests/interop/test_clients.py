"""Other programs and libraries that people point at a proxy: wget, pip, PySocks, requests, python-socks and pproxy."""

from __future__ import annotations

import sys

import pytest

from tests.interop.nginx import PACKAGE, digest
from tests.interop.proxies import PPROXY, Proxy, on, on_each, wait_listening
from tests.interop.system import NAME, ORIGIN_V4, System

pytestmark = [pytest.mark.netns, pytest.mark.programs]


def python(proxy: Proxy, program: str, *words: str) -> bytes:
    """Run a Python program as nobody, in an interpreter and a network of its own."""
    done = proxy.system.spawner.run(proxy.place, [sys.executable, "-c", program, *words], timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def check_entry(system: System, target: str) -> None:
    assert system.nginx.wait_entry(target).remote in (system.seen_v4, system.seen_v6)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@on("http")
def test_wget(proxy: Proxy, tls: bool) -> None:
    system = proxy.system
    scheme = "https" if tls else "http"
    target = f"/1m?wget-{proxy.name}-{scheme}"
    env = {f"{scheme}_proxy": proxy.url("http")}
    argv = ["wget", "--quiet", "--tries=1", "--timeout=20", f"--ca-certificate={system.certificates.authority}"]
    done = system.spawner.run(proxy.place, [*argv, "-O", "-", f"{scheme}://{NAME}{target}"], env=env)
    assert digest(done.stdout) == system.nginx.hashes["1m"], done.stderr.decode()
    check_entry(system, target)


@on_each(socks5h="socks5", http="http")
def test_pip_from_an_index_behind_the_exit(proxy: Proxy, scheme: str) -> None:
    system = proxy.system
    target = system.folder("site-packages")
    argv = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir"]
    argv += ["--retries", "0", "--timeout", "20", "--proxy", proxy.url(scheme), "--trusted-host", NAME, "install"]
    argv += ["--index-url", f"http://{NAME}/simple", "--no-deps", "--target", str(target), PACKAGE]
    done = system.spawner.run(proxy.place, argv, timeout=90)
    assert done.returncode == 0, done.stderr.decode()
    assert "through the tunnel" in (target / "quicsocks_probe.py").read_text()
    check_entry(system, f"/simple/{PACKAGE}/quicsocks_probe-1.0-py3-none-any.whl")


PYSOCKS = """
import hashlib, socks, sys
assert hasattr(socks, "socksocket"), f"{socks.__file__} is not PySocks"
kind, host, port, target = sys.argv[1:]
sock = socks.socksocket()
sock.set_proxy(getattr(socks, kind), host, int(port), rdns=True)
sock.settimeout(20)
sock.connect(("origin.test", 80))
sock.sendall(f"GET {target} HTTP/1.0\\r\\nHost: origin.test\\r\\n\\r\\n".encode())
data = b"".join(iter(lambda: sock.recv(65536), b""))
print(hashlib.sha256(data.partition(b"\\r\\n\\r\\n")[2]).hexdigest())
"""


@on_each(SOCKS5="socks5", SOCKS4="socks4a", HTTP="http")
def test_pysocks(proxy: Proxy, scheme: str) -> None:
    target = f"/100k?pysocks-{proxy.name}-{scheme}"
    out = python(proxy, PYSOCKS, scheme, proxy.host, str(proxy.port), target)
    assert out.decode().strip() == proxy.system.nginx.hashes["100k"]
    check_entry(proxy.system, target)


REQUESTS = """
import hashlib, requests, sys
session = requests.Session()
session.trust_env = False
session.proxies = {"http": sys.argv[1], "https": sys.argv[1]}
for _ in range(3):
    answer = session.get(sys.argv[2], timeout=20, verify=sys.argv[3])
    assert answer.status_code == 200
print(hashlib.sha256(answer.content).hexdigest())
"""


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@on_each(socks5h="socks5", http="http")
def test_requests_beside_us(proxy: Proxy, scheme: str, tls: bool) -> None:
    """requests[socks] needs PySocks under its own name, which our package must not take."""
    target = f"/100k?requests-{proxy.name}-{scheme}-{tls}"
    url = f"{'https' if tls else 'http'}://{NAME}{target}"
    out = python(proxy, REQUESTS, proxy.url(scheme), url, str(proxy.system.certificates.authority))
    assert out.decode().strip() == proxy.system.nginx.hashes["100k"]
    check_entry(proxy.system, target)


PYTHON_SOCKS = """
import hashlib, sys
from python_socks.sync import Proxy
sock = Proxy.from_url(sys.argv[1], rdns=True).connect("origin.test", 80, timeout=20)
sock.settimeout(20)
sock.sendall(f"GET {sys.argv[2]} HTTP/1.0\\r\\nHost: origin.test\\r\\n\\r\\n".encode())
data = b"".join(iter(lambda: sock.recv(65536), b""))
print(hashlib.sha256(data.partition(b"\\r\\n\\r\\n")[2]).hexdigest())
"""


@on_each(socks5="socks5", socks4="socks4a", http="http")
def test_python_socks(proxy: Proxy, scheme: str) -> None:
    target = f"/100k?python-socks-{proxy.name}-{scheme}"
    out = python(proxy, PYTHON_SOCKS, proxy.url(scheme), target)
    assert out.decode().strip() == proxy.system.nginx.hashes["100k"]
    check_entry(proxy.system, target)


@on_each(socks5="socks5", socks4="socks4", http="http")
def test_pproxy_as_a_client(proxy: Proxy, scheme: str) -> None:
    """pproxy listens beside the application and passes everything on through the proxy under test."""
    system = proxy.system
    target = f"/1m?pproxy-{proxy.name}-{scheme}"
    port = proxy.place.free_port("127.0.0.1")
    argv = [*PPROXY, "-l", f"socks5://127.0.0.1:{port}", "-r", f"{scheme}://{proxy.authority}"]
    process = system.spawner.start(proxy.place, argv, name="pproxy")
    try:
        wait_listening(proxy.place, "127.0.0.1", port, process)
        fetch = ["curl", "-sS", "--max-time", "30", "-x", f"socks5h://127.0.0.1:{port}", f"http://{ORIGIN_V4}{target}"]
        done = system.spawner.run(proxy.place, fetch)
        assert digest(done.stdout) == system.nginx.hashes["1m"], f"{done.stderr.decode()}\n{process.output}"
    finally:
        process.stop()
    check_entry(system, target)
