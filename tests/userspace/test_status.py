"""The control socket: who may ask, limits, stale sockets, and what is shown."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from quicsocks.userspace import status
from quicsocks.userspace.state import StateError
from quicsocks.userspace.status import StatusError, StatusServer, ask, instances, render, socket_path

from .support import both_loops, mode, run_on

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def failing(request: Mapping[str, Any]) -> dict[str, Any]:
    raise StateError("the disk is full")


def broken(request: Mapping[str, Any]) -> dict[str, Any]:
    raise KeyError("oops")


HANDLERS: dict[str, status.Handler] = {
    "status": lambda request: {"role": "client", "asked": request.get("what")},
    "failing": failing,
    "broken": broken,
}


async def raw(path: Path, data: bytes, *, finish: bool = True) -> bytes:
    """What the server answers to these bytes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    if finish:
        writer.write_eof()
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@both_loops
def test_ask_and_answer(tmp_path: Path, loop_factory: LoopFactory) -> None:
    path = socket_path(tmp_path / "run", "home")

    async def program() -> dict[str, Any]:
        server = StatusServer(path, HANDLERS)
        await server.start()
        assert mode(path) == 0o600
        assert mode(path.parent) == 0o700
        answer = await asyncio.to_thread(ask, path, {"command": "status", "what": "x"})
        await server.close()
        await server.close()
        return answer

    assert run_on(loop_factory, program()) == {"role": "client", "asked": "x"}
    assert os.listdir(path.parent) == []


@both_loops
@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"command": "nope"}, "unknown request; commands are: broken, failing, status"),
        ({}, "unknown request; commands are: broken, failing, status"),
        ({"command": ["status"]}, "unknown request; commands are: broken, failing, status"),
        ({"command": "failing"}, "the disk is full"),
        ({"command": "broken"}, "internal error (KeyError: 'oops')"),
    ],
)
def test_refusals_are_one_line(
    tmp_path: Path, loop_factory: LoopFactory, request_: dict[str, Any], expected: str
) -> None:
    async def program() -> str:
        server = StatusServer(tmp_path / "s.sock", HANDLERS)
        await server.start()
        try:
            with pytest.raises(StatusError) as caught:
                await asyncio.to_thread(ask, tmp_path / "s.sock", request_)
            return str(caught.value)
        finally:
            await server.close()

    tmp_path.chmod(0o700)
    assert run_on(loop_factory, program()) == expected


@both_loops
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"junk\n",
        b"[]\n",
        b"{}\n",
        b"[" * 3000 + b"\n",
        b"x" * 100_000,
        b'{"command": "status"}',
        b"\xff\xfe\n",
    ],
    ids=["empty", "blank", "junk", "list", "object", "deep", "long", "no line end", "bytes"],
)
def test_any_bytes_are_survived(tmp_path: Path, loop_factory: LoopFactory, data: bytes) -> None:
    async def program() -> tuple[bytes, dict[str, Any]]:
        server = StatusServer(tmp_path / "s.sock", HANDLERS)
        await server.start()
        try:
            return await raw(tmp_path / "s.sock", data), await asyncio.to_thread(
                ask, tmp_path / "s.sock", {"command": "status"}
            )
        finally:
            await server.close()

    tmp_path.chmod(0o700)
    answer, good = run_on(loop_factory, program())
    assert good["role"] == "client"
    assert not answer or isinstance(json.loads(answer)["ok"], bool)


@both_loops
def test_silent_peers_are_cut_off_and_do_not_lock_out_others(
    tmp_path: Path, loop_factory: LoopFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "EXCHANGE_TIMEOUT", 0.05)
    monkeypatch.setattr(status, "MAX_PEERS", 2)

    async def program() -> list[bytes]:
        server = StatusServer(tmp_path / "s.sock", HANDLERS)
        await server.start()
        try:
            silent = [asyncio.create_task(raw(tmp_path / "s.sock", b"{", finish=False)) for _ in range(4)]
            ended = await asyncio.gather(*silent)
            assert await asyncio.to_thread(ask, tmp_path / "s.sock", {"command": "status"}, 10)
            return ended
        finally:
            await server.close()

    tmp_path.chmod(0o700)
    assert run_on(loop_factory, program()) == [b""] * 4


@both_loops
def test_close_ends_open_exchanges(tmp_path: Path, loop_factory: LoopFactory) -> None:
    async def program() -> bytes:
        server = StatusServer(tmp_path / "s.sock", HANDLERS)
        await server.start()
        silent = asyncio.create_task(raw(tmp_path / "s.sock", b"{", finish=False))
        while not server._peers:
            await asyncio.sleep(0)
        await server.close()
        answer = await silent
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
        return answer

    tmp_path.chmod(0o700)
    assert run_on(loop_factory, program()) == b""


@both_loops
def test_other_users_are_turned_away(
    tmp_path: Path, loop_factory: LoopFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    async def program() -> bytes:
        server = StatusServer(tmp_path / "s.sock", {"status": lambda request: asked.append(request) or {}})  # type: ignore[func-returns-value] # on purpose
        await server.start()
        try:
            return await raw(tmp_path / "s.sock", b'{"command": "status"}\n')
        finally:
            await server.close()

    tmp_path.chmod(0o700)
    assert json.loads(run_on(loop_factory, program())) == {"ok": True}
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    monkeypatch.setattr(status, "private_folder", lambda path: path)
    # The kernel says that we are root, or at least not 4242: as root is always let in, pretend that it is not.
    real = struct.unpack
    monkeypatch.setattr(struct, "unpack", lambda form, data: (1, 4243, 1) if form == "3i" else real(form, data))
    assert run_on(loop_factory, program()) == b""
    assert len(asked) == 1


# Sockets in the way.


def start_once(path: Path) -> str:
    async def program() -> str:
        server = StatusServer(path, HANDLERS)
        try:
            await server.start()
        except StatusError as error:
            return str(error)
        await server.close()
        return ""

    return str(run_on(asyncio.new_event_loop, program()))


def test_a_dead_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "s.sock"
    living = socket.socket(socket.AF_UNIX)
    living.bind(str(path))
    living.listen()
    assert start_once(path).startswith(f"another process listens on {path}; stop it")
    living.close()
    assert stat.S_ISSOCK(os.lstat(path).st_mode)
    assert start_once(path) == ""


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "s.sock").write_text("mine")
    assert "is not a socket; remove it" in start_once(tmp_path / "s.sock")
    assert (tmp_path / "s.sock").read_text() == "mine"


def test_close_leaves_a_successors_socket(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "s.sock"

    async def program() -> None:
        first, second = StatusServer(path, HANDLERS), StatusServer(path, HANDLERS)
        await first.start()
        os.unlink(path)
        await second.start()
        await first.close()
        assert path.exists()
        await second.close()
        assert not path.exists()

    run_on(asyncio.new_event_loop, program())


def test_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)

    async def program() -> None:
        with pytest.raises(StateError, match="other users can write"):
            await StatusServer(tmp_path / "open" / "s.sock", {}).start()

    run_on(asyncio.new_event_loop, program())


def test_names_and_paths(tmp_path: Path) -> None:
    assert socket_path(tmp_path, "home.1234") == tmp_path / "home.1234.sock"
    for wrong in ("", "../x", "a/b", "-a", "a\n"):
        with pytest.raises(StatusError, match="cannot be the name"):
            socket_path(tmp_path, wrong)
    with pytest.raises(StatusError, match="too long for a socket; set a shorter one with --runtime DIR"):
        socket_path(Path("/" + "x" * 120), "home")


# The asking side.


def test_asking_nobody(tmp_path: Path) -> None:
    with pytest.raises(StatusError, match="nothing is running at"):
        ask(tmp_path / "none.sock", {"command": "status"})


def answering(path: Path, answer: bytes) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)
            connection.sendall(answer)

    import threading

    threading.Thread(target=serve, daemon=True).start()
    return listener


@pytest.mark.parametrize("answer", [b"", b"junk\n", b"[]\n", b'"x"\n'])
def test_improper_answers(tmp_path: Path, answer: bytes) -> None:
    with answering(tmp_path / "s.sock", answer), pytest.raises(StatusError, match="no proper answer"):
        ask(tmp_path / "s.sock", {})


def test_endless_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "MAX_ANSWER", 1000)
    with answering(tmp_path / "s.sock", b"x" * 5000), pytest.raises(StatusError, match="the answer is too long"):
        ask(tmp_path / "s.sock", {})


def test_a_process_that_hangs(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.sock"))
        listener.listen()
        with pytest.raises(StatusError, match="does not answer; it may hang"):
            ask(tmp_path / "s.sock", {}, timeout=0.05)


def test_instances(tmp_path: Path) -> None:
    assert instances(tmp_path / "none") == []
    for name in ("b", "a"):
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(tmp_path / f"{name}.sock"))
    (tmp_path / "file.sock").write_text("")
    assert instances(tmp_path) == ["a", "b"]


# For people.


def test_render_a_client() -> None:
    answer = {
        "role": "client", "name": "home", "connected": True, "connected_to": "gw.example.com:4433", "since": 1000.0,
        "rtt": 0.01234, "flows": 1, "bytes_in": 12_345_678, "bytes_out": 999, "listeners": ["127.0.0.1:1080"],
        "packets_sent": 1000, "packets_lost": 5, "congestion": "bbr", "congestion_window": 123_456, "pacing_rate": 2.5e6,
        "path_mtu": 1452, "qlog": "/home/me/qlog", "alpn": "quicsocks/1", "lane": "stream", "engine": "aioquic", "pid": 3,
    }  # fmt: skip
    assert render(answer, 1000 + 3 * 3600 + 125) == (
        "client home: connected to gw.example.com:4433 for 3 h 2 min\n"
        "  round trip 12.3 ms, 1 flow open, 12.3 MB in, 999 B out\n"
        "  window 123.5 kB (bbr), pacing 2.5 MB/s, 0.5 % of packets lost, packets up to 1452 bytes\n"
        "  listening on 127.0.0.1:1080\n"
        "  alpn quicsocks/1, lane stream, engine aioquic\n"
        "  logging what happens in connections to /home/me/qlog (stop: quicsocks qlog off)"
    )


def test_render_a_client_without_connection() -> None:
    answer = {"role": "client", "name": "home", "connected": False, "reason": "no answer", "flows": 0}
    assert render(answer, 0) == "client home: not connected: no answer\n  0 flows open"


def test_render_a_concentrator() -> None:
    clients = [{"name": "laptop", "address": "192.0.2.1:5", "flows": 2, "rtt": 0.02, "bytes_in": 5, "bytes_out": 6e12}]
    clients.append({"name": "phone", "rtt": 0.2, "packets_sent": 300, "packets_lost": 3, "congestion_window": 15_000,
                    "path_mtu": 1280})  # fmt: skip
    answer = {"role": "concentrator", "name": "concentrator", "since": 0, "clients": clients, "draining": True}
    assert render(answer, 100_000) == (
        "concentrator: running for 1 d 3 h\n"
        "  client laptop: from 192.0.2.1:5, 2 flows, 20.0 ms, 5 B in, 6.0 TB out\n"
        "  client phone: 200.0 ms, window 15.0 kB, 1 % of packets lost, packets up to 1280 bytes\n"
        "  shutting down: no new flow is taken"
    )


def test_render_survives_other_versions() -> None:
    assert render({}, 0) == "process: running"
    assert render({"role": 3, "rtt": "x", "clients": [1, {}], "listeners": "x", "since": "y"}, 0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7440, "2 h 4 min"), (90_000, "1 d 1 h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert status.duration(seconds) == text
