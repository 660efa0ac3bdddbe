"""What every engine's sessions and streams must do, whatever is below them: the tests of the doors.

Put together here from its parts, ``contract_sessions``, ``contract_streams`` and ``contract_flow_control``, with one test
of all of them at once. Read first: ``joined``; a subclass says how two sessions are joined. Nothing here may know an engine.
"""

from __future__ import annotations

import hashlib
import random

import pytest

from .contract_flow_control import FlowControl
from .contract_sessions import HandshakesDatagramsAndEnds
from .contract_streams import StreamsOfEveryLife
from .joined import SMALL, Joined
from .recorders import StreamLog


class SessionContract(HandshakesDatagramsAndEnds, StreamsOfEveryLife, FlowControl):
    """The whole contract. A subclass gives ``join``."""

    @pytest.mark.parametrize("seed", range(3))
    def test_many_streams_of_random_life(self, seed: int) -> None:
        """Every octet is checked by hash, and every stream ends at both ends."""
        joined = self.join(SMALL, consume=False)
        chance = random.Random(seed)
        alive: list[tuple[StreamLog, bytearray, bytearray]] = []
        checked = 0
        for _ in range(400):
            if joined.client.streams_available() and chance.random() < 0.5:
                alive.append((StreamLog(joined.client.open_stream(), consume=False), bytearray(), bytearray()))
            if alive:
                near, there, back = chance.choice(alive)
                far = joined.server_log.logs.get(near.stream.id)
                for log, sent in ((near, there), (far, back)):
                    if log is not None and not log.paused and chance.random() < 0.7:
                        data = chance.randbytes(chance.randrange(5000))
                        log.stream.write(data)
                        sent += data
            if chance.random() < 0.4:
                joined.settle()
            for near, _, _ in alive:
                for log in (near, joined.server_log.logs.get(near.stream.id)):
                    _consume_some(log, chance)
            if len(alive) > 4:
                near, there, back = alive.pop(0)
                _finish(joined, near, there, back)
                checked += 1
        for near, there, back in alive:
            _finish(joined, near, there, back)
        assert checked > 20
        assert joined.client.statistics().streams_open == joined.server.statistics().streams_open == 0


_consumed: dict[int, int] = {}


def _consume_some(log: StreamLog | None, chance: random.Random | None) -> None:
    """Return the credit of some, or without chance of all, of what has arrived."""
    if log is None or log.consume:
        return
    before = _consumed.get(id(log), 0)
    size = len(log.data) - before
    if chance is not None:
        size = chance.randrange(size + 1)
    log.stream.consumed(size)
    _consumed[id(log)] = before + size


def _finish(joined: Joined, near: StreamLog, there: bytearray, back: bytearray) -> None:
    """Read everything, finish both directions, and compare."""
    if not there:
        near.stream.write(b"x")
        there += b"x"
    near.stream.finish()
    joined.settle()
    far = joined.server_log.logs[near.stream.id]
    far.stream.finish()
    for log in (near, far):
        _consume_some(log, None)
        _consumed.pop(id(log), None)
        log.consume = True
    joined.settle()
    assert hashlib.sha256(far.data).digest() == hashlib.sha256(there).digest()
    assert hashlib.sha256(near.data).digest() == hashlib.sha256(back).digest()
    assert {call[0] for call in near.calls} == {call[0] for call in far.calls} == {"eof", "sent"}
