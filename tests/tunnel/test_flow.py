"""Flows between a client's and a concentrator's tunnel: opening, data, half-closes and the draft's mapping table."""

from __future__ import annotations

import pytest

from quicsocks.userspace.tunnel.types import BoundAddress
from tests.tunnel.support import BOUND, NAMED, Pair, flow_of


@pytest.mark.parametrize("alpn", ["quicsocks/1", "qt"])
@pytest.mark.parametrize("chunk_size", [1, 3, 1200])
def test_bytes_both_ways_and_an_orderly_end(alpn: str, chunk_size: int) -> None:
    pair = Pair(alpn=alpn, chunk_size=chunk_size)
    client, server = pair.established()
    assert client.bound == (BOUND if alpn == "quicsocks/1" else BoundAddress())
    flow_of(client).write(b"question")
    flow_of(server).write(b"answer")
    flow_of(client).finish()
    pair.link.run()
    assert (bytes(server.data), server.eof, bytes(client.data), client.eof) == (b"question", True, b"answer", False)
    assert not server.ended
    flow_of(server).write(b" and more")
    flow_of(server).finish()
    pair.link.run()
    assert client.data == b"answer and more"
    assert (client.ended, client.error, server.ended, server.error) == (1, None, 1, None)
    assert pair.client.open_flows == pair.concentrator.open_flows == 0


def test_names_arrive_as_they_are() -> None:
    pair = Pair()
    pair.open(NAMED)
    assert pair.program.requests[0].destination == NAMED
