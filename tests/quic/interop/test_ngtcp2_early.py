"""Resumption and early data with ngtcp2's own client and server: the scenarios "resumption" and "zerortt" of the QUIC
interop runner, over a clean path and a bad one."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.resumption import ClientTickets
from quicsocks.userspace.quic.types import Resumption

from ...sim.link import Conditions
from . import http3
from .http3 import Http3
from .program import program, required
from .stage import NAME, Stage, either_path, endpoint, files, reached, within
from .test_ngtcp2 import Origin, client_words, served, urls

pytestmark = [pytest.mark.programs, required("ngtcp2-client ngtcp2-server", "gtlsclient", "gtlsserver")]

PATHS = [f"/small-{number}" for number in range(1, 9)]


@either_path
@pytest.mark.parametrize("early_data", [False, True], ids=["resumption", "zerortt"])
def test_its_client_comes_back_to_us(stage: Stage, conditions: Conditions, early_data: bool) -> None:
    async def main() -> None:
        server = http3.Server(Origin().respond)
        async with endpoint() as ours:
            config = stage.listen_config(http3.ALPN)
            ours.listen(replace(config, resumption=Resumption(early_data=early_data)), server.accept)
            async with reached(ours.local_addresses[0], conditions, seed=2225547) as between:
                words = [
                    f"--download={stage.fetched}",
                    f"--session-file={stage.fetched / 'session'}",
                    f"--tp-file={stage.fetched / 'parameters'}",
                ]
                for _ in range(3):
                    async with program(client_words(between.address, *words, *urls(*PATHS))) as client:
                        await client.succeed()
                    stage.check_fetched({path: files()[path] for path in PATHS})
            sessions = [peer.session for peer in server.peers if peer.completed.done()]
            assert len(sessions) == 3
            for session, back in zip(sessions, (False, True, True), strict=True):
                assert isinstance(session, NativeSession)
                assert session.is_resumed is back
                early = session.connection.statistics()["zero_rtt_received"]
                assert (early > 0) is (back and early_data)

    within(main())


class Eager(Http3):
    """Asks at once. sent_early: octets of requests that were sent before the handshake was complete."""

    sent_early = 0

    def handshake_completed(self) -> None:
        self.sent_early = self.joined.statistics().stream_bytes_sent
        super().handshake_completed()


@either_path
@pytest.mark.parametrize("early_data", [False, True], ids=["resumption", "zerortt"])
def test_we_come_back_to_its_server(stage: Stage, conditions: Conditions, early_data: bool) -> None:
    tickets = ClientTickets()

    async def main() -> None:
        async with (
            served(stage, "--quiet") as server,
            reached(server, conditions, seed=2225547) as between,
            endpoint() as ours,
        ):
            config = replace(stage.dial_config(http3.ALPN), tickets=tickets, early_data=early_data)
            for back in (False, True, True):
                peer = Eager()
                session = peer.session = ours.dial(between.address, config, peer)
                answers = await asyncio.gather(*(peer.request("GET", NAME, path) for path in PATHS))
                assert [answer.body for answer in answers] == [files()[path] for path in PATHS]
                assert isinstance(session, NativeSession)
                assert session.is_resumed is back
                assert session.early_data_accepted is (back and early_data)
                assert (peer.sent_early > 0) is (back and early_data)

    within(main())
