"""What each client uses, counted by all workers in memory that they share: no quota grows with the number of workers.

A table of numbers, a row a client and a column a worker. The supervisor makes it, gives out the rows, and clears the
column of a worker that has ended; a worker writes into its own column and reads the others'. So there is nothing to
lock: a number is written at once by the processor. Two workers that open a flow in the same microsecond may both be
within a limit that they exceed together, by one flow a worker at most.
"""

from __future__ import annotations

import mmap
import os

from ..egress.limits import Use
from ..enrolment import MAX_CLIENTS
from ..served_client import BARE_QT
from ..state import StateError

ROWS = MAX_CLIENTS + 1
"""All clients that there can be, and all those of the bare draft together."""
_NUMBER = 8
_FIELDS = len(Use)


class Ledger:
    """descriptor: of the memory, None to make it. workers: how many columns there are."""

    def __init__(self, workers: int, descriptor: int | None = None) -> None:
        size = ROWS * workers * _FIELDS * _NUMBER
        if descriptor is None:
            descriptor = os.memfd_create("quicsocks-clients")
            # Sparse: rows that nobody has take no memory.
            os.ftruncate(descriptor, size)
        self.descriptor = descriptor
        self._workers = workers
        self._memory = mmap.mmap(descriptor, size)
        self._numbers = memoryview(self._memory).cast("q")
        self._rows: dict[str, int] = {BARE_QT: 0}

    def row(self, name: str) -> int:
        """The supervisor's: the row of a client, for as long as it runs. Raises StateError when there are no more."""
        row = self._rows.setdefault(name, len(self._rows))
        if row >= ROWS:
            del self._rows[name]
            raise StateError(f"more than {MAX_CLIENTS} clients have come since the start; restart the concentrator")
        return row

    def learn(self, name: str, row: int) -> None:
        """A worker's: what the supervisor has answered."""
        self._rows[name] = row

    def account(self, name: str, worker: int) -> SharedAccount:
        """A client's numbers as worker sees them. The name's row must be known."""
        return SharedAccount(self._numbers, self._rows[name] * self._workers * _FIELDS, worker, self._workers)

    def clear(self, worker: int) -> None:
        """Forget what a worker counted."""
        for row in self._rows.values():
            start = (row * self._workers + worker) * _FIELDS
            for use in Use:
                self._numbers[start + use] = 0

    def close(self) -> None:
        """Accounts must not be used afterwards."""
        self._numbers.release()
        self._memory.close()
        os.close(self.descriptor)


class SharedAccount:
    """Implements ``egress.limits.Account``."""

    __slots__ = ("_numbers", "_others", "_own")

    def __init__(self, numbers: memoryview[int], start: int, worker: int, workers: int) -> None:
        self._numbers = numbers
        self._own = start + worker * _FIELDS
        self._others = [start + other * _FIELDS for other in range(workers) if other != worker]

    def publish(self, use: Use, value: int) -> None:
        self._numbers[self._own + use] = value

    def others(self, use: Use) -> int:
        return sum(self._numbers[start + use] for start in self._others)
