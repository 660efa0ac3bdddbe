"""The two roots of every error of the front doors.

``PeerError`` is the only exception that bytes from a client or from a destination may raise; fuzz targets assert it.
Neither carries a secret: messages may be shown to anyone who may read the log.
"""

from __future__ import annotations


class LocalError(Exception):
    """Our caller used an interface wrongly, or asked for what is not to be had; one line that a person understands."""


class PeerError(Exception):
    """The other side broke its protocol, or asked for what its protocol lets us refuse.

    reply: the bytes to answer with before closing, complete, b"" where the protocol has no answer for the case.
    status: the HTTP status that says the same, 0 outside of HTTP.
    """

    def __init__(self, message: str, *, reply: bytes = b"", status: int = 0) -> None:
        super().__init__(message)
        self.reply = reply
        self.status = status


class AccessDenied(PeerError):
    """The client may not use this listener: a wrong password, or no way of giving one."""
