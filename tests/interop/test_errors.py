"""What an application is told when a destination cannot be reached: one row for each cause, in every protocol."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.interop.dialogue import HttpReply, http_connect, http_get, socks4, socks5
from tests.interop.proxies import Quicsocks
from tests.interop.system import EXIT_V4, NAME, ORIGIN_V4, SILENT_V4, UNREACHABLE_V4, UNROUTED_V4, System

pytestmark = [pytest.mark.netns, pytest.mark.programs]

CONNECT_TIMEOUT = 2
SOCKS4_REJECTED = 91


@dataclass(frozen=True, slots=True)
class Case:
    """rep: of SOCKS5. status and error: of HTTP (RFC 9209)."""

    host: str
    port: int
    rep: int
    status: int
    error: str


CASES = {
    "refused": Case(ORIGIN_V4, 9, 5, 502, "connection_refused"),
    "network unreachable": Case(UNROUTED_V4, 80, 3, 502, "destination_ip_unroutable"),
    "host unreachable": Case(UNREACHABLE_V4, 80, 4, 502, "destination_ip_unroutable"),
    "timeout": Case(SILENT_V4, 80, 6, 504, "connection_timeout"),
    "no such name": Case("missing.test", 80, 4, 502, "dns_error"),
    "the name server fails": Case("broken.origin.test", 80, 4, 502, "dns_error"),
    "the name server is silent": Case("silent.origin.test", 80, 4, 504, "dns_timeout"),
    "denied by a rule on the name": Case("v6.origin.test", 80, 2, 403, "http_request_denied"),
    "denied by a rule on the address": Case("10.71.2.77", 80, 2, 403, "http_request_denied"),
    "loopback of the exit": Case("127.0.0.1", 80, 2, 403, "destination_ip_prohibited"),
    "loopback of the exit, IPv6": Case("::1", 80, 2, 403, "destination_ip_prohibited"),
    "loopback of the exit, mapped": Case("::ffff:127.0.0.1", 80, 2, 403, "destination_ip_prohibited"),
    "a name for the exit's loopback": Case("loopback.origin.test", 80, 2, 403, "destination_ip_prohibited"),
    "an address of the exit's own": Case(EXIT_V4, 80, 2, 403, "destination_ip_prohibited"),
    "cloud metadata": Case("169.254.169.254", 80, 2, 403, "destination_ip_prohibited"),
    "a name for cloud metadata": Case("metadata.origin.test", 80, 2, 403, "destination_ip_prohibited"),
    "a private address without a rule": Case("192.168.1.1", 80, 2, 403, "destination_ip_prohibited"),
}


@pytest.fixture(scope="module")
def strict(system: System) -> Iterator[Quicsocks]:
    """Ours with some rules and a short connect timeout, asking the name server itself: the system's resolver does not
    tell a failure from silence (EAI_AGAIN for both)."""
    flags = ["--dns", f"{ORIGIN_V4}:53"]
    flags += ["--deny", "v6.origin.test", "--deny", "10.71.2.77", "--limit-connect-timeout", str(CONNECT_TIMEOUT)]
    running = Quicsocks(system, concentrator_flags=flags)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.mark.parametrize("name", CASES)
def test_every_protocol_tells_the_same_truth(strict: Quicsocks, name: str) -> None:
    case = CASES[name]
    authority = f"[{case.host}]:{case.port}" if ":" in case.host else f"{case.host}:{case.port}"

    def by_socks5() -> tuple[int, bytes]:
        with strict.connect(30) as sock:
            reply = socks5(sock, case.host, case.port)
            return reply.code, sock.recv(1)

    def by_socks4() -> tuple[int, bytes] | None:
        if ":" in case.host:
            return None
        with strict.connect(30) as sock:
            return socks4(sock, case.host, case.port), sock.recv(1)

    def by_connect() -> HttpReply:
        with strict.connect(30) as sock:
            return http_connect(sock, authority)

    def by_get() -> HttpReply:
        with strict.connect(30) as sock:
            return http_get(sock, f"http://{authority}/")

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(call) for call in (by_socks5, by_socks4, by_connect, by_get)]
        socks5_answer, socks4_answer, connect_answer, get_answer = [answer.result(40) for answer in answers]
    assert socks5_answer == (case.rep, b""), "the reply, then a FIN"
    assert socks4_answer in ((SOCKS4_REJECTED, b""), None)
    for answer in (connect_answer, get_answer):
        assert isinstance(answer, HttpReply)
        assert answer.status == case.status
        assert f"error={case.error}" in answer.fields["proxy-status"]
        assert answer.fields["proxy-status"].startswith("quicsocks")


def test_a_refused_request_harms_no_other(strict: Quicsocks, system: System) -> None:
    with strict.connect() as sock:
        assert socks5(sock, ORIGIN_V4, 80).code == 0
        with strict.connect() as other:
            assert socks5(other, ORIGIN_V4, 9).code == 5
        sock.sendall(f"HEAD /1k HTTP/1.0\r\nHost: {NAME}\r\n\r\n".encode())
        assert sock.recv(12) == b"HTTP/1.1 200"


def test_the_bound_address_is_the_exits(strict: Quicsocks, system: System) -> None:
    with system.origin.listen(ORIGIN_V4) as listener, strict.connect() as sock:
        reply = socks5(sock, ORIGIN_V4, listener.getsockname()[1])
        accepted, peer = listener.accept()
        accepted.close()
        assert (reply.host, reply.port) == peer[:2]
        assert reply.host == system.seen_v4


def test_an_origin_form_request_is_refused_and_touches_nothing(strict: Quicsocks, system: System) -> None:
    """A web page can make a browser send these to localhost."""
    before = len(system.nginx.entries())
    with strict.connect() as sock:
        sock.sendall(f"GET /1k HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        assert sock.recv(12) == b"HTTP/1.1 400"
    assert len(system.nginx.entries()) == before
