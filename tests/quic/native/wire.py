"""What a road has carried, read with the key log as Wireshark reads it: the frames of each 1-RTT packet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...sim.roads import Sent
from .forger import Parsed, Sealer, parse

CHALLENGE, RESPONSE = 0x1A, 0x1B
PROBING = {0x00, 0x18, CHALLENGE, RESPONSE}
"""Frames of packets that move nothing (RFC 9000 §9.1)."""


def read(sent: Sequence[Sent], keylog: Path, suite: int) -> list[tuple[Sent, list[Parsed]]]:
    """All datagrams of one session that begin with a short header. suite: TLS's number of its cipher suite."""
    secrets = {label: bytes.fromhex(secret) for label, _, secret in map(str.split, keylog.read_text().splitlines())}
    client, server = secrets["CLIENT_TRAFFIC_SECRET_0"], secrets["SERVER_TRAFFIC_SECRET_0"]
    readers = {True: Sealer(server, client, suite), False: Sealer(client, server, suite)}
    return [(one, parse(readers[one.up].open(one.data)[1])) for one in sent if one.cid]


def data_of(frames: Sequence[Parsed], kind: int) -> set[int]:
    """What the PATH_CHALLENGE or PATH_RESPONSE frames among them hold."""
    return {found[1] for found in frames if found[0] == kind}
