"""What the listener does at its limits: connections, time, descriptors; and how it starts and closes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quicsocks.socks.config import ListenerConfig
from quicsocks.socks.credentials import Credentials
from quicsocks.socks.errors import LocalError
from quicsocks.socks.fake import MemoryExit, loopback_exit
from quicsocks.socks.listener import Listener, start
from quicsocks.socks.types import Failure, FlowError, Request

from .conftest import Run
from .support import OPENINGS, SOCKS5_CONNECT, SOCKS5_GREETING, SOCKS5_OK, Application, Door, door, run

GET = b"GET http://a.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n"


async def tunnel(d: Door) -> Application:
    application = await d.connect(SOCKS5_GREETING + SOCKS5_CONNECT)
    (await d.next_flow()).accept()
    await application.expect(SOCKS5_OK)
    return application


@pytest.mark.parametrize("limit", [{"max_connections": 2}, {"max_connections_per_address": 2}])
def test_at_a_limit_new_ones_are_refused_in_their_protocol_and_old_ones_live(limit: Any, on_loop: Run) -> None:
    async def main() -> None:
        async with door(**limit) as d:
            first, second = await tunnel(d), await tunnel(d)

            application = await d.connect(SOCKS5_GREETING + SOCKS5_CONNECT)
            assert await application.read_all() == b"\x05\x00\x05\x01\x00\x01" + bytes(6)
            application = await d.connect(OPENINGS["socks4"][0])
            assert await application.read_all() == b"\x00\x5b" + bytes(6)
            for opening in (OPENINGS["http"][0], GET):
                application = await d.connect(opening)
                status, fields, _body = await application.read_response()
                assert status == 503
                assert "error=connection_limit_reached" in fields["proxy-status"]
                await application.expect_eof()
            assert len(d.memory.flows) == 2
            assert d.listener.statistics().refused == 4
            assert [kind for kind, _text in d.events] == ["limit"], "one warning a minute"

            flow = d.memory.flows[0]
            flow.feed(b"still here")
            await first.expect(b"still here")
            for application in d.applications[2:]:
                application.close()
            second.reset()
            await d.memory.flows[1].until_over()
            while d.listener.statistics().open > 1:
                await asyncio.sleep(0)
            await tunnel(d)

    on_loop(main())


def test_refusals_themselves_are_limited(on_loop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicsocks.socks.listener.MAX_REFUSALS", 1)

    async def main() -> None:
        async with door(max_connections=1) as d:
            await tunnel(d)
            silent = await d.connect()
            while d.listener.statistics().refused < 1:
                await asyncio.sleep(0)

            async def beyond() -> None:
                await (await d.connect()).read_all()  # the reset may come so early that connecting fails

            with pytest.raises(ConnectionResetError):
                await beyond()
            await silent.send(SOCKS5_GREETING + SOCKS5_CONNECT)
            assert await silent.read_all() == b"\x05\x00\x05\x01\x00\x01" + bytes(6)

    on_loop(main())


@pytest.mark.parametrize(
    ("opening", "answer"),
    [
        (b"", b""),
        (b"\x05", b""),
        (SOCKS5_GREETING + b"\x05\x01\x00\x03\xff", b"\x05\x00"),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01user", b""),
        (b"GET http://a.te", b"HTTP/1.1 408 "),
    ],
)
def test_the_handshake_time_is_total(opening: bytes, answer: bytes, on_loop: Run) -> None:
    async def main() -> None:
        async with door(handshake_timeout=0.2) as d:
            application = await d.connect(opening)

            async def trickle() -> None:
                while True:
                    await asyncio.sleep(0.02)
                    await application.send(b"a")

            # Bytes keep coming, but for the silent one; they do not buy time.
            trickling = asyncio.ensure_future(trickle()) if opening else None
            began = asyncio.get_running_loop().time()
            got = await application.read_all()
            assert asyncio.get_running_loop().time() - began < 5
            assert got[: len(answer)] == answer
            assert bool(got) == bool(answer)
            if trickling is not None:
                trickling.cancel()
                await asyncio.gather(trickling, return_exceptions=True)
            assert d.memory.flows == []

    on_loop(main())


def test_a_body_may_take_longer_than_the_handshake(on_loop: Run) -> None:
    async def main() -> None:
        async with door(handshake_timeout=0.1) as d:
            application = await d.connect(b"POST http://a.test/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
            flow = await d.next_flow()
            flow.accept()
            await flow.until_written(b"\r\n\r\na")
            await asyncio.sleep(0.2)  # the time itself is what is tested
            await application.send(b"b")
            await flow.until_written(b"ab")
            flow.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            assert (await application.read_response())[0] == 200

    on_loop(main())


def test_an_idle_http_connection_is_closed_without_a_word(on_loop: Run) -> None:
    async def main() -> None:
        async with door(idle_timeout=0.05) as d:
            application = await d.connect(GET)
            flow = await d.next_flow()
            flow.accept()
            flow.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            assert (await application.read_response())[0] == 200
            await application.expect_eof()
            await flow.until_over()

    on_loop(main())


@pytest.mark.parametrize("protocol", sorted(OPENINGS))
def test_a_flow_that_is_never_opened_times_out(protocol: str, on_loop: Run) -> None:
    async def main() -> None:
        async with door(connect_timeout=0.05) as d:
            application = await d.connect(OPENINGS[protocol][0])
            answer = await application.read_all()
            expected = {"socks5": b"\x05\x00\x05\x06", "socks4": b"\x00\x5b", "http": b"HTTP/1.1 504 "}[protocol]
            assert answer.startswith(expected)
            assert d.memory.flows[0].aborted

    on_loop(main())


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01", b"\x00", b"\xff" * 100, b"\r\n\r\n", b"\x80\x2e\x01", b"\xc3\xa9", b"{}"]
)
def test_garbage_is_closed_at_once(garbage: bytes, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(garbage)
            await application.expect_reset()
            assert d.listener.statistics().failed == 1

    on_loop(main())


@pytest.mark.parametrize("protocol", sorted(OPENINGS))
def test_a_protocol_that_is_not_served_is_garbage(protocol: str, on_loop: Run) -> None:
    async def main() -> None:
        async with door(protocols=frozenset(OPENINGS) - {protocol}) as d:
            application = await d.connect(OPENINGS[protocol][0])
            await application.expect_reset()
            assert d.memory.flows == []

    on_loop(main())


def test_an_answer_is_not_lost_to_bytes_that_nobody_reads(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(
                b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
            )
            status, _fields, _body = await application.read_response()
            assert status == 400
            await application.expect_eof()

    on_loop(main())


class BrokenExit:
    """An exit with a bug."""

    def open(self, request: Request) -> Any:
        raise RuntimeError("a bug")


def test_an_internal_error_ends_one_connection_and_is_reported(on_loop: Run) -> None:
    async def main() -> None:
        events: list[tuple[str, str]] = []
        config = ListenerConfig(addresses=(("127.0.0.1", 0),))
        listener = await start(config, BrokenExit(), lambda kind, text: events.append((kind, text)))
        address = listener.addresses[0]
        for _ in range(2):
            application = await Application.connect(address, OPENINGS["socks5"][0])
            await application.expect_reset()
            application.close()
        await listener.close()
        assert [kind for kind, _text in events] == ["internal"]
        assert "a bug" in events[0][1]
        assert "example.com" not in events[0][1]

    on_loop(main())


# Closing.


def test_close_ends_everything_and_may_be_called_again(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            open_one = await tunnel(d)
            silent = await d.connect()
            waiting = await d.connect(OPENINGS["socks4"][0])
            flow = await d.next_flow()
            idle = await d.connect(GET)
            idle_flow = await d.next_flow()
            idle_flow.accept()
            idle_flow.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await idle.read_response()
            await asyncio.gather(d.listener.close(), d.listener.close())
            await d.listener.close()
            await open_one.expect_reset()
            for application in (silent, waiting, idle):
                with pytest.raises((AssertionError, ConnectionResetError)):
                    await application.expect(b"nothing more")
            assert flow.aborted
            assert d.listener.statistics().open == 0
            with pytest.raises(ConnectionRefusedError):
                await d.connect()

    on_loop(main())


def test_close_lets_open_flows_drain(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await tunnel(d)
            forwarded = await d.connect(GET)
            flow = await d.next_flow()
            flow.accept()
            await flow.until_written(b"\r\n\r\n")
            closing = asyncio.ensure_future(d.listener.close(drain=30))
            for _ in range(3):
                await asyncio.sleep(0)  # It has begun.
            flow.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            status, fields, body = await forwarded.read_response()
            assert (status, fields["connection"], body) == (200, "close", b"ok")
            d.memory.flows[0].feed(b"the rest")
            d.memory.flows[0].feed_eof()
            assert await application.read_all() == b"the rest"
            application.half_close()
            forwarded.close()
            await closing
            assert not d.memory.flows[0].aborted

    on_loop(main())


# Starting.


async def started(**options: Any) -> Listener:
    return await start(ListenerConfig(**options), MemoryExit(), lambda _kind, _text: None)


def test_several_listeners_at_once(tmp_path: Path, on_loop: Run) -> None:
    async def main() -> None:
        path = str(tmp_path / "proxy.sock")
        addresses = [("127.0.0.1", 0), ("127.0.0.2", 0)]
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            addresses.append(("::1", 0))
        async with door(addresses=tuple(addresses), unix_paths=(path,)) as d:
            assert len(d.listener.addresses) == len(addresses) + 1
            assert d.listener.addresses[-1] == path
            for address in d.listener.addresses:
                application = await Application.connect(address, OPENINGS["socks5"][0])
                flow = await d.next_flow()
                assert flow.request.client == (None if address == path else application.sock.getsockname()[:2])
                flow.accept()
                await application.expect(SOCKS5_OK)
                application.half_close()
                await flow.until_write_ended()
                flow.feed_eof()
                await application.expect_eof()
                application.close()

    on_loop(main())


def test_a_unix_socket_has_mode_0600_and_goes_when_closed(tmp_path: Path, on_loop: Run) -> None:
    async def main() -> None:
        path = tmp_path / "proxy.sock"
        listener = await started(unix_paths=(str(path),))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await listener.close()
        assert not path.exists()

    old = os.umask(0)
    try:
        on_loop(main())
    finally:
        os.umask(old)


def test_a_client_that_leaves_a_unix_socket_ends_the_attempt(tmp_path: Path, on_loop: Run) -> None:
    async def main() -> None:
        async with door(addresses=(), unix_paths=(str(tmp_path / "s"),)) as d:
            for opening, _answer in OPENINGS.values():
                application = await Application.connect(d.listener.addresses[0], opening)
                flow = await d.next_flow()
                application.close()
                await flow.until_over()
                assert flow.aborted

    on_loop(main())


def test_a_stale_unix_socket_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "proxy.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        listener = await started(unix_paths=(str(path),))
        with pytest.raises(LocalError, match=r"cannot listen on .*proxy\.sock: address already in use"):
            await started(unix_paths=(str(path),))
        assert path.is_socket()
        # Somebody has put another file there: it is not ours to remove.
        path.unlink()
        path.write_text("precious")
        await listener.close()
        assert path.read_text() == "precious"
        with pytest.raises(LocalError, match="a file that is not a socket"):
            await started(unix_paths=(str(path),))
        assert path.read_text() == "precious"

    run(main())


def test_what_cannot_be_listened_on_is_said_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "proxy.sock"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            cases: list[tuple[dict[str, Any], str]] = [
                (
                    {"addresses": (("127.0.0.1", port),), "unix_paths": (str(path),)},
                    f"cannot listen on 127.0.0.1:{port}: address already in use; "
                    "choose another with --listen, or stop the program that holds it",
                ),
                ({"addresses": (("127.0.0.1", 0), ("127.0.0.1", port))}, "address already in use"),
                ({"addresses": (("no..such.host", 0),)}, "the host is unknown here"),
                ({"addresses": (("", 0),)}, "no host"),
                ({"addresses": (("192.0.2.1", 0),), "allow_open": True}, "not an address of this machine"),
                ({"unix_paths": (str(tmp_path / "no" / "such"),)}, "the directory does not exist"),
                ({"unix_paths": (str(tmp_path / ("x" * 120)),)}, "at most 107 bytes"),
                ({"unix_paths": ("",)}, "its path is empty"),
            ]
            for options, expected in cases:
                with pytest.raises(LocalError) as caught:
                    await started(**options)
                assert expected in str(caught.value)
                assert "\n" not in str(caught.value)
        assert not path.exists()

    run(main())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1"])
def test_off_loopback_a_password_or_allow_open_is_needed(host: str) -> None:
    async def main() -> None:
        with pytest.raises(LocalError, match=r"without a password.*--allow-open"):
            await started(addresses=((host, 0),))

    run(main())


@pytest.mark.parametrize("options", [{"allow_open": True}, {"credentials": Credentials({"a": "b"})}])
def test_off_loopback_with_a_password_or_allow_open(options: dict[str, Any]) -> None:
    async def main() -> None:
        listener = await started(addresses=(("0.0.0.0", 0),), **options)
        await listener.close()

    run(main())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"addresses": (("127.0.0.1", 65536),)},
        {"addresses": (("127.0.0.1", 0),), "protocols": frozenset({"socks6"})},
        {"addresses": (("127.0.0.1", 0),), "protocols": frozenset()},
        {"addresses": (("127.0.0.1", 0),), "handshake_timeout": 0},
        {"addresses": (("127.0.0.1", 0),), "linger_timeout": 11},
        {"addresses": (("127.0.0.1", 0),), "max_connections": 0},
        {"addresses": (("127.0.0.1", 0),), "max_connections_per_address": 0},
        {"addresses": (("127.0.0.1", 0),), "max_head": 100},
        {"addresses": (("127.0.0.1", 0),), "via": "a\r\nb"},
        {"addresses": (("127.0.0.1", 0),), "protocols": frozenset({"socks4"}), "credentials": Credentials({"a": "b"})},
    ],
)
def test_a_configuration_that_cannot_be_served(options: dict[str, Any]) -> None:
    with pytest.raises(LocalError) as caught:
        ListenerConfig(**options)
    assert "\n" not in str(caught.value)


def test_limits_per_address_count_what_one_machine_has() -> None:
    config = ListenerConfig(addresses=(("127.0.0.1", 0),), max_connections=5000)
    assert config.per_address("127.0.0.1") == config.per_address("::1") == 5000
    assert config.per_address("192.0.2.1") == config.per_address("2001:db8::1") == 512
    explicit = ListenerConfig(addresses=(("127.0.0.1", 0),), max_connections_per_address=3)
    assert explicit.per_address("127.0.0.1") == explicit.per_address("192.0.2.1") == 3


OUT_OF_DESCRIPTORS = """
import asyncio, json, os, resource, socket, sys
sys.path.append({root!r})
from tests.socks.support import SOCKS5_CONNECT, SOCKS5_GREETING, SOCKS5_OK, Application, door, run

async def tunnel(d):
    application = await d.connect(SOCKS5_GREETING + SOCKS5_CONNECT)
    (await d.next_flow()).accept()
    await application.expect(SOCKS5_OK)
    return application

async def main():
    async with door() as d:
        old = await tunnel(d)
        sockets = [socket.socket() for _ in range(4)]
        for sock in sockets:
            sock.setblocking(False)
        # From here on no descriptor is left for accept.
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        answers = []
        for sock in sockets:
            await asyncio.get_running_loop().sock_connect(sock, d.address)
        for sock in sockets:
            application = Application(sock)
            await application.send(SOCKS5_GREETING + SOCKS5_CONNECT)
            answers.append((await application.read_all()).hex())
        d.memory.flows[0].feed(b"lives")
        await old.expect(b"lives")
        for sock in sockets:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await tunnel(d)
        print(json.dumps([answers, d.events, d.listener.statistics().refused]))

run(main(), {loop!r})
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_out_of_descriptors(loop: str) -> None:
    script = OUT_OF_DESCRIPTORS.format(root=str(Path(__file__).resolve().parents[2]), loop=loop)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    answers, events, refused = json.loads(result.stdout)
    assert answers == ["0500" + "05010001" + "00" * 6] * 4
    assert refused == 4
    assert [kind for kind, _text in events] == ["descriptors"], "one warning a minute"


def test_flow_errors_name_what_failed() -> None:
    assert str(FlowError(Failure.REFUSED, "by 192.0.2.1")) == "connection refused: by 192.0.2.1"


def test_loopback_exit_never_leaves_loopback() -> None:
    async def main() -> None:
        exit = loopback_exit()
        flow = exit.open(Request("192.0.2.1", 80, "socks5"))
        with pytest.raises(FlowError) as caught:
            await flow.connected()
        assert caught.value.failure is Failure.DENIED
        await exit.close()

    run(main())


def test_half_open_handshakes_do_not_keep_real_users_out(on_loop: Run) -> None:
    async def main() -> None:
        async with door(max_connections=20) as d:
            old = await tunnel(d)
            for _ in range(100):
                await d.connect(SOCKS5_GREETING)
            real = [await tunnel(d) for _ in range(5)]
            statistics = d.listener.statistics()
            assert statistics.evicted >= 80
            assert statistics.open <= 25
            for flow, application in zip(d.memory.flows, [old, *real], strict=True):
                flow.feed(b"lives")
                await application.expect(b"lives")

    on_loop(main())


def test_a_silent_connection_makes_room_after_a_while(on_loop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with door(max_connections=2) as d:
            await tunnel(d)
            silent = await d.connect(b"\x05")
            while d.listener.statistics().open < 2:
                await asyncio.sleep(0)
            refused = await d.connect(SOCKS5_GREETING + SOCKS5_CONNECT)
            assert await refused.read_all() == b"\x05\x00\x05\x01\x00\x01" + bytes(6)
            monkeypatch.setattr("quicsocks.socks.listener.HANDSHAKE_PATIENCE", 0.0)
            await tunnel(d)
            await silent.expect_reset()
            assert d.listener.statistics().evicted == 1

    on_loop(main())
