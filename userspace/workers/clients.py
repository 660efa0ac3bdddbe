"""The list of clients as workers see it: every question goes to the supervisor, which alone reads and writes the file.

A question is answered while the worker waits, as it would wait for the file's lock without a supervisor: one message
each way on a unix socket, tens of microseconds, when a client comes and when the list has changed. A token is used up
by the supervisor, so it enrols once, whichever workers see it.
"""

from __future__ import annotations

import pickle
import socket
import time
from collections.abc import Iterable
from typing import Any

from ..enrolment import Registry
from ..state import LOCK_TIMEOUT, StateError
from ..tunnel.types import AuthFailure, AuthRefused, ClientAuthorised, TunnelLimits
from .ledger import Ledger

PATIENCE = LOCK_TIMEOUT + 5.0
"""Seconds that a worker waits for an answer: the supervisor may be waiting for the file's lock itself."""
LARGEST = 1 << 17
"""Octets of a message, well below what the kernel lets wait on a unix socket."""
KEYS_AT_ONCE = 500
"""Keys of one question, of about a hundred octets each."""


class RemoteClients:
    """Implements ``concentrator.Clients`` in a worker. connection: SOCK_SEQPACKET, blocking."""

    def __init__(self, connection: socket.socket, ledger: Ledger, patience: float = PATIENCE) -> None:
        self._connection = connection
        self._ledger = ledger
        self._patience = patience
        self._number = 0
        self.generation = 0
        """Grows with ``changed``."""

    def changed(self) -> None:
        """The supervisor says that the list is another one."""
        self.generation += 1

    def authorise(self, public_key: bytes, token: bytes, label: str, now: float) -> ClientAuthorised:
        answer = self._ask("authorise", public_key, token, label, now)
        if isinstance(answer, AuthFailure):
            raise AuthRefused(answer)
        authorised, row = answer
        assert isinstance(authorised, ClientAuthorised)
        self._ledger.learn(authorised.name, row)
        return authorised

    def refused(self, public_keys: Iterable[bytes]) -> set[bytes]:
        keys, found = list(public_keys), set()
        for at in range(0, len(keys), KEYS_AT_ONCE):
            found |= self._ask("refused", keys[at : at + KEYS_AT_ONCE])
        return found

    def limits_of(self, name: str) -> TunnelLimits | None:
        limits: TunnelLimits | None = self._ask("limits_of", name)
        return limits

    def poll(self) -> bool:
        """The supervisor watches the file."""
        return False

    def reload(self) -> None:
        """The supervisor has read it again."""

    def _ask(self, question: str, *arguments: Any) -> Any:
        self._number += 1
        deadline = time.monotonic() + self._patience
        try:
            self._connection.settimeout(self._patience)
            self._connection.send(pickle.dumps((self._number, question, arguments)))
            while True:
                self._connection.settimeout(max(0.001, deadline - time.monotonic()))
                data = self._connection.recv(LARGEST)
                if not data:
                    raise StateError("the supervisor is gone")
                number, failure, answer = pickle.loads(data)  # noqa: S301 - from ourselves, see channel
                if number == self._number:
                    break  # What comes before it answers a question that was given up.
        except OSError:
            raise StateError("the supervisor does not answer questions about clients") from None
        if failure:
            raise StateError(failure)
        return answer


def answer(data: bytes, registry: Registry, ledger: Ledger) -> bytes:
    """The supervisor's answer to a message of a worker's."""
    number, question, arguments = pickle.loads(data)  # noqa: S301 - from ourselves, see channel
    failure = ""
    result: Any = None
    try:
        if question == "authorise":
            try:
                authorised = registry.authorise(*arguments)
                result = authorised, ledger.row(authorised.name)
            except AuthRefused as refused:
                result = refused.failure
        elif question == "refused":
            result = registry.refused(*arguments)
        else:
            result = registry.limits_of(*arguments)
    except StateError as error:
        failure = str(error)
    return pickle.dumps((number, failure, result))
