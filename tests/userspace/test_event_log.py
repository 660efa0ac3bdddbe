"""Logging of connections' events, as a user switches it: at the start, while programs run, and with workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quicsocks.userspace.event_log import EventLog, requested_folder
from quicsocks.userspace.identity import server_credentials
from quicsocks.userspace.link import Link
from quicsocks.userspace.log import Events
from quicsocks.userspace.quic.errors import LocalError
from quicsocks.userspace.settings import OutputSettings
from quicsocks.userspace.state import StateError, StateFolder
from quicsocks.userspace.status import ask, socket_path

from ..quic.qlog_schema import Log
from .memory_world import Origin
from .test_supervisor import CLIENTS, Supervised, in_process, wait_until


class Endpoint:
    """What has been asked of it."""

    def __init__(self) -> None:
        self.asked: list[Path | None] = []
        self.refuses = False

    def log_to(self, folder: Path | None) -> None:
        if self.refuses:
            raise LocalError("others can look into the folder")
        self.asked.append(folder)


def test_the_switch(capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = Endpoint()
    log = EventLog(endpoint, Events(OutputSettings()))
    log.switch(None)
    assert log.answer({"folder": ""}) == {"qlog": ""}
    assert endpoint.asked == []
    assert log.answer({"folder": "/some/where"}) == {"qlog": "/some/where"}
    endpoint.refuses = True
    with pytest.raises(StateError, match="others can look into the folder"):
        log.answer({"folder": "/else/where"})
    assert log.folder == Path("/some/where")
    endpoint.refuses = False
    assert log.answer({"folder": ""}) == {"qlog": ""}
    assert endpoint.asked == [Path("/some/where"), None]
    said = capsys.readouterr().err
    assert said.count("logged to /some/where (qlog)") == 1
    assert said.count("not logged any more") == 1


@pytest.mark.parametrize("folder", [None, 7, "relative", ["/a"], "/a\0b"])
def test_what_is_no_folder_is_refused(folder: object) -> None:
    with pytest.raises(StateError, match="the full path of a folder"):
        requested_folder({"command": "qlog", "folder": folder})


# --- Whole programs ---------------------------------------------------------------------------------------------------


async def command(made: Supervised, *words: str) -> tuple[int, str, str]:
    """One command of the user's: exit status, and what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "quicsocks.userspace", *words, "--runtime", str(made.folder / "run")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=made.folder,
        env={**os.environ, "QUICSOCKS_CONFIG": ""},
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def logs(folder: Path) -> list[Log]:
    return [Log(path) for path in sorted(folder.glob("*.sqlog"))]


def test_workers_log_from_one_command_to_the_next(tmp_path: Path) -> None:
    async def script(made: Supervised, origin: Origin) -> None:
        await made.connect_all()
        # The folder is named from where the user is.
        code, out, err = await command(made, "qlog", "on", "logs")
        assert (code, out, err) == (0, f"concentrator: logging to {tmp_path}/logs\n", "")
        assert (await made.status())["qlog"] == f"{tmp_path}/logs"
        for client in made.clients:
            await client.reach(origin.port)
        victim = max((await made.status())["workers"], key=lambda worker: int(worker["clients"]))
        os.kill(victim["process"], signal.SIGKILL)
        # A worker that is started again has been told, too.
        for client in made.clients:
            client.uplink.retry_now()
        await wait_until(lambda: len(list((tmp_path / "logs").iterdir())) >= CLIENTS + victim["clients"])
        assert await command(made, "qlog", "off") == (0, "concentrator: not logging\n", "")
        found = logs(tmp_path / "logs")
        assert {log.first["trace"]["vantage_point"]["type"] for log in found} == {"server"}
        assert sum(bool(log.of("packet_received")) for log in found) >= CLIENTS - victim["clients"]
        sizes = [log.path.stat().st_size for log in found]
        for client in made.clients:
            await client.reach(origin.port)
        assert [log.path.stat().st_size for log in found] == sizes
        assert (await made.status())["qlog"] == ""
        assert made.said.count("is logged to") == made.said.count("not logged any more") == 1, made.said
        # What a worker cannot do, the user hears.
        (tmp_path / "open").mkdir(mode=0o755)
        code, out, err = await command(made, "qlog", "on", str(tmp_path / "open"), "concentrator")
        assert (code, out) == (1, "")
        assert err == (
            f"quicsocks: concentrator: others can look into the folder {tmp_path}/open for qlog; choose another or run: "
            f"chmod 700 {tmp_path}/open\n"
        )

    in_process(tmp_path, script)


@contextlib.asynccontextmanager
async def client_program(made: Supervised, *options: str, environment: dict[str, str]) -> AsyncIterator[None]:
    """``quicsocks run``, connected."""
    pin = server_credentials(StateFolder(made.folder / "state")).pin
    token = made.registry.add("program", 0.0, lifetime=1e12)
    link = Link("127.0.0.1", made.port, token, (pin,), "home")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "quicsocks.userspace", "run", "--listen", "127.0.0.1:0", *options),
        *("--state", str(made.folder / "program"), "--runtime", str(made.folder / "run"), "--name", "home"),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "QUICSOCKS_CONFIG": "", "QUICSOCKS_LINK": link.uri, **environment},
    )
    assert process.stderr is not None
    while b"connected to" not in (line := await process.stderr.readline()):
        assert line, "it has ended"
    try:
        yield
    finally:
        process.terminate()
        await process.communicate()


def test_both_programs_log_from_the_start_and_tell_the_same_story(tmp_path: Path) -> None:
    async def script(made: Supervised, origin: Origin) -> None:
        async with client_program(made, environment={"QLOGDIR": str(tmp_path / "client")}):
            status = await asyncio.to_thread(ask, socket_path(tmp_path / "run", "home"), {"command": "status"})
            assert status["qlog"] == str(tmp_path / "client")
            code, out, _ = await command(made, "status", "home")
            assert code == 0
            assert f"logging what happens in connections to {tmp_path}/client" in out
            # All of the user's programs at once.
            code, out, err = await command(made, "qlog", "off")
            assert (code, out, err) == (0, "concentrator: not logging\nhome: not logging\n", "")
        (client,), (server,) = logs(tmp_path / "client"), logs(tmp_path / "server")
        assert client.path.name.removesuffix("client.sqlog") == server.path.name.removesuffix("server.sqlog")
        assert set(server.numbers("packet_received")) & set(client.numbers("packet_sent"))
        assert set(client.numbers("packet_received")) <= set(server.numbers("packet_sent"))

    in_process(tmp_path, script, "--qlog-dir", str(tmp_path / "server"), workers=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_that_cannot_be_had_ends_a_start_with_a_line(tmp_path: Path, workers: int) -> None:
    (tmp_path / "file").touch()

    async def script(made: Supervised, origin: Origin) -> None:
        assert await made.process.wait() == 1
        assert "listening" not in made.said
        assert made.said.count("error: cannot make or open the folder") == 1, made.said

    in_process(tmp_path, script, "--qlog-dir", str(tmp_path / "file" / "logs"), workers=workers)


def test_without_a_program_there_is_nothing_to_switch(tmp_path: Path) -> None:
    made = Supervised(tmp_path, None, None)  # type: ignore[arg-type] # neither is used
    code, out, err = asyncio.run(command(made, "qlog", "off"))
    assert (code, out) == (1, "")
    assert err.startswith("quicsocks: nothing is running here (looked in ")
    code, out, err = asyncio.run(command(made, "qlog", "on", "x", "home"))
    assert (code, out) == (1, "")
    assert err.startswith("quicsocks: home: nothing is running at ")
