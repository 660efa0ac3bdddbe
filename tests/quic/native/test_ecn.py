"""ECN (RFC 9000 §13.4) over real sockets: marks are tried, believed when they arrive, and given up when they do not."""

from __future__ import annotations

import asyncio
import sys

import pytest

from quicsocks.userspace.quic.batched_endpoint import BatchedEndpoint
from quicsocks.userspace.quic.types import Session, SessionHandler

from ..dialled import dial_config, listen_config
from ..recorders import SessionLog, StreamLog

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="marks are set by Linux's control messages")


async def exchange(*, engine_of_the_server: str) -> tuple[Session, Session]:
    """A megabyte from client to server; their sessions."""
    from quicsocks.userspace.quic.factory import open_endpoint

    server = await open_endpoint([("127.0.0.1", 0)], engine=engine_of_the_server)
    client = BatchedEndpoint([("127.0.0.1", 0)])
    accepted: list[tuple[Session, SessionLog]] = []

    def accept(session: Session) -> SessionHandler:
        accepted.append((session, SessionLog()))
        return accepted[-1][1]

    server.listen(listen_config(), accept)
    session = client.dial(server.local_addresses[0], dial_config(), SessionLog())
    near = StreamLog(session.open_stream())
    near.stream.write(bytes(200_000))
    near.stream.finish()
    while near.calls != [("sent",)]:
        await asyncio.sleep(0.001)
    statistics = session, accepted[0][0]
    await client.close()
    await server.close()
    return statistics


def test_marks_that_arrive_are_kept_up() -> None:
    near, far = asyncio.run(asyncio.wait_for(exchange(engine_of_the_server="native"), 20))
    assert near.statistics().ecn
    assert far.statistics().ecn


def test_a_peer_that_counts_no_marks_gets_none_for_long() -> None:
    """aioquic reports none."""
    near, _ = asyncio.run(asyncio.wait_for(exchange(engine_of_the_server="aioquic"), 20))
    assert not near.statistics().ecn
    assert near.statistics().packets_sent > 50
