"""QUIC handshakes that are begun and never finished, many and cheap, from many addresses of the test's own.

Read RFC 9000 §14.1 and RFC 9001 §5 first. One ClientHello made by aioquic is protected anew under a fresh connection ID
for each handshake, so a server must treat every one as a new connection. Nothing here ever answers the server.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from aioquic._buffer import Buffer
from aioquic.buffer import encode_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicPacketType, QuicProtocolVersion, encode_long_header_first_byte, pull_quic_header

from tests.interop.places import Place

INITIAL_SIZE = 1200
TAG_SIZE = 16


@dataclass(frozen=True, slots=True)
class Hello:
    """frames: the CRYPTO frame of a client's first Initial packet. source: its connection ID, which the transport
    parameters in the frame repeat (RFC 9000 §7.3), and which therefore stays."""

    frames: bytes
    source: bytes


def client_hello(server_name: str, alpn: str) -> Hello:
    """What aioquic says first."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=[alpn], server_name=server_name)
    connection = QuicConnection(configuration=configuration)
    connection.connect(("192.0.2.1", 443), now=0.0)
    datagram = bytes(connection.datagrams_to_send(now=0.0)[0][0])
    buffer = Buffer(data=datagram)
    header = pull_quic_header(buffer)
    pair = CryptoPair()
    pair.setup_initial(header.destination_cid, is_client=False, version=QuicProtocolVersion.VERSION_1)
    _, payload, _ = pair.decrypt_packet(datagram[: header.packet_length], buffer.tell(), 0)
    return Hello(bytes(payload).rstrip(b"\0"), bytes(header.source_cid))


def initial(hello: Hello, destination: bytes = b"", token: bytes = b"") -> bytes:
    """A datagram with hello (RFC 9000 §17.2.2), under a fresh random destination connection ID unless one is given."""
    destination = destination or os.urandom(8)
    pair = CryptoPair()
    pair.setup_initial(destination, is_client=True, version=QuicProtocolVersion.VERSION_1)
    first = encode_long_header_first_byte(QuicProtocolVersion.VERSION_1, QuicPacketType.INITIAL, 1)
    prefix = bytes([first]) + QuicProtocolVersion.VERSION_1.to_bytes(4, "big")
    prefix += bytes([len(destination)]) + destination + bytes([len(hello.source)]) + hello.source
    prefix += encode_uint_var(len(token)) + token
    # The length field takes two bytes: it counts the packet number (2), the payload and the tag.
    length = INITIAL_SIZE - len(prefix) - 2
    header = prefix + (0x4000 | length).to_bytes(2, "big") + b"\0\0"
    payload = hello.frames + b"\0" * (length - 2 - TAG_SIZE - len(hello.frames))
    return bytes(pair.encrypt_packet(header, payload, 0))


def flood(
    place: Place,
    sources: Sequence[str],
    target: tuple[str, int],
    count: int,
    hello: Hello,
    *,
    validated: bool = False,
) -> Iterator[int]:
    """Send count handshakes' beginnings, round-robin over source addresses; yields how many so far, every hundred.

    validated: answer each Retry, as one who really has the source address can, and stop only after that."""
    sockets = []
    try:
        for source in sources:
            sock = place.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
            sockets.append(sock)
            sock.bind((source, 0))
            sock.setblocking(False)
        for number in range(count):
            sock = sockets[number % len(sockets)]
            if validated:
                _answer_retries(sock, target, hello)
            sock.sendto(initial(hello), target)
            if number % 100 == 99:
                yield number + 1
    finally:
        for sock in sockets:
            sock.close()


def _answer_retries(sock: socket.socket, target: tuple[str, int], hello: Hello) -> None:
    """RFC 9000 §17.2.5.2: the same again, to the connection ID and with the token that the server has chosen."""
    with suppress(BlockingIOError):
        while True:
            datagram = sock.recv(2048)
            header = pull_quic_header(Buffer(data=datagram), host_cid_length=8)
            if header.packet_type is QuicPacketType.RETRY:
                sock.sendto(initial(hello, header.source_cid, header.token), target)
