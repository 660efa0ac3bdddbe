"""How long to wait before the next attempt: exponential, capped, with jitter."""

from __future__ import annotations

import random

FIRST = 0.25
"""Seconds after the first failure: a concentrator that restarts is up again in about that."""
CAP = 3.0
"""A client must be back within 5 s of the concentrator's being up: this wait, and a handshake."""
SLOW = 30.0
"""Between attempts when trying again is unlikely to help: refused keys, wrong pins."""


class Backoff:
    """``next_delay`` doubles from FIRST to CAP; each is shortened by up to a third, so that many clients of one
    concentrator do not come back in step."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._delay = FIRST

    def next_delay(self, *, slow: bool = False) -> float:
        """Seconds to wait now. slow: for refusals."""
        base = SLOW if slow else self._delay
        self._delay = min(self._delay * 2, CAP)
        return base * self._rng.uniform(2 / 3, 1)

    def reset(self) -> None:
        """After a success."""
        self._delay = FIRST
