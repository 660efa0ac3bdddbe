"""A session of the native engine between a client and a server that have several addresses."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from pathlib import Path

from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.types import Address, Limits, PathChange

from ...sim.link import Conditions
from ...sim.pair import SERVER
from ...sim.roads import SERVER_6, WIFI, WIFI_6, Roads
from ..dialled import Dialled, dial_config, listen, listen_config
from ..recorders import SessionLog, StreamLog

DEAD = Conditions(loss=1.0)


@dataclass
class Moving(Dialled):
    pair: Roads

    @property
    def native(self) -> NativeSession:
        assert isinstance(self.client, NativeSession)
        return self.client

    @property
    def changes(self) -> list[tuple[PathChange, Address, Address]]:
        """What the client was told of its paths: change, local and remote address."""
        return [(event.change, event.path.local, event.path.remote) for event in self.client_log.paths]

    def confirmed(self) -> Moving:
        self.complete()
        self.pair.settle(1.0)
        return self

    def download(self, size: int) -> Download:
        return Download(self, size)

    def carry(self, size: int, *, seconds: float = 60.0) -> float:
        """size octets up and down again, checked; the simulated seconds that it took."""
        transfer = Transfer(self, size)
        begun = self.pair.now
        self.pair.drive(lambda: transfer.done, seconds)
        transfer.check()
        return self.pair.now - begun


class Transfer:
    """size octets each way at once on a new stream, as backpressure lets them."""

    def __init__(self, moving: Moving, size: int) -> None:
        self.payload = random.Random(size).randbytes(size)
        self.near = StreamLog(moving.client.open_stream())
        self._moving = moving
        self._far: StreamLog | None = None
        feed(self.near, self.payload)

    @property
    def done(self) -> bool:
        if self._far is None:
            self._far = self._moving.server_log.logs.get(self.near.stream.id)
            if self._far is not None:
                feed(self._far, self.payload)
        return self._far is not None and ("eof",) in self._far.calls and ("eof",) in self.near.calls

    def check(self) -> None:
        assert self._far is not None
        expected = hashlib.sha256(self.payload).digest()
        assert hashlib.sha256(self._far.data).digest() == expected
        assert hashlib.sha256(self.near.data).digest() == expected


class Download:
    """A request of a few octets up, and size octets down; as backpressure lets them."""

    def __init__(self, moving: Moving, size: int) -> None:
        self.payload = random.Random(size).randbytes(size)
        self.near = StreamLog(moving.client.open_stream())
        self._moving = moving
        self._answered = False
        self.near.stream.write(b"the file, please")
        self.near.stream.finish()

    @property
    def done(self) -> bool:
        far = self._moving.server_log.logs.get(self.near.stream.id)
        if far is not None and not self._answered:
            self._answered = True
            feed(far, self.payload)
        return ("eof",) in self.near.calls

    def check(self) -> None:
        assert self.near.data == self.payload


def feed(log: StreamLog, payload: bytes) -> None:
    position = 0

    def more(call: tuple[object, ...] = ("resume",)) -> None:
        nonlocal position
        if call != ("resume",):
            return
        while not log.paused and position < len(payload):
            log.stream.write(payload[position : position + 65536])
            position += 65536
            if position >= len(payload):
                log.stream.finish()

    log.on_call = more
    more()


def dial(
    seed: int = 0,
    conditions: Conditions | None = None,
    *,
    preferred: tuple[Address, ...] = (),
    engines: tuple[str, str] | None = None,
    limits: Limits | None = None,
    keylog: Path | None = None,
    ipv6: bool = False,
) -> Moving:
    """Begin a handshake. engines: the client's, the server's. keylog: for ``wire``."""
    pair = Roads(seed, conditions, None, engines)
    limits = limits if limits is not None else Limits()
    sessions, logs = listen(pair, replace(listen_config(limits=limits), preferred_address=preferred))
    log = SessionLog()
    config = replace(dial_config(limits=limits), keylog=keylog)
    client = pair.dial_from(*((WIFI_6, SERVER_6) if ipv6 else (WIFI, SERVER)), config, log)
    return Moving(pair, client, log, logs, sessions)
