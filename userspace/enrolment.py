"""Who may use a concentrator: its clients, their keys, and the tokens with which keys are enrolled.

One file in the state folder, ``clients.json``, is the truth; the running concentrator and the command line both change
it, under the folder's lock, and the concentrator reads it again when told to (control socket, SIGHUP) or when ``poll``
sees that it changed. Tokens are stored as SHA-256 digests only: they are random and 256 bits long, so that a digest
needs neither salt nor stretching, and they are compared in constant time. The clock is passed in (Unix time).

A key is enrolled by a token, once, before the token expires; after that the key alone counts. A client has one key:
enrolling another one with a new token retires the first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .link import is_name
from .state import StateError, StateFolder
from .tunnel.types import AuthFailure, AuthRefused, ClientAuthorised, TunnelLimits

CLIENTS_FILE = "clients.json"
TOKEN_SIZE = 32
"""Bytes of a token: no guessing, and no key stretching needed."""
TOKEN_LIFETIME = 7 * 86400.0
"""Seconds that a token waits to be used: long enough for a mail, short enough for one that leaks later."""
MAX_CLIENTS = 10_000
"""Clients of one concentrator; every enrolment rewrites the file, of about 500 bytes each."""
MAX_RETIRED_KEYS = 32
"""Former keys of one client that are still answered with "revoked" rather than "unknown"."""
MAX_LABEL = 64
SEEN_INTERVAL = 300.0
"""Seconds between two writes of one client's last_seen, so that reconnecting clients do not wear out the disk."""
_FORMAT = 1


class EnrolmentError(StateError):
    """A change to the list of clients is not possible; the message is one line for a person."""


@dataclass(frozen=True, slots=True)
class Token:
    """An enrolment token's trace. digest: SHA-256, hex. Times: Unix time."""

    digest: str
    created: float
    expires: float
    used: float | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """One client. key: SHA-256 (hex) of its public key in DER, empty before it enrols. Times: Unix time.

    label: what the client called itself when it enrolled. limits: its own instead of the concentrator's, None for
    those. retired: former keys.
    """

    name: str
    created: float
    key: str = ""
    label: str = ""
    enrolled: float | None = None
    last_seen: float | None = None
    revoked: float | None = None
    limits: TunnelLimits | None = None
    token: Token | None = None
    retired: tuple[str, ...] = ()

    def state(self, now: float) -> str:
        """One word or two for a list: revoked, enrolled, invited, or invitation expired."""
        if self.revoked is not None:
            return "revoked"
        if self.key:
            return "enrolled"
        if self.token is not None and now < self.token.expires:
            return "invited"
        return "invitation expired"


class Registry:
    """The clients of one concentrator. defaults: limits of clients that have none of their own.

    Every method may raise StateError when the file cannot be read or written.
    """

    def __init__(self, folder: StateFolder, defaults: TunnelLimits | None = None) -> None:
        self._by_key: dict[str, Client] = {}
        self._clients: dict[str, Client] = {}
        self._folder = folder
        self._signature: tuple[int, int, int] | None = None
        self.generation = 0
        """Grows with every change of the list, whoever made it and whatever made us read it."""
        self.defaults = defaults if defaults is not None else TunnelLimits()
        self.reload()

    def clients(self) -> tuple[Client, ...]:
        """All of them, by name."""
        return tuple(self._clients[name] for name in sorted(self._clients))

    def client(self, name: str) -> Client | None:
        """The client of that name."""
        return self._clients.get(name)

    def add(
        self, name: str, now: float, *, lifetime: float = TOKEN_LIFETIME, limits: TunnelLimits | None = None
    ) -> bytes:
        """Add a client and return the token for its link, which is kept nowhere. Raises EnrolmentError."""
        if not is_name(name):
            raise EnrolmentError(f"{name!r} cannot be a client's name; use up to 63 letters, digits, '.', '_' and '-'")
        with self._changing():
            if name in self._clients:
                raise EnrolmentError(
                    f"there is a client {name} already; for a new link run: quicsocks client link {name}"
                )
            if len(self._clients) >= MAX_CLIENTS:
                raise EnrolmentError(f"there are {MAX_CLIENTS} clients already, the most that one concentrator takes")
            token, trace = _new_token(now, lifetime)
            self._put(Client(name=name, created=now, limits=limits, token=trace))
        return token

    def new_token(self, name: str, now: float, *, lifetime: float = TOKEN_LIFETIME) -> bytes:
        """A new token for a client; the old one is retired, and a revocation lifted for whoever has the new one.

        The client's present key, unless it was revoked, works until another one enrols. Raises EnrolmentError.
        """
        with self._changing():
            client = self._existing(name)
            token, trace = _new_token(now, lifetime)
            if client.revoked is not None:
                client = dataclasses.replace(client, revoked=None, key="", enrolled=None, retired=_retire(client))
            self._put(dataclasses.replace(client, token=trace))
        return token

    def revoke(self, name: str, now: float) -> Client:
        """Refuse a client, its key and its token, from now on. Raises EnrolmentError. Harmless when repeated."""
        with self._changing():
            client = self._existing(name)
            if client.revoked is None:
                client = dataclasses.replace(client, revoked=now, token=None)
                self._put(client)
        return client

    def authorise(self, public_key: bytes, token: bytes, label: str, now: float) -> ClientAuthorised:
        """Answer a proven key: the client it belongs to, or that its token enrols it as.

        Raises AuthRefused, and StateError when an enrolment could not be written down and so did not happen.
        """
        self.poll()  # a client revoked this very moment must not come in
        digest = hashlib.sha256(public_key).hexdigest()
        client = self._by_key.get(digest)
        if client is not None and client.revoked is None:
            self._seen(client, now)
            return self._authorised(client)
        if not token:
            raise AuthRefused(self._refusal(digest))
        try:
            return self._authorised(self._enrol(digest, token, label, now))
        except AuthRefused:
            # Clients go on sending the token of their link: a revoked one wants to hear that, not that its token is old.
            if self._refusal(digest) is AuthFailure.REVOKED:
                raise AuthRefused(AuthFailure.REVOKED) from None
            raise

    def check(self, public_key: bytes) -> AuthFailure | None:
        """Why a key that was authorised earlier is not any more; None while it is."""
        digest = hashlib.sha256(public_key).hexdigest()
        client = self._by_key.get(digest)
        if client is not None and client.revoked is None:
            return None
        return self._refusal(digest)

    def refused(self, public_keys: Iterable[bytes]) -> set[bytes]:
        """Those of the keys that are not welcome any more."""
        return {key for key in public_keys if self.check(key) is not None}

    def limits_of(self, name: str) -> TunnelLimits | None:
        """A client's own limits; None when it has none, or does not exist."""
        client = self._clients.get(name)
        return client.limits if client is not None else None

    def poll(self) -> bool:
        """Read the file again if it has changed; whether it had. One stat call when it has not."""
        if self._file_signature() == self._signature:
            return False
        self.reload()
        return True

    def reload(self) -> None:
        """Read the file again; what was known stays when it cannot be read."""
        signature = self._file_signature()
        data = self._folder.read(CLIENTS_FILE)
        clients = _parse(data, str(self._folder.file(CLIENTS_FILE))) if data is not None else ()
        self._clients = {client.name: client for client in clients}
        self._by_key = {client.key: client for client in clients if client.key}
        self._signature = signature
        self.generation += 1

    def _enrol(self, key: str, token: bytes, label: str, now: float) -> Client:
        with self._changing() as change:
            client = self._by_token(token)
            if client is None or client.token is None:
                change.abandon()
                raise AuthRefused(AuthFailure.TOKEN_UNKNOWN)
            if client.token.used is not None:
                # Used by this very key: it has been replaced or revoked since, or it would have been known.
                known_once = key in client.retired
                change.abandon()
                raise AuthRefused(AuthFailure.REVOKED if known_once else AuthFailure.TOKEN_USED)
            if now >= client.token.expires:
                change.abandon()
                raise AuthRefused(AuthFailure.TOKEN_EXPIRED)
            former = self._by_key.get(key)
            if former is not None and former.name != client.name:
                # A revoked client's machine that was invited anew under another name.
                self._put(dataclasses.replace(former, key="", retired=_retire(former)))
            client = dataclasses.replace(
                client,
                key=key,
                label=_printable(label),
                enrolled=now,
                last_seen=now,
                token=dataclasses.replace(client.token, used=now),
                retired=tuple(old for old in _retire(client) if old != key),
            )
            self._put(client)
        return client

    def _seen(self, client: Client, now: float) -> None:
        if client.last_seen is not None and 0 <= now - client.last_seen < SEEN_INTERVAL:
            return
        try:
            with self._changing():
                current = self._clients.get(client.name)
                if current is not None:
                    self._put(dataclasses.replace(current, last_seen=now))
        except StateError:
            # A full disk must not lock out a client that is known.
            self._put(dataclasses.replace(client, last_seen=now))

    def _refusal(self, key: str) -> AuthFailure:
        if key in self._by_key or any(key in client.retired for client in self._clients.values()):
            return AuthFailure.REVOKED
        return AuthFailure.UNKNOWN_KEY

    def _by_token(self, token: bytes) -> Client | None:
        digest = hashlib.sha256(token).hexdigest()
        found = None
        # To the end each time: how long it takes says nothing about which digest came close.
        for client in self._clients.values():
            if client.token is not None and hmac.compare_digest(client.token.digest, digest):
                found = client
        return found

    def _authorised(self, client: Client) -> ClientAuthorised:
        return ClientAuthorised(client.name, client.limits if client.limits is not None else self.defaults)

    def _existing(self, name: str) -> Client:
        client = self._clients.get(name)
        if client is None:
            known = ", ".join(sorted(self._clients)[:10]) or "none yet"
            raise EnrolmentError(f"there is no client {name!r}; the clients are: {known}")
        return client

    def _put(self, client: Client) -> None:
        old = self._clients.get(client.name)
        if old is not None and old.key and self._by_key.get(old.key) is old:
            del self._by_key[old.key]
        self._clients[client.name] = client
        if client.key:
            self._by_key[client.key] = client

    def _changing(self) -> _Change:
        return _Change(self)

    def _file_signature(self) -> tuple[int, int, int] | None:
        # A write is a rename, so the inode changes even when size and time do not.
        try:
            info = os.stat(self._folder.file(CLIENTS_FILE))
        except OSError:
            return None
        return info.st_ino, info.st_mtime_ns, info.st_size

    def _save(self) -> None:
        self._folder.write(CLIENTS_FILE, _format(self.clients()))
        self._signature = self._file_signature()
        self.generation += 1


class _Change:
    """Lock, read the newest file, let the caller change it, write it. On an exception memory becomes the file again."""

    def __init__(self, registry: Registry) -> None:
        self._abandoned = False
        self._lock = registry._folder.locked()
        self._registry = registry

    def abandon(self) -> None:
        self._abandoned = True

    def __enter__(self) -> _Change:
        self._lock.__enter__()
        try:
            self._registry.poll()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None and not self._abandoned:
                try:
                    self._registry._save()
                except BaseException:
                    self._registry.reload()
                    raise
            elif error is not None and not self._abandoned:
                self._registry.reload()
        finally:
            self._lock.__exit__(None, None, None)


def _new_token(now: float, lifetime: float) -> tuple[bytes, Token]:
    token = secrets.token_bytes(TOKEN_SIZE)
    return token, Token(hashlib.sha256(token).hexdigest(), now, now + lifetime)


def _retire(client: Client) -> tuple[str, ...]:
    if not client.key:
        return client.retired
    return (*(old for old in client.retired if old != client.key), client.key)[-MAX_RETIRED_KEYS:]


def _printable(label: str) -> str:
    """The label comes from the network and is shown on terminals."""
    return "".join(character if character.isprintable() else "?" for character in label[:MAX_LABEL])


def _format(clients: Iterable[Client]) -> bytes:
    rows = []
    for client in clients:
        row = {key: value for key, value in dataclasses.asdict(client).items() if value not in (None, "", ())}
        rows.append(row)
    return (json.dumps({"version": _FORMAT, "clients": rows}, indent=1) + "\n").encode("ascii")


def _parse(data: bytes, path: str) -> tuple[Client, ...]:
    try:
        document = json.loads(data)
        if document["version"] != _FORMAT:
            raise StateError(f"{path} was written by a newer version of quicsocks; upgrade this one")
        return tuple(_parse_client(row) for row in document["clients"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise StateError(
            f"{path} is damaged; restore it from a copy, or move it away and invite all clients anew"
        ) from None


def _parse_client(row: dict[str, Any]) -> Client:
    fields = dict(row)
    if isinstance(fields.get("token"), dict):
        fields["token"] = Token(**fields["token"])
        if not isinstance(fields["token"].digest, str):
            raise ValueError("token")
    if isinstance(fields.get("limits"), dict):
        fields["limits"] = TunnelLimits(**fields["limits"])
    fields["retired"] = tuple(str(key) for key in fields.get("retired", ()))
    client = Client(**fields)
    if not is_name(client.name) or not isinstance(client.key, str) or not isinstance(client.created, (int, float)):
        raise ValueError("client")
    return client
