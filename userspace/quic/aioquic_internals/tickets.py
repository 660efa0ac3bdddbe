"""Session tickets (RFC 8446 §4.6.1), made with aioquic's key schedule.

aioquic gives out one ticket a connection, good for a day and for early data; here the caller says how many, for how long
and for what. Part of the guarded room; see ``__init__``.
"""

from __future__ import annotations

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined] # re-exported silently
from aioquic.quic.connection import MAX_EARLY_DATA

ROOM = 512
"""Octets of a NewSessionTicket message with an identity of ours, and some to spare."""


def make_ticket(
    context: tls.Context, *, identity: bytes, nonce: bytes, age_add: int, lifetime: int, early_data: bool
) -> tuple[bytes, tls.SessionTicket] | None:
    """A NewSessionTicket message of a server whose handshake is complete, and what to keep for when it comes back. None:
    the client has not offered a key exchange with which it could use one. nonce: another one for each ticket.
    lifetime: s. early_data: 0-RTT is allowed with it."""
    if context._psk_key_exchange_mode is None:
        return None
    message = tls.NewSessionTicket(
        ticket_lifetime=lifetime,
        ticket_age_add=age_add,
        ticket_nonce=nonce,
        ticket=identity,
        max_early_data_size=MAX_EARLY_DATA if early_data else None,
    )
    buffer = Buffer(capacity=ROOM)
    tls.push_new_session_ticket(buffer, message)
    return buffer.data, context._build_session_ticket(message, context.handshake_extensions)


def without_early_data(ticket: tls.SessionTicket) -> tls.SessionTicket:
    """The same ticket, with which aioquic's client offers no early data."""
    return tls.SessionTicket(
        age_add=ticket.age_add,
        cipher_suite=ticket.cipher_suite,
        not_valid_after=ticket.not_valid_after,
        not_valid_before=ticket.not_valid_before,
        resumption_secret=ticket.resumption_secret,
        server_name=ticket.server_name,
        ticket=ticket.ticket,
        other_extensions=ticket.other_extensions,
    )
