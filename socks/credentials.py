"""Who may use a listener: names and passwords, compared without telling how much of them was right.

Read RFC 1929 and RFC 7617. Both SOCKS5 and HTTP check against this one object.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from .errors import LocalError

MAX_LENGTH = 255
"""Bytes of a name or a password: RFC 1929 has one length octet for each."""


class Credentials:
    """Names and passwords of one listener, as bytes or text (taken as UTF-8).

    Raises LocalError for an empty table or name, a name or password over 255 bytes, or a name with a colon, which
    Basic (RFC 7617 §2) could not carry.
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[str, str]) -> None:
        if not entries:
            raise LocalError("no user is configured; give at least one name and password")
        checked = []
        for name, password in entries.items():
            raw_name, raw_password = name.encode(), password.encode()
            if not 1 <= len(raw_name) <= MAX_LENGTH:
                raise LocalError(f"a user name is empty or longer than {MAX_LENGTH} bytes; choose another")
            if ":" in name:
                raise LocalError("a user name contains a colon, which HTTP Basic cannot carry; choose another")
            if len(raw_password) > MAX_LENGTH:
                raise LocalError(
                    f"a password is longer than {MAX_LENGTH} bytes, the most SOCKS5 carries; choose another"
                )
            checked.append((raw_name, raw_password))
        self._entries = tuple(checked)

    def __repr__(self) -> str:
        return f"Credentials({len(self._entries)} users)"

    def check(self, name: bytes, password: bytes) -> bool:
        """Whether name and password belong together. Every entry is compared in full, in constant time for its
        length, so that the time taken says nothing about which names exist or how far a guess was right."""
        found = False
        for known_name, known_password in self._entries:
            same_name = hmac.compare_digest(known_name, name)
            same_password = hmac.compare_digest(known_password, password)
            found |= same_name & same_password
        return found
