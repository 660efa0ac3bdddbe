"""The one place that touches aioquic's private names. Everything else in this room uses what it offers.

aioquic is used unmodified, by subclassing. What it lacks for a tunnel, and what is done about it here:

 - it raises its windows on receipt of data; here the session says when (``raise_max_data``, ``raise_max_stream_data``);
 - it looks at every stream for every packet; here only those with something to send are looked at, by priority;
 - it answers STOP_SENDING by itself; here the handler does;
 - it pads Initials to the largest datagram; here they have 1200 octets, and larger datagrams are probed for first;
 - it keeps the peer's certificate, its reset token and the TLS exporter secret to itself;
 - a client of its protects Initials for the version that it began with when the server has changed over;
 - it takes a max_idle_timeout of 0 for "at once" and forgets the peer's ack_delay_exponent and max_udp_payload_size.

``streams`` holds the halves of streams, ``sending`` what goes into packets, ``connection`` the rest; ``handshaker`` is
what the native engine has of aioquic, a connection without application data, with its parameters beside it. Read
aioquic.quic.connection (exactly the release named below), RFC 9000 and RFC 9002 first. tests/quic/
test_aioquic_internals.py has a test for each name that we lean on. Nothing in here may import asyncio, socket, time or
random.
"""

from __future__ import annotations

import logging

import aioquic

from .rarely import import_without

AIOQUIC_VERSION = "1.7.2"

if aioquic.__version__ != AIOQUIC_VERSION:
    raise ImportError(
        f"aioquic {aioquic.__version__} is installed, but this program leans on internals of exactly {AIOQUIC_VERSION}: "
        f"pip install aioquic=={AIOQUIC_VERSION}"
    )

# Without a handler of its own, Python prints a library's warnings to stderr: any stranger's packet could cause some.
logging.getLogger("quic").addHandler(logging.NullHandler())

# Whoever imports something of aioquic's imports this room first; see ``factory``.
import_without("aioquic.tls")
