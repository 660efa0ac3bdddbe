"""What ended or prevented a connection to the concentrator, as one line for a person that says what to do."""

from __future__ import annotations

from dataclasses import dataclass

from .quic.errors import End, Ended
from .tunnel.types import AuthFailure, CloseCode

CANNOT_RESOLVE = "cannot resolve"
"""How the reason of an Ended begins when the concentrator's name has no address: nothing was tried at all."""
_NEW_LINK = "get a new link (on the concentrator: quicsocks client link NAME)"

_AUTH = {
    AuthFailure.UNKNOWN_KEY: f"the concentrator does not know this client's key; {_NEW_LINK}",
    AuthFailure.BAD_PROOF: "the concentrator did not accept the proof of this client's key; is something between the "
    "two that terminates TLS?",
    AuthFailure.REVOKED: f"this client has been revoked on the concentrator; ask its owner, or {_NEW_LINK}",
    AuthFailure.TOKEN_UNKNOWN: f"the concentrator does not know the link's token; it may have been replaced: {_NEW_LINK}",
    AuthFailure.TOKEN_USED: f"the link's token has been used by another client; {_NEW_LINK}",
    AuthFailure.TOKEN_EXPIRED: f"the link's token has expired; {_NEW_LINK}",
    AuthFailure.TIMED_OUT: "the concentrator did not get this client's authentication in time",
    AuthFailure.METHOD_UNSUPPORTED: "the concentrator does not support this client's authentication method; update both",
}

_ENDS = {
    End.UNTRUSTED: "the concentrator's key or certificate is not the expected one, so nothing was sent to it; if it was "
    f"changed on purpose, {_NEW_LINK}",
    End.ALPN_MISMATCH: "the concentrator does not speak this client's protocol; update both, or check the link's alpn=",
    End.HANDSHAKE_TIMED_OUT: "no answer; check the address, that the concentrator runs, and that UDP is let through",
    End.UNREACHABLE: "nothing listens there, or the network does not carry packets to it; check the address and that "
    "the concentrator runs",
    End.PEER_RESET: "the concentrator no longer knows this connection; it has probably been restarted",
    End.TIMED_OUT: "nothing has been heard from the concentrator for too long",
    End.VERSION_MISMATCH: "no QUIC version in common; update both",
    End.REFUSED: "the concentrator takes no connections now",
}


NOTHING_IN_COMMON = 0x128
"""QUIC's code for TLS's alert handshake_failure (RFC 9001 §4.8, RFC 8446 §6.2): no cipher suite, group or signature
algorithm that both ends allow."""
_WITH_REASON = (End.UNTRUSTED, End.ALPN_MISMATCH, End.UNREACHABLE, End.TIMED_OUT)


@dataclass(frozen=True, slots=True)
class Refusal:
    """final: trying again at once is of no use, and a client that was never connected gives up (exit code 3)."""

    text: str
    final: bool


def explain(ended: Ended) -> Refusal:
    """Turn how a session ended into what to say and whether to go on."""
    if ended.end is End.PEER_CLOSED and ended.code is not None:
        for failure, text in _AUTH.items():
            if ended.code == failure:
                return Refusal(text, final=failure is not AuthFailure.TIMED_OUT)
        if ended.code == CloseCode.GOING_AWAY:
            return Refusal("the concentrator is shutting down", final=False)
    if ended.end is End.TLS_FAILED and ended.code == NOTHING_IN_COMMON:
        why = ended.reason.rstrip(".") or "handshake failure"
        text = f"no algorithms in common ({why}); give both ends the same --crypto-profile, and update both"
        return Refusal(text, final=False)
    text = _ENDS.get(ended.end, str(ended))
    if ended.reason and ended.end in _WITH_REASON:
        if ended.reason.startswith(CANNOT_RESOLVE):
            text = f"{ended.reason}; check the name in the link, and that this machine can resolve names"
        else:
            what, _, hint = text.partition("; ")
            text = f"{what} ({ended.reason.rstrip('.')})" + (f"; {hint}" if hint else "")
    return Refusal(text, final=ended.end in (End.UNTRUSTED, End.ALPN_MISMATCH))
