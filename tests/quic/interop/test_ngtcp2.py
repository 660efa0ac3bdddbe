"""The native engine and ngtcp2's own client and server (HTTP/3): both directions, over a clean path and a bad one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.types import Address, PathChange

from ...sim.link import Conditions
from . import http3
from .http3 import Http3, Message, response
from .program import program, required
from .relay import LOOPBACK
from .stage import NAME, SEED, Stage, dialled, either_path, endpoint, files, reached, within

pytestmark = [pytest.mark.programs, required("ngtcp2-client ngtcp2-server", "gtlsclient", "gtlsserver")]


class Origin:
    """Gives files, and keeps what is posted."""

    def __init__(self) -> None:
        self.posted: dict[str, bytes] = {}

    def respond(self, request: Message) -> Message:
        path = request.field(b":path").decode()
        if request.field(b":method") == b"POST":
            self.posted[path] = request.body
            return response(b"")
        return response(files()[path]) if path in files() else response(b"", 404)


def client_words(address: Address, *words: str) -> list[str]:
    host, port = address
    return ["gtlsclient", "--quiet", "--exit-on-all-streams-close", f"--sni={NAME}", host, str(port), *words]


def urls(*paths: str) -> list[str]:
    return [f"https://{NAME}{path}" for path in paths]


# --- Its client -------------------------------------------------------------------------------------------------------


@either_path
@pytest.mark.parametrize("retry", [False, True], ids=["", "retry"])
def test_its_client_fetches_from_us(stage: Stage, conditions: Conditions, retry: bool) -> None:
    async def main() -> None:
        server = http3.Server(Origin().respond)
        async with endpoint() as ours:
            config = stage.listen_config(http3.ALPN)
            ours.listen(replace(config, retry_above=0) if retry else config, server.accept)
            async with reached(ours.local_addresses[0], conditions, seed=SEED) as between:
                words = client_words(between.address, f"--download={stage.fetched}", *urls(*files()))
                async with program(words) as client:
                    await client.succeed()
                assert between.retries is retry
            assert server.peers[-1].settings is not None
        stage.check_fetched(files())

    within(main())


@either_path
def test_its_client_posts_to_us(stage: Stage, conditions: Conditions) -> None:
    async def main() -> None:
        origin = Origin()
        async with endpoint() as ours:
            ours.listen(stage.listen_config(http3.ALPN), http3.Server(origin.respond).accept)
            async with reached(ours.local_addresses[0], conditions, seed=SEED) as between:
                words = client_words(
                    between.address, "--http-method=POST", f"--data={stage.served / 'large'}", *urls("/a", "/b")
                )
                async with program(words) as client:
                    await client.succeed()
        assert origin.posted == {"/a": files()["/large"], "/b": files()["/large"]}

    within(main())


def test_its_client_updates_keys_and_moves(stage: Stage) -> None:
    """RFC 9001 §6, RFC 9000 §9: the client begins a key update, and then goes on from another port."""
    slow = Conditions(delay=0.002, rate=20e6)

    async def main() -> None:
        server = http3.Server(Origin().respond)
        async with endpoint() as ours:
            ours.listen(stage.listen_config(http3.ALPN), server.accept)
            async with reached(ours.local_addresses[0], slow, seed=SEED) as between:
                words = client_words(
                    between.address, f"--download={stage.fetched}", "--key-update=100ms", "--change-local-addr=300ms",
                    *urls(*files())
                )  # fmt: skip
                async with program(words) as client:
                    await client.succeed()
        stage.check_fetched(files())
        (peer,) = server.peers
        assert isinstance(peer.session, NativeSession)
        assert peer.session.connection.statistics()["key_updates"] == 1
        assert PathChange.VALIDATED in {event.change for event in peer.paths}

    within(main())


# --- Its server -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def served(stage: Stage, *words: str) -> AsyncIterator[Address]:
    """gtlsserver with the stage's files."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(LOOPBACK)
        address: Address = probe.getsockname()
    argv = ["gtlsserver", f"--htdocs={stage.served}", *words, address[0], str(address[1])]
    async with program([*argv, str(stage.key), str(stage.certificate)]):
        # Not awaited: what comes before it listens is lost, and sent again.
        yield address


@either_path
@pytest.mark.parametrize("retry", [False, True], ids=["", "retry"])
def test_we_fetch_from_its_server(stage: Stage, conditions: Conditions, retry: bool) -> None:
    async def main() -> None:
        async with (
            served(stage, "--quiet", *(["--validate-addr"] if retry else [])) as server,
            reached(server, conditions, seed=SEED) as between,
        ):
            peer = Http3()
            async with dialled(between.address, stage.dial_config(http3.ALPN), peer):
                paths = [path for path in files() if path != "/empty"]  # It says 404 of a file that is empty.
                answers = await asyncio.gather(*(peer.request("GET", NAME, path) for path in paths))
                assert [answer.field(b":status") for answer in answers] == [b"200"] * len(paths)
                assert {path: answer.body for path, answer in zip(paths, answers, strict=True)} == {
                    path: files()[path] for path in paths
                }
            assert between.retries is retry

    within(main())
