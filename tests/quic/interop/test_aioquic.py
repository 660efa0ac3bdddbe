"""The native engine and aioquic as it comes, in programs of its own: both directions, over a clean path and a bad one."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ...sim.link import Conditions
from . import aioquic_program, http09
from .program import program
from .relay import LOOPBACK
from .stage import NAME, SEED, Stage, dialled, either_path, endpoint, files, reached, within

PROGRAM = [sys.executable, str(Path(aioquic_program.__file__))]


@either_path
@pytest.mark.parametrize("retry", [False, True], ids=["", "retry"])
def test_its_client_fetches_from_us(stage: Stage, conditions: Conditions, retry: bool) -> None:
    async def main() -> None:
        server = http09.Server(files())
        async with endpoint() as ours:
            config = stage.listen_config(http09.ALPN)
            ours.listen(replace(config, retry_above=0) if retry else config, server.accept)
            async with reached(ours.local_addresses[0], conditions, seed=SEED) as between:
                words = ["fetch", str(between.address[1]), NAME, str(stage.authority), str(stage.fetched), *files()]
                async with program([*PROGRAM, *words]) as client:
                    await client.succeed()
                assert between.retries is retry
        stage.check_fetched(files())

    within(main())


@either_path
@pytest.mark.parametrize("retry", [False, True], ids=["", "retry"])
def test_we_fetch_from_its_server(stage: Stage, conditions: Conditions, retry: bool) -> None:
    async def main() -> None:
        words = ["serve", str(stage.served), str(stage.certificate), str(stage.key), *(["--retry"] if retry else [])]
        async with program([*PROGRAM, *words]) as server:
            port = int((await server.line(r"listening on (\d+)"))[1])
            async with (
                reached((LOOPBACK[0], port), conditions, seed=SEED) as between,
                dialled(between.address, stage.dial_config(http09.ALPN)) as session,
            ):
                assert session.alpn == http09.ALPN
                bodies = await asyncio.gather(*(http09.fetch(session, path) for path in files()))
                assert dict(zip(files(), bodies, strict=True)) == files()
                assert between.retries is retry

    within(main())
