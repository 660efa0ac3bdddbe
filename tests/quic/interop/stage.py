"""What the tests of this folder share: files to fetch, a certificate that everyone believes, endpoints of ours, a bound
on the time, and a path that is clean or bad."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quicsocks.userspace.quic.factory import open_endpoint
from quicsocks.userspace.quic.types import Address, DialConfig, Endpoint, Limits, ListenConfig, Session, Trust

from ...sim.link import Conditions
from ..keys import Identity, issued
from .exchange import Peer
from .relay import BAD, CLEAN, LOOPBACK, Relay, relay

NAME = "server.example"
SECRET = bytes(range(32))
LIMITS = Limits(congestion="bbr")
"""As the product has them."""
SEED = 1
"""Of what a bad path does."""

either_path = pytest.mark.parametrize("conditions", [CLEAN, BAD], ids=["clean", "bad"])


@functools.cache
def files() -> Mapping[str, bytes]:
    """By path. One large enough for flow control, congestion and many losses; small ones to run beside it."""
    octets = random.Random(1)
    sizes = {"/large": 3_000_000, "/empty": 0, "/one": 1, **{f"/small-{n}": 700 * n for n in range(1, 9)}}
    return {path: octets.randbytes(size) for path, size in sizes.items()}


def within(main: Coroutine[Any, Any, None], seconds: float = 40.0) -> None:
    """Run main in a loop of its own."""

    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await main

    asyncio.run(bounded())


@dataclass(frozen=True, slots=True)
class Stage:
    """PEM files, and a folder with the files to serve and an empty one for those that are fetched."""

    authority: Path
    certificate: Path
    key: Path
    served: Path
    fetched: Path
    identity: Identity

    def trust(self) -> Trust:
        return Trust(NAME, (), self.authority)

    def dial_config(self, alpn: str) -> DialConfig:
        return DialConfig((alpn,), self.trust(), LIMITS)

    def listen_config(self, alpn: str) -> ListenConfig:
        return ListenConfig((alpn,), self.identity.certificate, self.identity.private_key, SECRET, LIMITS)

    def check_fetched(self, paths: Mapping[str, bytes]) -> None:
        for path, octets in paths.items():
            assert (self.fetched / path.removeprefix("/")).read_bytes() == octets, path


def make_stage(folder: Path) -> Stage:
    identity, root = issued(NAME)
    stage = Stage(
        folder / "authority.pem", folder / "certificate.pem", folder / "key.pem",
        folder / "served", folder / "fetched", identity,
    )  # fmt: skip
    stage.authority.write_bytes(root)
    stage.certificate.write_bytes(identity.certificate)
    stage.key.write_bytes(identity.private_key)
    stage.served.mkdir()
    stage.fetched.mkdir()
    for path, octets in files().items():
        (stage.served / path.removeprefix("/")).write_bytes(octets)
    return stage


@contextlib.asynccontextmanager
async def endpoint(local: Address = LOOPBACK) -> AsyncIterator[Endpoint]:
    """One of ours, with the native engine."""
    made = await open_endpoint([local], engine="native")
    try:
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def reached(server: Address, conditions: Conditions, seed: int) -> AsyncIterator[Relay]:
    """A relay to server that has lost something when the block is done, if it should."""
    async with relay(server, conditions, seed) as between:
        yield between
        assert (between.dropped > 0) == (conditions.loss > 0)


@contextlib.asynccontextmanager
async def dialled(target: Address, config: DialConfig, peer: Peer | None = None) -> AsyncIterator[Session]:
    """A session of ours to target, complete."""
    peer = peer if peer is not None else Peer()
    async with endpoint() as client:
        peer.session = client.dial(target, config, peer)
        yield await peer.complete()
