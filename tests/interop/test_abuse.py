"""Garbage, slow-loris, floods of half-open handshakes, no descriptors left: limits hold, real users go on."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import pull_quic_header

from tests.interop.dialogue import http_connect, receive_all, socks5
from tests.interop.half_open import client_hello, flood, initial
from tests.interop.nginx import digest
from tests.interop.proxies import Quicsocks
from tests.interop.system import ABUSER_NETS, CLIENT_V4, DEVICE, EXIT_V4, ORIGIN_V4, System

pytestmark = [pytest.mark.netns, pytest.mark.programs]

HALF_OPEN = 5000
GROWTH = {False: 48 << 20, True: 160 << 20}
"""Most that a concentrator may grow under a flood. From addresses that answer nothing: 64 handshakes of about 80 KiB,
above which it asks for proof of the address and keeps nothing. From addresses that give that proof: 1,024 handshakes,
its limit. Slack in both for the allocator and for the buffers of the user's own transfers; without limits 5,000 would
take 400 MiB."""
LORIS = 300
FILES = 64


@pytest.fixture(scope="module")
def victim(system: System) -> Iterator[Quicsocks]:
    proxy = Quicsocks(system)
    try:
        proxy.start()
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture(scope="module")
def abusers(system: System) -> list[str]:
    """Addresses of the client's in 32 other /24 networks, to which the exit has a route."""
    sources = []
    for net in ABUSER_NETS:
        for last in (1, 2, 3, 4):
            system.ip(system.client, "addr", "add", f"{net}.{last}/32", "dev", DEVICE)
            sources.append(f"{net}.{last}")
        system.ip(system.exit, "route", "replace", f"{net}.0/24", "via", CLIENT_V4)
    return sources


def check_user(victim: Quicsocks, system: System) -> None:
    """A real user's transfer, whole."""
    with victim.connect(30) as sock:
        assert socks5(sock, ORIGIN_V4, 80).code == 0
        sock.sendall(b"GET /1m HTTP/1.0\r\n\r\n")
        assert digest(receive_all(sock).partition(b"\r\n\r\n")[2]) == system.nginx.hashes["1m"]


def test_the_flood_is_made_of_real_handshakes(system: System) -> None:
    """The control: a QUIC server takes each datagram for a new connection and answers it."""
    hello = client_hello("exit.test", "quicsocks/1")
    for _ in range(3):
        datagram = initial(hello)
        assert len(datagram) == 1200
        header = pull_quic_header(Buffer(data=datagram))
        configuration = QuicConfiguration(is_client=False, alpn_protocols=["quicsocks/1"])
        configuration.load_cert_chain(system.certificates.chain, system.certificates.key)
        server = QuicConnection(configuration=configuration, original_destination_connection_id=header.destination_cid)
        server.receive_datagram(datagram, ("192.0.2.1", 1), now=0.0)
        answer = b"".join(data for data, _ in server.datagrams_to_send(now=0.0))
        assert len(answer) >= 1200, "ServerHello, certificate and all"


@pytest.mark.parametrize("validated", [False, True], ids=["unvalidated", "validated"])
def test_half_open_handshakes(victim: Quicsocks, system: System, abusers: list[str], validated: bool) -> None:
    hello = client_hello(EXIT_V4, "quicsocks/1")
    check_user(victim, system)
    before = victim.concentrator.rss()
    highest = 0
    target = (EXIT_V4, victim.udp_port)
    for sent in flood(system.client, abusers, target, HALF_OPEN, hello, validated=validated):
        highest = max(highest, victim.concentrator.rss())
        if sent % 1000 == 0:
            check_user(victim, system)
    assert highest - before < GROWTH[validated], f"grew by {(highest - before) >> 20} MiB"
    check_user(victim, system)
    # A new client gets in as well, while the flood's handshakes are still half-open.
    victim.client.stop()
    victim.start_client()
    check_user(victim, system)


def test_garbage_at_the_udp_port(victim: Quicsocks, system: System, abusers: list[str]) -> None:
    source = random.Random(7)
    hello = initial(client_hello(EXIT_V4, "quicsocks/1"))
    before = victim.concentrator.rss()
    with system.client.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((abusers[0], 0))
        for number in range(3000):
            data = bytearray(hello) if number % 2 else bytearray(source.randbytes(source.randrange(0, 1400)))
            for _ in range(source.randrange(1, 8)):
                if data:
                    data[source.randrange(len(data))] = source.randrange(256)
            sock.sendto(bytes(data[: source.randrange(len(data) + 1)] if number % 3 == 0 else data),
                        (EXIT_V4, victim.udp_port))  # fmt: skip
            if number % 1000 == 0:
                check_user(victim, system)
    check_user(victim, system)
    assert victim.concentrator.rss() - before < GROWTH[False]
    assert "Traceback" not in victim.concentrator.output


def test_garbage_at_the_listener(victim: Quicsocks, system: System) -> None:
    source = random.Random(8)
    before = victim.client.descriptors()
    for number in range(400):
        # A shutdown after the other side's reset says ENOTCONN, a plain OSError.
        with victim.connect(10) as sock, suppress(OSError):
            data = bytearray(source.randbytes(source.randrange(1, 2000)))
            if number % 2:
                data[0] = source.choice(b"\x04\x05GPC")
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
    check_user(victim, system)
    settle(victim, before)
    assert "Traceback" not in victim.client.output


def test_slow_loris(victim: Quicsocks, system: System) -> None:
    """Hundreds of connections that say a byte now and then: all are cut off in time, users go on meanwhile."""
    proxy = Quicsocks(system, run_flags=["--limit-handshake-timeout", "3"])
    proxy.start()
    try:
        before = proxy.client.descriptors()
        with ExitStack() as stack:
            socks = [stack.enter_context(proxy.connect(20)) for _ in range(LORIS)]
            beginnings = [b"\x05\x02", b"GET http://a/ HTT", b"\x04\x01\x00", b"\x05\x01\x00\x05\x01"]
            for number, sock in enumerate(socks):
                sock.sendall(beginnings[number % len(beginnings)])
            check_user(proxy, system)
            for sock in socks:
                with suppress(ConnectionError):
                    while sock.recv(4096):
                        pass
            check_user(proxy, system)
        settle(proxy, before)
    finally:
        proxy.stop()


def test_the_connection_limit_answers_properly(system: System) -> None:
    proxy = Quicsocks(system, run_flags=["--limit-connections", "20"])
    proxy.start()
    try:
        with ExitStack() as stack:
            held = []
            for _ in range(20):
                sock = stack.enter_context(proxy.connect(20))
                assert socks5(sock, ORIGIN_V4, system.mannerly.port).code == 0
                held.append(sock)
            with proxy.connect(20) as late:
                assert socks5(late, ORIGIN_V4, 80).code == 1
            with proxy.connect(20) as late:
                answer = http_connect(late, f"{ORIGIN_V4}:80")
                assert answer.status == 503
                assert "connection_limit_reached" in answer.fields["proxy-status"]
            held[0].sendall(b"x")
            held[0].shutdown(socket.SHUT_WR)
            assert held[0].recv(2) == b"1 ", "old ones live"
        settle_until_served(proxy, system)
    finally:
        proxy.stop()


@pytest.mark.parametrize("role", ["client", "concentrator"])
def test_out_of_descriptors(system: System, role: str) -> None:
    """New connections are refused properly, a warning a minute, recovery by itself."""
    proxy = Quicsocks(system)
    proxy.start_concentrator(**({"files": FILES} if role == "concentrator" else {}))
    try:
        proxy.start_client(**({"files": FILES} if role == "client" else {}))
        with ExitStack() as stack:
            codes: list[int] = []
            while len(codes) < FILES + 20 and codes.count(0) > len(codes) - 5:
                sock = stack.enter_context(proxy.connect(20))
                try:
                    codes.append(socks5(sock, ORIGIN_V4, system.mannerly.port).code)
                except (EOFError, ConnectionError, TimeoutError):
                    codes.append(-1)
            assert codes.count(0) >= FILES // 4, codes
            assert 1 in codes, "refused with an answer"
            assert -1 not in codes, f"not by a mere close: {codes}"
            process = proxy.processes[role]
            warnings = [line for line in process.stderr if "descriptor" in line or "open files" in line]
            assert len(warnings) == 1, process.output
        settle_until_served(proxy, system)
        assert "Traceback" not in proxy.client.output + proxy.concentrator.output
    finally:
        proxy.stop()


def settle(proxy: Quicsocks, descriptors: int, timeout: float = 10.0) -> None:
    """Until the client holds no more descriptors than before."""
    for _ in range(int(timeout / 0.1)):
        if proxy.client.descriptors() <= descriptors:
            return
        assert not proxy.client.pause(0.1), proxy.client.output
    raise AssertionError(f"{proxy.client.descriptors()} descriptors instead of {descriptors}")


def settle_until_served(proxy: Quicsocks, system: System, timeout: float = 10.0) -> None:
    """Until a request succeeds again."""
    for _ in range(int(timeout / 0.1)):
        with suppress(AssertionError, EOFError, ConnectionError):
            check_user(proxy, system)
            return
        assert not proxy.client.pause(0.1), proxy.client.output
    raise AssertionError(f"not served again:\n{proxy.client.output}")
