"""Who is no longer welcome goes, in whatever order the list of clients is changed, read and asked; and what a client may
use is the client's, however many connections it makes."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from quicsocks.userspace.concentrator import SESSIONS_PER_CLIENT
from quicsocks.userspace.dialling import dial
from quicsocks.userspace.egress.limits import ClientLimits
from quicsocks.userspace.enrolment import Registry
from quicsocks.userspace.quic.errors import End, Ended
from quicsocks.userspace.state import StateError, StateFolder
from quicsocks.userspace.tunnel.types import AuthRefused, TunnelLimits
from tests.tcp import run, wait_until
from tests.userspace.memory_world import Origin, World
from tests.userspace.test_world import in_world


def another_process(made: World) -> Registry:
    """The list of clients as the command line opens it."""
    return Registry(StateFolder(made.settings.state_dir))


async def connected(made: World, origin: Origin) -> None:
    (await made.open("127.0.0.1", origin.port).connected())
    assert len(made.concentrator.clients) == 1


def test_a_revocation_that_an_enrolment_attempt_has_read_first_still_ends_the_session(tmp_path: Path) -> None:
    """A revoked client could otherwise stay by knocking with worthless tokens, each of which reads the list again."""

    async def script(made: World, origin: Origin) -> None:
        await connected(made, origin)
        another_process(made).revoke("home", 1.0)
        with pytest.raises(AuthRefused):
            made.registry.authorise(b"some key", b"some token", "", 2.0)
        assert made.concentrator.check_clients() == 1
        assert made.concentrator.check_clients() == 0

    in_world(tmp_path, script)


def test_a_revocation_that_sighup_reads_ends_the_session(tmp_path: Path) -> None:
    async def script(made: World, origin: Origin) -> None:
        await connected(made, origin)
        another_process(made).revoke("home", 1.0)
        made.concentrator.reload(made.settings)
        await wait_until(lambda: made.notes[-1][0] == "refused")
        assert "revoked" in made.notes[-1][1]

    in_world(tmp_path, script)


def test_a_key_that_a_new_one_has_replaced_loses_its_sessions(tmp_path: Path) -> None:
    async def script(made: World, origin: Origin) -> None:
        await connected(made, origin)
        token = another_process(made).new_token("home", 1.0)
        made.registry.authorise(b"the key of another machine", token, "", 2.0)
        assert made.concentrator.check_clients() == 1

    in_world(tmp_path, script)


def test_limits_of_a_clients_own_survive_a_reload(tmp_path: Path) -> None:
    async def script(made: World, origin: Origin) -> None:
        home = another_process(made)
        with home._changing():
            own = home.client("home")
            assert own is not None
            home._put(dataclasses.replace(own, limits=TunnelLimits(max_flows=7, bytes_per_second=1000)))
        made.registry.poll()
        await connected(made, origin)
        quota = made.concentrator.quota_of("home")
        assert (quota.limits.max_flows, quota.limits.bytes_per_second) == (7, 1000)
        made.concentrator.reload(made.settings)
        assert (quota.limits.max_flows, quota.limits.bytes_per_second) == (7, 1000)

    in_world(tmp_path, script)


def test_one_client_cannot_take_the_sessions_of_all(tmp_path: Path) -> None:
    async def script(made: World, origin: Origin) -> None:
        await connected(made, origin)
        config = made.uplink._config
        for _ in range(SESSIONS_PER_CLIENT + 3):
            await dial(
                made.endpoint,
                (made.link.host, made.link.port),
                config.dial,
                identity=config.identity,
                resolve=made._resolve,
            )
        await wait_until(lambda: len(made.concentrator.clients) <= SESSIONS_PER_CLIENT)
        assert made.endpoint.links[-1].client.ended is None
        assert made.endpoint.links[1].client.ended is not None

    in_world(tmp_path, script)


def test_a_quota_in_debt_outlives_the_clients_sessions(tmp_path: Path) -> None:
    """Coming back must not be a way to a new burst."""

    async def script(made: World, origin: Origin) -> None:
        await connected(made, origin)
        quota = made.concentrator.quota_of("home")
        quota.set_limits(ClientLimits(bytes_per_second=1000), 0.0)
        quota.transferred(1 << 20, asyncio.get_running_loop().time())
        made.endpoint.links[-1].sever(Ended(End.TIMED_OUT))
        await wait_until(lambda: not made.concentrator.clients)
        assert made.concentrator.quota_of("home") is quota

    in_world(tmp_path, script)


def test_an_enrolment_that_cannot_be_written_down_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at the concentrator says nothing about the link."""

    def refuse(folder: StateFolder, name: str, data: bytes) -> None:
        raise StateError("cannot write: no space left on device")

    async def main() -> None:
        made, origin = World(tmp_path), Origin()
        with monkeypatch.context() as patch:
            patch.setattr(StateFolder, "write", refuse)
            made.start()
            await wait_until(lambda: bool(made.notes))
        try:
            assert made.notes[0][0] == "unreachable"
            made.uplink.retry_now()
            await connected(made, origin)
        finally:
            await made.close()
            origin.close()

    run(main())
