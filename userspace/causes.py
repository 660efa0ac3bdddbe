"""One table between what a tunnel flow fails with and what a front door tells the application."""

from __future__ import annotations

from quicsocks.socks.types import Failure, FlowError

from .tunnel.types import Cause, FlowFailed

FAILURES: dict[Cause, Failure] = {
    Cause.UNKNOWN_TLV: Failure.INTERNAL,
    Cause.ICMP_RECEIVED: Failure.HOST_UNREACHABLE,
    Cause.MALFORMED_TLV: Failure.ADDRESS_PROHIBITED,
    Cause.NETWORK_FAILURE: Failure.REFUSED,
    Cause.REFUSED: Failure.REFUSED,
    Cause.NETWORK_UNREACHABLE: Failure.NETWORK_UNREACHABLE,
    Cause.HOST_UNREACHABLE: Failure.HOST_UNREACHABLE,
    Cause.TIMED_OUT: Failure.TIMED_OUT,
    Cause.TTL_EXPIRED: Failure.TTL_EXPIRED,
    Cause.NAME_NOT_FOUND: Failure.NAME_NOT_FOUND,
    Cause.NAME_TIMEOUT: Failure.NAME_TIMEOUT,
    Cause.DENIED: Failure.DENIED,
    Cause.ADDRESS_PROHIBITED: Failure.ADDRESS_PROHIBITED,
    Cause.FAMILY_UNSUPPORTED: Failure.FAMILY_UNSUPPORTED,
    Cause.LOOP: Failure.LOOP,
    Cause.LIMIT: Failure.LIMIT,
    Cause.RESET: Failure.RESET,
    Cause.NOT_AUTHENTICATED: Failure.TUNNEL_DOWN,
    Cause.GOING_AWAY: Failure.TUNNEL_DOWN,
    Cause.INTERNAL: Failure.INTERNAL,
}
"""On bare ``qt`` a destination with a loopback address is Malformed TLV by the draft, hence ADDRESS_PROHIBITED; and
"network failure" is how it reports a RST to the SYN."""


def to_flow_error(failed: FlowFailed) -> FlowError:
    """What the application is told of a flow that failed in the tunnel."""
    return FlowError(FAILURES.get(failed.cause, Failure.INTERNAL), failed.detail)
