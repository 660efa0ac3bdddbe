"""Shadowsocks, Trojan and fixed destinations as front doors: pproxy as a real client, and clients of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quicsocks.socks.types import Bound
from quicsocks.userspace.chain import pipe
from quicsocks.userspace.chain.inbound import Inbound, InboundLimits, start_inbound
from quicsocks.userspace.chain.parsing import ParserReader, Parsers
from quicsocks.userspace.chain.pipe import Plain
from quicsocks.userspace.chain.shadowsocks import AeadStream, Cipher
from quicsocks.userspace.quic.errors import LocalError, PeerError
from tests.egress.loops import Run, run_on
from tests.egress.test_dial import descriptors

from .programs import SocketExit, SocketFlow, free_port, origin, pproxy, read_all, reset

CIPHER = Cipher.from_password("aes-256-gcm", "pw")
URL = "ss://aes-256-gcm:pw@127.0.0.1:PORT"


@contextlib.asynccontextmanager
async def inbound(
    exit: SocketExit, url: str = URL, limits: InboundLimits | None = None, events: list[str] | None = None
) -> AsyncIterator[Inbound]:
    told = events if events is not None else []
    subject = await start_inbound(
        url.replace("PORT", str(free_port())), exit, lambda kind, text: told.append(f"{kind}: {text}"), limits
    )
    try:
        yield subject
    finally:
        await subject.close()
        assert subject.statistics()["open"] == 0


async def connect(subject: Inbound) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, subject.addresses[0])
    return sock


def request(host: bytes = b"a.example", port: int = 80) -> bytes:
    return b"\x03" + bytes((len(host),)) + host + port.to_bytes(2, "big")


async def is_reset(sock: socket.socket) -> bool:
    with sock:
        try:
            await read_all(sock)
        except ConnectionResetError:
            return True
        return False


# Shadowsocks


@pytest.mark.parametrize(("size", "step"), [(0, 0), (0, 1), (1, 0), (5000, 0), (5000, 1), (1_000_000, 0)])
def test_shadowsocks_bytes_and_half_close(run: Run[Any], size: int, step: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with origin() as target:
            exit = SocketExit(map_to=target)
            async with inbound(exit) as subject:
                data = os.urandom(size)
                layer = AeadStream(CIPHER)
                with await connect(subject) as sock:
                    reading = asyncio.ensure_future(read_all(sock))
                    wire = layer.encode(request(b"A.Example.", 8080)) + layer.encode(data)
                    for start in range(0, len(wire), step or len(wire)):
                        await loop.sock_sendall(sock, wire[start : start + (step or len(wire))])
                    sock.shutdown(socket.SHUT_WR)
                    assert layer.decode(await reading) == data + b"goodbye"
                asked = exit.flows[0].request
                assert (asked.host, asked.port, asked.protocol) == ("a.example", 8080, "ss")
                assert asked.client is not None
                while subject.statistics()["open"]:
                    await asyncio.sleep(0)
                assert exit.flows[0].closed
                assert not exit.flows[0].aborted

    run(main())


@pytest.mark.parametrize(
    ("head", "host"),
    [
        (b"\x01\x7f\0\0\1\0\x50", "127.0.0.1"),
        (b"\x04" + bytes(15) + b"\1\0\x50", "::1"),
        (b"\x03\x09127.0.0.1\0\x50", "127.0.0.1"),
        (b"\x03\x0a127.0.0.1.\0\x50", "127.0.0.1"),
    ],
)
def test_addresses(run: Run[Any], head: bytes, host: str) -> None:
    async def main() -> None:
        async with origin(b"hello") as target:
            exit = SocketExit(map_to=target)
            async with inbound(exit) as subject:
                layer = AeadStream(CIPHER)
                with await connect(subject) as sock:
                    await asyncio.get_running_loop().sock_sendall(sock, layer.encode(head))
                    got = b""
                    while len(got) < 5:
                        got += layer.decode(await asyncio.get_running_loop().sock_recv(sock, 1000))
                    assert got == b"hello"
                assert exit.flows[0].request.host == host

    run(main())


@pytest.mark.parametrize(
    "head",
    [
        b"\x02\x7f\0\0\1\0\x50",
        b"\x01\x7f\0\0\1\0\0",
        b"\x03\x00\0\x50",
        b"\x03\x03a b\0\x50",
        b"\x03\x05127.1\0\x50",
        b"\x03\x03\xff\xfe\xfd\0\x50",
        b"\x03\x0ca\0.example.b\0\x50",
    ],
)
def test_requests_that_make_no_sense(run: Run[Any], head: bytes) -> None:
    async def main() -> None:
        exit = SocketExit()
        async with inbound(exit) as subject:
            sock = await connect(subject)
            await asyncio.get_running_loop().sock_sendall(sock, AeadStream(CIPHER).encode(head + b"more"))
            assert await is_reset(sock)
        assert exit.flows == []

    run(main())


def test_wrong_password_replay_and_garbage_are_reset(run: Run[Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with origin(b"hello") as target:
            exit = SocketExit(map_to=target)
            async with inbound(exit) as subject:
                good = AeadStream(CIPHER).encode(request())
                wrong = AeadStream(Cipher.from_password("aes-256-gcm", "other")).encode(request())
                for wire in (wrong, bytes(200), b"GET / HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\n" * 2):
                    sock = await connect(subject)
                    await loop.sock_sendall(sock, wire)
                    assert await is_reset(sock)
                assert exit.flows == []
                with await connect(subject) as sock:
                    await loop.sock_sendall(sock, good)
                    assert await loop.sock_recv(sock, 1000)
                sock = await connect(subject)
                await loop.sock_sendall(sock, good)
                assert await is_reset(sock)
                assert len(exit.flows) == 1

    run(main())


def test_resets_pass_both_ways(run: Run[Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with origin() as target:
            exit = SocketExit(map_to=target)
            async with inbound(exit) as subject:
                layer = AeadStream(CIPHER)
                sock = await connect(subject)
                await loop.sock_sendall(sock, layer.encode(request()) + layer.encode(b"RESET"))
                assert await is_reset(sock)
                layer = AeadStream(CIPHER)
                sock = await connect(subject)
                await loop.sock_sendall(sock, layer.encode(request() + b"x"))
                assert await loop.sock_recv(sock, 1000)
                reset(sock)
                while subject.statistics()["open"]:
                    await asyncio.sleep(0)
                assert [flow.aborted for flow in exit.flows] == [True, True]

    run(main())


def test_a_reset_after_a_half_close_is_noticed(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads the socket any more, and asyncio says nothing: the descriptor itself is looked at."""
    monkeypatch.setattr(pipe, "WATCH_INTERVAL", 0.01)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        halted = asyncio.Event()

        class Silent(SocketFlow):
            def write_eof(self) -> None:
                halted.set()  # the far end has nothing to say, and does not hear that we are done

        class SilentExit(SocketExit):
            def open(self, request: Any) -> SocketFlow:
                self.flows.append(Silent(request, self.map_to))
                return self.flows[-1]

        async with origin() as target:
            exit = SilentExit(map_to=target)
            async with inbound(exit) as subject:
                sock = await connect(subject)
                await loop.sock_sendall(sock, AeadStream(CIPHER).encode(request()))
                sock.shutdown(socket.SHUT_WR)
                await halted.wait()
                reset(sock)
                while subject.statistics()["open"]:
                    await asyncio.sleep(0)
                assert exit.flows[0].aborted

    run(main())


def test_a_stream_cut_inside_a_chunk_is_a_reset(run: Run[Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with origin() as target:
            exit = SocketExit(map_to=target)
            async with inbound(exit) as subject:
                layer = AeadStream(CIPHER)
                sock = await connect(subject)
                await loop.sock_sendall(sock, layer.encode(request()) + layer.encode(b"some text")[:-1])
                sock.shutdown(socket.SHUT_WR)
                assert await is_reset(sock)
                assert exit.flows[0].aborted

    run(main())


def test_a_flow_that_fails_is_a_reset(run: Run[Any]) -> None:
    async def main() -> None:
        async with inbound(SocketExit(map_to=free_port())) as subject:
            sock = await connect(subject)
            await asyncio.get_running_loop().sock_sendall(sock, AeadStream(CIPHER).encode(request()))
            assert await is_reset(sock)

    run(main())


def test_an_error_of_ours_ends_one_connection(run: Run[Any]) -> None:
    events: list[str] = []

    class Broken(SocketFlow):
        async def connected(self) -> Bound:
            raise KeyError("ours")

    class BrokenExit(SocketExit):
        def open(self, request: Any) -> SocketFlow:
            self.flows.append(Broken(request, self.map_to))
            return self.flows[-1]

    async def main() -> None:
        async with origin() as target, inbound(BrokenExit(map_to=target), events=events) as subject:
            for _ in range(2):
                sock = await connect(subject)
                await asyncio.get_running_loop().sock_sendall(sock, AeadStream(CIPHER).encode(request()))
                assert await is_reset(sock)

    run(main())
    assert len(events) == 1
    assert "KeyError" in events[0]
    assert "a.example" not in events[0]


# Limits


def test_slow_clients_are_ended(run: Run[Any]) -> None:
    async def main() -> None:
        async with inbound(SocketExit(), limits=InboundLimits(handshake_timeout=0.05)) as subject:
            sock = await connect(subject)
            await asyncio.get_running_loop().sock_sendall(sock, b"only the beginning")
            assert await is_reset(sock)

    run(main())


def test_idle_connections_are_ended(run: Run[Any]) -> None:
    async def main() -> None:
        async with (
            origin() as target,
            inbound(SocketExit(map_to=target), limits=InboundLimits(idle_timeout=0.05)) as subject,
        ):
            sock = await connect(subject)
            await asyncio.get_running_loop().sock_sendall(sock, AeadStream(CIPHER).encode(request()))
            assert await is_reset(sock)

    run(main())


@pytest.mark.parametrize(
    "limits", [InboundLimits(max_connections=2), InboundLimits(max_per_address=2)], ids=["total", "address"]
)
def test_connection_limits(run: Run[Any], limits: InboundLimits) -> None:
    events: list[str] = []

    async def main() -> None:
        async with inbound(SocketExit(), limits=limits, events=events) as subject:
            kept = [await connect(subject) for _ in range(2)]
            while subject.statistics()["open"] < 2:
                await asyncio.sleep(0)
            for _ in range(2):
                assert await is_reset(await connect(subject))
            kept.pop().close()
            while subject.statistics()["open"] > 1:
                await asyncio.sleep(0)
            kept.append(await connect(subject))
            while subject.statistics()["open"] < 2:
                await asyncio.sleep(0)
            assert subject.statistics() == {"open": 2, "accepted": 3, "refused": 2}
            for sock in kept:
                sock.close()

    run(main())
    assert len(events) == 1
    assert "a connection limit is reached" in events[0]


def test_nothing_is_left_behind(run: Run[Any]) -> None:
    async def main() -> None:
        async with origin() as target:
            before = descriptors()
            async with inbound(SocketExit(map_to=target)) as subject:
                for _ in range(5):
                    with await connect(subject) as sock:
                        await asyncio.get_running_loop().sock_sendall(sock, AeadStream(CIPHER).encode(request() + b"x"))
                        assert await asyncio.get_running_loop().sock_recv(sock, 100)
                open_ones = [await connect(subject) for _ in range(3)]
                await subject.close()
                await subject.close()
            for sock in open_ones:
                sock.close()
            while descriptors() > before:
                await asyncio.sleep(0)

    run(main())


def test_addresses_that_cannot_be_listened_on(run: Run[Any]) -> None:
    async def main() -> None:
        async with inbound(SocketExit()) as subject:
            port = subject.addresses[0][1]
            for url, hint in (
                (f"ss://aes-256-gcm:secretword@127.0.0.1:{port}", "address already in use; choose another port"),
                ("ss://aes-256-gcm:secretword@203.0.113.77:8388", "this host does not have the address"),
                ("ss://aes-256-gcm:secretword@proxy.example:8388", "on an IP address of this host"),
            ):
                with pytest.raises(LocalError, match=hint) as caught:
                    await start_inbound(url, SocketExit(), lambda kind, text: None)
                assert "secretword" not in str(caught.value)

    run(main())


# Real clients


@pytest.mark.programs
@pytest.mark.parametrize("method", ["aes-128-gcm", "aes-256-gcm", "chacha20-ietf-poly1305"])
def test_pproxy_as_a_shadowsocks_client(run: Run[Any], method: str) -> None:
    front, back = free_port(), free_port()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with origin(b"hello") as target:
            exit = SocketExit(map_to=target)
            async with inbound(exit, f"ss://{method}:{method}-pw@127.0.0.1:{back}"):
                with socket.socket() as sock:
                    sock.setblocking(False)
                    await loop.sock_connect(sock, ("127.0.0.1", front))
                    await loop.sock_sendall(sock, b"\x04\x01\x1f\x90\x08\x08\x08\x08\0")
                    got = b""
                    while len(got) < 13:
                        got += await loop.sock_recv(sock, 100)
                    assert got[8:] == b"hello"
                    await loop.sock_sendall(sock, b"some text")
                    assert await loop.sock_recv(sock, 100) == b"some text"
            assert (exit.flows[0].request.host, exit.flows[0].request.port) == ("8.8.8.8", 8080)

    with pproxy("-l", f"socks4://127.0.0.1:{front}", "-r", f"ss://{method}:{method}-pw@127.0.0.1:{back}"):
        run(main())


# Trojan


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("trojan")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(private, SHA256())
    )
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, key


def trojan_request(password: bytes = b"pw", command: int = 1) -> bytes:
    return hashlib.sha224(password).hexdigest().encode() + b"\r\n" + bytes((command,)) + request() + b"\r\n"


async def tls_exchange(subject: Inbound, first: bytes, certificate: Path, finish: bool = True) -> bytes:
    """Over a plain socket and a MemoryBIO, so that a close_notify can be sent while reading goes on."""
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    out = bytearray()
    sent = closing = False
    with await connect(subject) as sock:
        while True:
            try:
                if not sent:
                    tls.do_handshake()
                    tls.write(first)
                    sent = True
                    if finish:
                        closing = True
                        with contextlib.suppress(ssl.SSLWantReadError):
                            tls.unwrap()
                while chunk := tls.read(1000):
                    out += chunk
                return bytes(out)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                return bytes(out)
            if data := outgoing.read():
                await loop.sock_sendall(sock, data)
            data = await loop.sock_recv(sock, 1 << 16)
            if not data:
                assert closing, "cut off"
                return bytes(out)
            incoming.write(data)


def test_trojan_with_half_close(run: Run[Any], certificate: tuple[Path, Path]) -> None:
    async def main() -> None:
        async with origin() as target:
            exit = SocketExit(map_to=target)
            url = f"trojan://pw@127.0.0.1:PORT?cert={certificate[0]}&key={certificate[1]}"
            async with inbound(exit, url) as subject:
                data = os.urandom(100_000)
                got = await tls_exchange(subject, trojan_request() + data, certificate[0])
                assert got == data + b"goodbye"
                assert (exit.flows[0].request.host, exit.flows[0].request.protocol) == ("a.example", "trojan")

    run(main())


def test_trojan_refuses(run: Run[Any], certificate: tuple[Path, Path]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        exit = SocketExit()
        url = f"trojan://pw@127.0.0.1:PORT?cert={certificate[0]}&key={certificate[1]}"
        async with inbound(exit, url) as subject:
            for first in (trojan_request(b"wrong"), trojan_request(command=3), b"GET / HTTP/1.1\r\n\r\n" + bytes(60)):
                with pytest.raises(ConnectionResetError):
                    await tls_exchange(subject, first, certificate[0], finish=False)
            sock = await connect(subject)
            await loop.sock_sendall(sock, b"this is no TLS at all")
            assert await is_reset(sock)
        assert exit.flows == []

    run(main())


# Fixed and redirected destinations


def test_tunnel(run: Run[Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with origin(b"hello") as target:
            exit = SocketExit(map_to=target)
            async with inbound(exit, "tunnel://127.0.0.1:PORT?to=db.example:5432") as subject:
                with await connect(subject) as sock:
                    assert await loop.sock_recv(sock, 100) == b"hello"
                    sock.shutdown(socket.SHUT_WR)
                    assert await read_all(sock) == b"goodbye"
                assert (exit.flows[0].request.host, exit.flows[0].request.port) == ("db.example", 5432)

    run(main())


def test_redir_without_a_redirect_is_refused(run: Run[Any]) -> None:
    """Nothing was redirected, so there is no destination but this listener: it must not connect to itself."""

    async def main() -> None:
        exit = SocketExit()
        async with inbound(exit, "redir://127.0.0.1:PORT") as subject:
            assert await is_reset(await connect(subject))
        assert exit.flows == []

    run(main())


def test_localhost_listens_on_both_families(run: Run[Any]) -> None:
    async def main() -> None:
        async with inbound(SocketExit(), "ss://aes-256-gcm:pw@localhost:PORT") as subject:
            assert {address[0] for address in subject.addresses} <= {"127.0.0.1", "::1"}
            assert subject.addresses[0][0] == "127.0.0.1"

    run(main())


# The parsers


@pytest.mark.parametrize("protocol", ["ss", "ssr", "trojan"])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=120))
def test_parsers_raise_only_peer_errors(protocol: str, data: bytes) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)
            try:
                host, port = await Parsers(protocol).destination(ParserReader(ours, Plain()), ours, (b"pw",))
            except PeerError:
                return
            assert host
            assert 1 <= port <= 65535

    run_on(asyncio.new_event_loop, main())


def test_a_request_without_end_is_bounded(run: Run[Any]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            reader = ParserReader(ours, Plain())
            endless = asyncio.ensure_future(loop.sock_sendall(theirs, bytes(1 << 20)))
            with pytest.raises(PeerError, match="too long"):
                await reader.read_until(b"\r\n\r\n")
            endless.cancel()
            await asyncio.wait([endless])

    run(main())
