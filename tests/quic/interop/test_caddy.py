"""The native engine and quic-go, in a program that many run: an HTTP/3 client of ours and Caddy's server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.types import Address

from ...sim.link import Conditions
from . import http3
from .http3 import Http3
from .program import program, required
from .relay import LOOPBACK
from .stage import NAME, SEED, Stage, dialled, either_path, files, reached, within

pytestmark = [pytest.mark.programs, required("caddy", "caddy")]


@contextlib.asynccontextmanager
async def caddy(stage: Stage, folder: Path) -> AsyncIterator[Address]:
    """It serves the stage's files, and writes nothing anywhere else."""
    # It takes the port for TCP, too, where connections on their way out may have it.
    with socket.create_server(LOOPBACK) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        address: Address = tcp.getsockname()
        udp.bind(address)
    config = folder / "Caddyfile"
    config.write_text(
        f"""{{
    admin off
    auto_https off
    storage file_system {folder / "storage"}
}}
https://{NAME}:{address[1]} {{
    bind {address[0]}
    tls {stage.certificate} {stage.key}
    root * {stage.served}
    file_server
}}
"""
    )
    words = ["caddy", "run", "--config", str(config), "--adapter", "caddyfile"]
    async with program(
        words, env={"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    ) as server:
        await server.line("serving initial configuration")
        yield address


async def fetch(stage: Stage, server: Address, conditions: Conditions) -> None:
    async with (
        reached(server, conditions, SEED) as between,
        dialled(between.address, stage.dial_config(http3.ALPN), peer := Http3()),
    ):
        answers = await asyncio.gather(*(peer.request("GET", NAME, path) for path in files()))
        assert [answer.field(b":status") for answer in answers] == [b"200"] * len(answers)
        assert {answer.field(b"server") for answer in answers} == {b"Caddy"}
        assert {path: answer.body for path, answer in zip(files(), answers, strict=True)} == files()
        assert peer.settings is not None


@either_path
def test_we_fetch_from_it(stage: Stage, conditions: Conditions, tmp_path: Path) -> None:
    async def main() -> None:
        async with caddy(stage, tmp_path) as server:
            await fetch(stage, server, conditions)

    within(main())


def test_it_follows_key_updates(stage: Stage, tmp_path: Path) -> None:
    """RFC 9001 §6.1: a second one needs an acknowledgement under the keys of the first."""
    slow = Conditions(delay=0.005, rate=30e6)

    async def main() -> None:
        peer = Http3()
        async with (
            caddy(stage, tmp_path) as server,
            reached(server, slow, SEED) as between,
            dialled(between.address, stage.dial_config(http3.ALPN), peer) as session,
        ):
            assert isinstance(session, NativeSession)
            for number in range(1, 4):
                session.connection.update_keys()
                answer = await peer.request("GET", NAME, "/small-8")
                assert answer.body == files()["/small-8"]
                assert session.connection.statistics()["key_updates"] == number

    within(main())
