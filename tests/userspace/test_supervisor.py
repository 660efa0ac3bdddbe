"""``quicsocks concentrator --workers N`` as a process, and eight clients of it over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from quicsocks.socks.types import FlowError, Request
from quicsocks.userspace.client_flow import ClientFlow
from quicsocks.userspace.enrolment import Registry
from quicsocks.userspace.flows import FlowTable
from quicsocks.userspace.identity import load_or_create, server_credentials
from quicsocks.userspace.link import Link
from quicsocks.userspace.quic.factory import open_endpoint
from quicsocks.userspace.quic.types import Address, DialConfig, Endpoint, Trust
from quicsocks.userspace.quic.workers import SWITCH
from quicsocks.userspace.state import StateFolder
from quicsocks.userspace.status import ask, socket_path
from quicsocks.userspace.tunnel.types import ALPN_QUICSOCKS, TunnelLimits
from quicsocks.userspace.uplink import Uplink, UplinkConfig
from tests.tcp import run
from tests.userspace.memory_world import Origin

CLIENTS = 8


async def wait_until(condition: Callable[[], object]) -> None:
    """The condition may cost something here: it asks processes and reads files."""
    while not condition():
        await asyncio.sleep(0.02)


@dataclass
class Client:
    """One installation with one connection."""

    uplink: Uplink
    endpoint: Endpoint
    flows: FlowTable
    task: asyncio.Task[int]
    notes: list[tuple[str, str]]

    def count(self, event: str) -> int:
        return sum(one == event for one, _ in self.notes)

    async def reach(self, port: int) -> ClientFlow:
        """A flow that the destination has accepted. Raises FlowError."""
        flow = ClientFlow(Request("127.0.0.1", port, "socks5"), self.flows, asyncio.get_running_loop())
        self.uplink.submit(flow)
        await flow.connected()
        return flow

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.flows.close()
        await self.uplink.close()
        await self.endpoint.close()


@dataclass
class Supervised:
    folder: Path
    process: asyncio.subprocess.Process
    registry: Registry
    port: int = 0
    clients: list[Client] = field(default_factory=list)

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text()

    async def status(self) -> dict[str, Any]:
        return await self.ask("status")

    async def ask(self, command: str) -> dict[str, Any]:
        path = socket_path(self.folder / "run", "concentrator")
        return await asyncio.to_thread(ask, path, {"command": command})

    async def connect(self, token: bytes, key: str = "") -> Client:
        """key: the name of the installation, a new one without it."""
        state = StateFolder(self.folder / (key or f"client-{len(self.clients)}"))
        loop, flows = asyncio.get_running_loop(), FlowTable(asyncio.get_running_loop())
        pin = server_credentials(StateFolder(self.folder / "state")).pin
        endpoint = await open_endpoint([("127.0.0.1", 0)], engine="native")
        notes: list[tuple[str, str]] = []

        async def resolve(host: str, port: int) -> list[Address]:
            return [(host, port)]

        uplink = Uplink(
            UplinkConfig(
                Link("127.0.0.1", self.port, token, (pin,), "home"),
                DialConfig((ALPN_QUICSOCKS,), Trust("127.0.0.1", (pin,))),
                load_or_create(state).tunnel_identity(token, "test"),
            ),
            endpoint,
            resolve=resolve,
            notify=lambda event, line: notes.append((event, line)),
        )
        client = Client(uplink, endpoint, flows, loop.create_task(uplink.run()), notes)
        self.clients.append(client)
        return client

    async def connect_all(self, limits: TunnelLimits | None = None) -> None:
        for number in range(CLIENTS):
            await self.connect(self.registry.add(f"client-{number}", 0.0, lifetime=1e12, limits=limits))
        await wait_until(lambda: all(client.count("connected") for client in self.clients))

    async def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()


@contextlib.asynccontextmanager
async def supervised(
    folder: Path, *options: str, workers: int = 2, environment: dict[str, str] | None = None
) -> AsyncIterator[Supervised]:
    state = StateFolder(folder / "state")
    server_credentials(state)
    registry = Registry(state)
    # There is a client: no link is handed out.
    registry.add("first", 0.0)
    with (folder / "said").open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "quicsocks.userspace", "concentrator", "--workers", str(workers)),
            *("--listen", "127.0.0.1:0", "--allow", "127.0.0.0/8", "--drain", "1", "--name", "concentrator"),
            *("--state", str(folder / "state"), "--runtime", str(folder / "run"), *options),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=said,
            env={**os.environ, "QUICSOCKS_CONFIG": "", **(environment or {})},
        )
    made = Supervised(folder, process, registry)
    try:
        await wait_until(lambda: "listening on" in made.said or process.returncode is not None)
        if (found := re.search(r"listening on 127\.0\.0\.1:(\d+)", made.said)) is not None:
            made.port = int(found[1])
        yield made
    finally:
        for client in made.clients:
            await client.close()
        await made.stop()


def in_process(
    folder: Path,
    script: Callable[[Supervised, Origin], Awaitable[None]],
    *options: str,
    workers: int = 2,
    environment: dict[str, str] | None = None,
) -> None:
    async def main() -> None:
        origin = Origin()
        try:
            async with supervised(folder, *options, workers=workers, environment=environment) as made:
                await script(made, origin)
        finally:
            origin.close()

    run(main(), uvloop.new_event_loop)


def is_alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_eight_clients_from_enrolment_to_drain(tmp_path: Path) -> None:
    async def script(made: Supervised, origin: Origin) -> None:
        await made.connect_all()
        flows = [await client.reach(origin.port) for client in made.clients]
        status = await made.status()
        assert [worker["answers"] for worker in status["workers"]] == [True, True, True]
        assert len({worker["process"] for worker in status["workers"]} | {made.process.pid}) == 4
        assert sum(worker["clients"] for worker in status["workers"]) == len(status["clients"]) == CLIENTS
        assert status["flows"] == status["endpoint"]["accepted"] == CLIENTS
        # What the connections of all workers have counted.
        assert status["endpoint"]["streams_accepted"] >= 2 * CLIENTS
        assert status["tunnel"]["flows"] == CLIENTS
        assert status["listeners"] == [f"127.0.0.1:{made.port}"]
        if status["steered"]:
            assert status["endpoint"]["forwarded"] == 0
        # Whoever is revoked goes, and at once, wherever they are.
        for number in range(CLIENTS - 1):
            made.registry.revoke(f"client-{number}", 1.0)
        # How many that ends is not to be told: the supervisor may have looked at the list by itself, half-way.
        assert "ended" in await made.ask("clients-changed")
        await wait_until(lambda: [client.count("refused") for client in made.clients] == [1] * (CLIENTS - 1) + [0])
        assert [one["name"] for one in (await made.status())["clients"]] == [f"client-{CLIENTS - 1}"]
        assert await made.stop() == 0
        assert any("shutting down" in line for _, line in made.clients[-1].notes)
        assert not any(is_alive(worker["process"]) for worker in status["workers"])
        del flows

    in_process(tmp_path, script, workers=3)


def test_a_token_enrols_one_of_those_who_have_it(tmp_path: Path) -> None:
    async def script(made: Supervised, origin: Origin) -> None:
        token = made.registry.add("wanted", 0.0, lifetime=1e12)
        for _ in range(CLIENTS):
            await made.connect(token)
        await wait_until(lambda: all(client.count("connected") + client.count("refused") for client in made.clients))
        assert sum(client.count("connected") for client in made.clients) == 1

    in_process(tmp_path, script)


def test_a_client_with_many_connections_has_one_quota(tmp_path: Path) -> None:
    async def script(made: Supervised, origin: Origin) -> None:
        token = made.registry.add("wide", 0.0, lifetime=1e12, limits=TunnelLimits(max_flows=3))
        for number in range(CLIENTS):
            client = await made.connect(token, "wide")
            await wait_until(functools.partial(client.count, "connected"))
            if number < 3:
                await client.reach(origin.port)
            else:
                with pytest.raises(FlowError, match="limit is reached"):
                    await client.reach(origin.port)
        await made.clients[0].close()
        made.clients.pop(0)

        async def flows() -> int:
            return int((await made.status())["flows"])

        while await flows() > 2:
            await asyncio.sleep(0.02)
        await made.clients[-1].reach(origin.port)

    in_process(tmp_path, script)


def test_after_kill_9_a_worker_comes_back_and_so_do_its_clients(tmp_path: Path) -> None:
    async def script(made: Supervised, origin: Origin) -> None:
        await made.connect_all(TunnelLimits(max_flows=2))
        flows = [await client.reach(origin.port) for client in made.clients for _ in range(2)]
        before = await made.status()
        victim = max(before["workers"], key=lambda worker: int(worker["clients"]))
        os.kill(victim["process"], signal.SIGKILL)
        lost = victim["clients"]
        assert lost > 0
        # Those who send something hear of it by a stateless reset.
        for flow in flows:
            flow.write(b"x")
        await wait_until(lambda: sum(client.count("connected") == 2 for client in made.clients) == lost)
        # Flows of the process that is gone count no more, at whichever worker they are opened anew.
        for client in made.clients:
            for _ in range(2 if client.count("connected") == 2 else 0):
                await client.reach(origin.port)
        after = await made.status()
        again = after["workers"][victim["number"]]
        assert again["restarts"] == 1
        assert again["process"] != victim["process"]
        assert after["endpoint"]["resets_sent"] >= lost
        assert len(after["clients"]) == CLIENTS
        assert f"process {victim['process']} was ended by SIGKILL" in made.said
        other = after["workers"][1 - victim["number"]]
        assert (other["restarts"], other["process"]) == (0, before["workers"][other["number"]]["process"])

    in_process(tmp_path, script)


def test_it_works_without_the_kernels_help(tmp_path: Path) -> None:
    async def script(made: Supervised, origin: Origin) -> None:
        await made.connect_all()
        for client in made.clients:
            await client.reach(origin.port)
        status = await made.status()
        assert not status["steered"]
        assert len(status["clients"]) == CLIENTS
        assert "does not steer" in made.said

    in_process(tmp_path, script, environment={SWITCH: "none"})


def test_workers_do_not_outlive_their_supervisor(tmp_path: Path) -> None:
    async def script(made: Supervised, origin: Origin) -> None:
        await made.connect_all()
        processes = [worker["process"] for worker in (await made.status())["workers"]]
        await made.stop(signal.SIGKILL)
        await wait_until(lambda: not any(is_alive(process) for process in processes))

    in_process(tmp_path, script)


def test_sighup_reaches_all_workers(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("version = 1\n[concentrator.limits]\nflows_per_client = 2\n")
    config.chmod(0o600)

    async def script(made: Supervised, origin: Origin) -> None:
        await made.connect_all()
        config.write_text("version = 1\n[concentrator.limits]\nflows_per_client = 1\nsessions = 77\n")
        made.process.send_signal(signal.SIGHUP)
        await wait_until(lambda: "reloaded" in made.said)
        assert "limits.sessions" in made.said.partition("only for the next start: ")[2]
        for client in made.clients:
            await client.reach(origin.port)
            with pytest.raises(FlowError, match="limit is reached"):
                await client.reach(origin.port)

    in_process(tmp_path, script, "--config", str(config))


def test_a_port_in_use_ends_it_with_a_line(tmp_path: Path) -> None:
    async def script(made: Supervised, origin: Origin) -> None:
        (tmp_path / "second").mkdir()
        async with supervised(tmp_path / "second", "--listen", f"127.0.0.1:{made.port}") as second:
            assert await second.process.wait() == 1
            assert "cannot listen on UDP 127.0.0.1" in second.said

    in_process(tmp_path, script)


def test_workers_that_cannot_start_end_it_with_a_line(tmp_path: Path) -> None:
    async def script(made: Supervised, origin: Origin) -> None:
        assert await made.process.wait() == 1
        assert "listening" not in made.said
        assert made.said.count("error: cannot write the key log") == 1, made.said

    in_process(tmp_path, script, "--keylog", str(tmp_path / "missing" / "keys"))
