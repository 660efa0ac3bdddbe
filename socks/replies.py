"""The one table from why a flow failed to what each protocol says about it.

Read RFC 1928 §6 (REP), the SOCKS4 note (CD), RFC 9209 §2.3 (Proxy-Status error types) and RFC 8941 (how that field is
written). Every front door answers from here, so that curl, ssh and a browser are told the same truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .types import Failure

PROXY_NAME: Final = "quicsocks"
"""The name in Proxy-Status: of the program, never of the machine or the user."""

MAX_DETAIL: Final = 200
"""Characters of a failure's detail that are passed on: one line for a person, whatever the far end sent."""


@dataclass(frozen=True, slots=True)
class Reply:
    """rep: RFC 1928 §6 REP, 1 to 8. cd: the SOCKS4 code, 90 to 93. status: HTTP. error: a token of RFC 9209 §2.3."""

    rep: int
    cd: int
    status: int
    error: str


_REJECTED = 0x5B

REPLIES: Final[dict[Failure, Reply]] = {
    Failure.REFUSED: Reply(0x05, _REJECTED, 502, "connection_refused"),
    Failure.NETWORK_UNREACHABLE: Reply(0x03, _REJECTED, 502, "destination_ip_unroutable"),
    Failure.HOST_UNREACHABLE: Reply(0x04, _REJECTED, 502, "destination_ip_unroutable"),
    # Dante and Tor answer a connect timeout with "TTL expired", for want of a better code.
    Failure.TIMED_OUT: Reply(0x06, _REJECTED, 504, "connection_timeout"),
    Failure.TTL_EXPIRED: Reply(0x06, _REJECTED, 502, "destination_ip_unroutable"),
    Failure.NAME_NOT_FOUND: Reply(0x04, _REJECTED, 502, "dns_error"),
    Failure.NAME_TIMEOUT: Reply(0x04, _REJECTED, 504, "dns_timeout"),
    Failure.DENIED: Reply(0x02, _REJECTED, 403, "http_request_denied"),
    # RFC 9209 §2.3.5 recommends 502 here. 403 says what is true for the person: trying again is of no use.
    Failure.ADDRESS_PROHIBITED: Reply(0x02, _REJECTED, 403, "destination_ip_prohibited"),
    Failure.FAMILY_UNSUPPORTED: Reply(0x08, _REJECTED, 502, "destination_ip_unroutable"),
    Failure.LOOP: Reply(0x01, _REJECTED, 502, "proxy_loop_detected"),
    Failure.LIMIT: Reply(0x01, _REJECTED, 503, "connection_limit_reached"),
    Failure.TUNNEL_DOWN: Reply(0x01, _REJECTED, 502, "connection_terminated"),
    Failure.TUNNEL_TIMEOUT: Reply(0x01, _REJECTED, 504, "connection_timeout"),
    Failure.RESET: Reply(0x01, _REJECTED, 502, "connection_terminated"),
    Failure.INTERNAL: Reply(0x01, _REJECTED, 500, "proxy_internal_error"),
}

REASONS: Final[dict[int, str]] = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}
"""Reason phrases of the statuses that we ourselves answer with (RFC 9110 §15)."""


def proxy_status(error: str, details: str = "") -> str:
    """The value of a Proxy-Status field (RFC 9209 §2) with one member, ours."""
    value = f"{PROXY_NAME}; error={error}"
    if details:
        value += f'; details="{_sf_string(details)}"'
    return value


def printable(text: str) -> str:
    """text cut to one line of visible ASCII of at most 200 characters, for headers and bodies."""
    clean = "".join(c if " " <= c <= "~" else "?" for c in text)
    return clean if len(clean) <= MAX_DETAIL else clean[: MAX_DETAIL - 3] + "..."


def _sf_string(text: str) -> str:
    # RFC 8941 §3.3.3: visible ASCII and space; backslash and quote are escaped.
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')
