"""Egress through a further proxy: pproxy and microsocks as real ones, and servers that answer what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from ipaddress import ip_address
from shutil import which
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.socks.replies import REPLIES
from quicsocks.socks.sockets import connect
from quicsocks.userspace.causes import to_flow_error
from quicsocks.userspace.chain.handshakes import UPSTREAM_FAILED, HttpConnectHandshake, Socks5Handshake
from quicsocks.userspace.chain.shadowsocks import AeadStream
from quicsocks.userspace.chain.upstream import Upstream, UpstreamDialler
from quicsocks.userspace.egress.dial import DialConfig, Dialler
from quicsocks.userspace.egress.policy import Policy
from quicsocks.userspace.egress.rules import parse_rules
from quicsocks.userspace.quic.errors import PeerError
from quicsocks.userspace.tunnel.types import Cause, FlowFailed
from tests.egress.loops import Run
from tests.egress.test_dial import Names, descriptors

from .programs import free_port, origin, pproxy, read_all, reset


def upstream(url: str, events: list[str] | None = None, timeout: float = 5.0, **names: str) -> UpstreamDialler:
    told = events if events is not None else []
    dialler = Dialler(
        Policy(parse_rules(["allow 127.0.0.0/8", "allow ::1"])),
        Names(**names),
        DialConfig(connect_timeout=2.0),
        connect=connect,
    )
    return UpstreamDialler(dialler, Upstream.parse(url), lambda kind, text: told.append(f"{kind}: {text}"), timeout)


async def exchange(subject: UpstreamDialler, host: str, port: int, size: int = 3000, half_close: bool = True) -> None:
    """Bytes up and back, a half-close, and what is sent after it."""
    loop = asyncio.get_running_loop()
    result = await subject.dial(host, port)
    with result.sock as sock:
        assert result.remote == (host if host[0].isdigit() else "127.0.0.1", port)
        assert result.local[0] == "127.0.0.1"
        data = os.urandom(size)
        if not half_close:
            await loop.sock_sendall(sock, data)
            back = b""
            while len(back) < size:
                back += await loop.sock_recv(sock, size)
            assert back == data
            return
        reading = asyncio.ensure_future(read_all(sock))
        await loop.sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)
        assert await reading == data + b"goodbye"


# Real proxies


@contextlib.contextmanager
def microsocks(*arguments: str) -> Iterator[int]:
    if which("microsocks") is None:
        pytest.skip("needs microsocks")
    port = free_port()
    process = subprocess.Popen(["microsocks", "-i", "127.0.0.1", "-p", str(port), *arguments])
    try:
        give_up = time.monotonic() + 10
        while time.monotonic() < give_up:
            assert process.poll() is None
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.mark.programs
@pytest.mark.parametrize("login", [(), ("-u", "user", "-P", "pass")])
def test_microsocks(run: Run[Any], login: tuple[str, ...]) -> None:
    async def main(port: int) -> None:
        async with origin() as target:
            userinfo = "user:pass@" if login else ""
            subject = upstream(f"socks5://{userinfo}127.0.0.1:{port}", a_example="127.0.0.1")
            # microsocks ends both directions when one ends.
            await exchange(subject, "127.0.0.1", target, half_close=False)
            await exchange(subject, "a.example", target, half_close=False)
            with pytest.raises(FlowFailed) as caught:
                await subject.dial("127.0.0.1", free_port())
            assert caught.value.cause is Cause.REFUSED
            if login:
                with pytest.raises(FlowFailed, match="refuses the user name") as caught:
                    await upstream(f"socks5://user:wrong@127.0.0.1:{port}").dial("127.0.0.1", target)
                assert caught.value.cause is Cause.DENIED

    with microsocks(*login) as port:
        run(main(port))


@pytest.mark.programs
@pytest.mark.parametrize("method", ["aes-128-gcm", "aes-256-gcm", "chacha20-ietf-poly1305"])
def test_pproxy_as_a_shadowsocks_upstream(run: Run[Any], method: str) -> None:
    port = free_port()

    async def main() -> None:
        async with origin(b"hello") as target:
            subject = upstream(f"ss://{method}:{method}-pw@127.0.0.1:{port}")
            loop = asyncio.get_running_loop()
            result = await subject.dial("127.0.0.1", target)
            with result.sock as sock:
                # The server speaks first; then both speak. pproxy does not carry half-closes.
                assert await loop.sock_recv(sock, 100) == b"hello"
                await loop.sock_sendall(sock, b"some text")
                assert await loop.sock_recv(sock, 100) == b"some text"
            await subject.close()

    with pproxy("-l", f"ss://{method}:{method}-pw@127.0.0.1:{port}"):
        run(main())


@pytest.mark.programs
def test_pproxy_as_an_http_upstream(run: Run[Any]) -> None:
    port = free_port()

    async def main() -> None:
        async with origin(b"hello") as target:
            subject = upstream(f"http://user:pass@127.0.0.1:{port}")
            result = await subject.dial("127.0.0.1", target)
            with result.sock as sock:
                assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"hello"

    with pproxy("-l", f"http://127.0.0.1:{port}/#user:pass"):
        run(main())


# Shadowsocks against a server of the test's own: half-close and reset


@contextlib.asynccontextmanager
async def server(handle: Callable[[socket.socket], Awaitable[None]]) -> AsyncIterator[int]:
    """handle gets each accepted, non-blocking socket; it is closed afterwards."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    tasks: list[asyncio.Task[None]] = []

    async def one(sock: socket.socket) -> None:
        with sock, contextlib.suppress(ConnectionError):
            await handle(sock)

    async def accept() -> None:
        while True:
            sock, _ = await loop.sock_accept(listener)
            sock.setblocking(False)
            tasks.append(asyncio.ensure_future(one(sock)))

    tasks.append(asyncio.ensure_future(accept()))
    try:
        yield listener.getsockname()[1]
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        listener.close()
        for outcome in results:
            if isinstance(outcome, Exception):
                raise outcome


async def shadowsocks_server(sock: socket.socket) -> None:
    """Echoes what follows the address until EOF, then says goodbye; resets on RESET."""
    loop = asyncio.get_running_loop()
    cipher = Upstream.parse("ss://aes-256-gcm:pw@h:1").cipher
    assert cipher is not None
    layer = AeadStream(cipher)
    address = b""
    while data := await loop.sock_recv(sock, 1 << 16):
        plain = layer.decode(data)
        if len(address) < 7:
            address += plain[: 7 - len(address)]
            plain = plain[7:]
            assert address[:5] == b"\x01\x7f\0\0\1"[: len(address)]
        if plain.startswith(b"RESET"):
            reset(sock)
            return
        if plain == b"CUT":
            await loop.sock_sendall(sock, layer.encode(b"never complete")[:-3])
            return
        if plain == b"GARBAGE":
            await loop.sock_sendall(sock, layer.encode(b"fine") + bytes(200))
            await loop.sock_recv(sock, 1)
            return
        if plain:
            await loop.sock_sendall(sock, layer.encode(plain))
    await loop.sock_sendall(sock, layer.encode(b"goodbye"))


@pytest.mark.parametrize("size", [0, 1, 3000, 2_000_000])
def test_shadowsocks_bytes_and_half_close(run: Run[Any], size: int) -> None:
    async def main() -> None:
        async with server(shadowsocks_server) as port:
            subject = upstream(f"ss://aes-256-gcm:pw@127.0.0.1:{port}")
            await exchange(subject, "127.0.0.1", 9, size)
            await subject.close()

    run(main())


@pytest.mark.parametrize("order", [b"RESET", b"CUT", b"GARBAGE"])
def test_shadowsocks_resets_what_did_not_end_in_order(run: Run[Any], order: bytes) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with server(shadowsocks_server) as port:
            before = descriptors()
            subject = upstream(f"ss://aes-256-gcm:pw@127.0.0.1:{port}")
            result = await subject.dial("127.0.0.1", 9)
            with result.sock as sock:
                await loop.sock_sendall(sock, order)
                with pytest.raises(ConnectionResetError):
                    await read_all(sock)
            await subject.close()
            assert descriptors() <= before + 1, "the server may not have closed its end yet"

    run(main())


def test_shadowsocks_passes_our_reset_on(run: Run[Any]) -> None:
    seen: list[BaseException] = []

    async def main() -> None:
        done = asyncio.Event()

        async def handle(sock: socket.socket) -> None:
            loop = asyncio.get_running_loop()
            try:
                while await loop.sock_recv(sock, 1000):
                    pass
            except ConnectionResetError as error:
                seen.append(error)
            done.set()

        async with server(handle) as port:
            subject = upstream(f"ss://aes-256-gcm:pw@127.0.0.1:{port}")
            result = await subject.dial("127.0.0.1", 9)
            reset(result.sock)
            await done.wait()
            await subject.close()

    run(main())
    assert len(seen) == 1


def test_closing_resets_the_pumps(run: Run[Any]) -> None:
    async def main() -> None:
        async with server(shadowsocks_server) as port:
            subject = upstream(f"ss://aes-256-gcm:pw@127.0.0.1:{port}")
            result = await subject.dial("127.0.0.1", 9)
            await subject.close()
            with result.sock, pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().sock_recv(result.sock, 10)

    run(main())


# Answers of all kinds


def scripted(*answers: bytes) -> Callable[[socket.socket], Awaitable[None]]:
    """Sends one answer after each chunk received, then holds the connection."""

    async def handle(sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for answer in answers:
            await loop.sock_recv(sock, 4096)
            await loop.sock_sendall(sock, answer)
        while await loop.sock_recv(sock, 4096):
            pass

    return handle


async def outcome(url: str, handle: Callable[[socket.socket], Awaitable[None]]) -> FlowFailed:
    async with server(handle) as port:
        before = descriptors()
        subject = upstream(url.replace("PORT", str(port)), timeout=0.5)
        with pytest.raises(FlowFailed) as caught:
            await subject.dial("127.0.0.1", 9)
        assert descriptors() <= before + 4, "the server's ends may still be open"
        return caught.value


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (1, UPSTREAM_FAILED),
        (2, Cause.DENIED),
        (3, Cause.NETWORK_UNREACHABLE),
        (4, Cause.HOST_UNREACHABLE),
        (5, Cause.REFUSED),
        (6, Cause.TIMED_OUT),
        (7, UPSTREAM_FAILED),
        (8, Cause.FAMILY_UNSUPPORTED),
        (0x77, UPSTREAM_FAILED),
    ],
)
def test_socks_replies(run: Run[Any], reply: int, cause: Cause) -> None:
    answer = b"\x05" + bytes((reply,)) + b"\0\1" + bytes(6)
    assert run(outcome("socks5://127.0.0.1:PORT", scripted(b"\x05\0", answer))).cause is cause


@pytest.mark.parametrize(
    ("head", "cause"),
    [
        ("403 Forbidden", Cause.DENIED),
        ("407 Proxy Authentication Required", Cause.DENIED),
        ("429 Slow down", Cause.LIMIT),
        ("502 Bad Gateway", UPSTREAM_FAILED),
        ("503 Unavailable", Cause.HOST_UNREACHABLE),
        ("504 Gateway Timeout", Cause.TIMED_OUT),
        ("302 Found", UPSTREAM_FAILED),
        ("502 Bad\r\nProxy-Status: p; error=connection_refused", Cause.REFUSED),
        ("502 Bad\r\nproxy-status: p;next-hop=a; error=destination_ip_unroutable", Cause.HOST_UNREACHABLE),
        ("502 Bad\r\nProxy-Status: p; error=unheard_of", UPSTREAM_FAILED),
    ],
)
def test_http_answers(run: Run[Any], head: str, cause: Cause) -> None:
    answer = f"HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n".encode()
    assert run(outcome("http://127.0.0.1:PORT", scripted(answer))).cause is cause


@pytest.mark.parametrize("scheme", ["socks5", "http"])
@pytest.mark.parametrize(
    "answer", [b"", b"\x04\0", b"SSH-2.0-x\r\n\r\n", b"\x05\x02", b"HTTP/2 200\r\n\r\n", b"x" * 40000]
)
def test_what_is_no_answer(run: Run[Any], scheme: str, answer: bytes) -> None:
    async def handle(sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_recv(sock, 4096)
        await loop.sock_sendall(sock, answer)

    error = run(outcome(f"{scheme}://127.0.0.1:PORT", handle))
    assert error.cause in (UPSTREAM_FAILED, Cause.DENIED)


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_silence(run: Run[Any], scheme: str) -> None:
    assert run(outcome(f"{scheme}://127.0.0.1:PORT", scripted())).cause is Cause.TIMED_OUT


def test_an_upstream_that_is_down(run: Run[Any]) -> None:
    events: list[str] = []

    async def main() -> None:
        subject = upstream(f"socks5://127.0.0.1:{free_port()}", events)
        for _ in range(2):
            with pytest.raises(FlowFailed, match="the upstream cannot be reached") as caught:
                await subject.dial("127.0.0.1", 9)
            assert caught.value.cause is UPSTREAM_FAILED

    run(main())
    assert len(events) == 1
    assert "cannot be reached (refused); check that it runs" in events[0]
    assert "Connect call" not in events[0]


def test_applications_do_not_take_the_upstream_for_their_destination() -> None:
    assert REPLIES[to_flow_error(FlowFailed(UPSTREAM_FAILED)).failure].rep == 0x01


def test_the_policy_holds_and_the_upstream_never_sees_a_name(run: Run[Any]) -> None:
    requests: list[bytes] = []

    async def handle(sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_recv(sock, 100)
        await loop.sock_sendall(sock, b"\x05\0")
        requests.append(await loop.sock_recv(sock, 100))
        refused = requests[-1][3] == 4
        await loop.sock_sendall(sock, (b"\x05\x05\0\1" if refused else b"\x05\0\0\1") + bytes(6) + b"first bytes")
        await loop.sock_recv(sock, 100)

    async def main() -> None:
        async with server(handle) as port:
            subject = upstream(f"socks5://127.0.0.1:{port}", a_example="10.0.0.1 ::1 127.0.0.1", b_example="10.0.0.1")
            with pytest.raises(FlowFailed) as caught:
                await subject.dial("b.example", 80)
            assert caught.value.cause is Cause.ADDRESS_PROHIBITED
            assert requests == []
            result = await subject.dial("a.example", 80)
            with result.sock as sock:
                assert result.remote == ("127.0.0.1", 80)
                assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"first bytes"

    run(main())
    # The address that is refused by the policy is left out; the first one fails, the second is tried.
    assert requests == [
        b"\x05\x01\0\x04" + ip_address("::1").packed + b"\0\x50",
        b"\x05\x01\0\x01\x7f\0\0\x01\0\x50",
    ]


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_http_takes_nothing_of_the_tunnelled_bytes(run: Run[Any], step: int) -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nVia: x\r\n\r\nfirst bytes"

    async def handle(sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        request = await loop.sock_recv(sock, 4096)
        assert request.startswith(b"CONNECT [::1]:9 HTTP/1.1\r\nHost: [::1]:9\r\n")
        for start in range(0, len(answer), step):
            await loop.sock_sendall(sock, answer[start : start + step])
        await loop.sock_recv(sock, 100)

    async def main() -> None:
        async with server(handle) as port:
            result = await upstream(f"http://127.0.0.1:{port}").dial("::1", 9)
            with result.sock as sock:
                got = b""
                while len(got) < 11:
                    got += await asyncio.get_running_loop().sock_recv(sock, 100)
                assert got == b"first bytes"

    run(main())


@given(st.binary(max_size=60))
def test_socks_handshake_raises_only_what_it_says(data: bytes) -> None:
    handshake = Socks5Handshake(ip_address("192.0.2.1"), 80, "u", "p")
    try:
        while data and not handshake.done:
            size = handshake.wants
            assert size > 0
            handshake.receive_data(data[:size])
            data = data[size:]
    except (PeerError, FlowFailed):
        return
    assert handshake.done or not data


@given(st.binary(max_size=200), st.integers(1, 50))
def test_http_handshake_raises_only_what_it_says(data: bytes, step: int) -> None:
    handshake = HttpConnectHandshake(ip_address("192.0.2.1"), 80, "u", "p")
    rest = b"HTTP/1.1 " + data + b"\r\n\r\n"
    try:
        while rest and not handshake.done:
            size = handshake.consume(rest[:step])
            assert 0 < size <= step
            handshake.receive_data(rest[:size])
            rest = rest[size:]
    except (PeerError, FlowFailed):
        return
    assert handshake.done or not rest
