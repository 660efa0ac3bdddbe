"""Byte scripts for SOCKS servers, and what a run of one looks like in a line of text.

A script is a list of things that an application does on one connection; its outcome is what came back, with addresses
blotted out, and how the connection ended. Scripts name no server: the differential test runs each against several.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.interop.dialogue import NO_AUTHENTICATION, socks5_request
from tests.interop.proxies import Proxy
from tests.interop.system import NAME, ORIGIN_V4, ORIGIN_V6, UNREACHABLE_V4, UNROUTED_V4, System

FIN = "fin"
"""A step: half-close."""
ANSWER = "answer"
"""A step: wait until something has come back."""
QUIET = 1.5
"""Seconds without a byte after which a connection counts as left open."""
PAYLOAD = b"payload of a flow"


@dataclass(frozen=True, slots=True)
class Script:
    """steps: bytes to send, FIN or ANSWER. one_by_one: each byte in a segment of its own."""

    steps: Sequence[bytes | str]
    one_by_one: bool = False


def scripts(system: System) -> dict[str, Script]:
    """For servers without a password."""
    port = system.mannerly.port
    hello = NO_AUTHENTICATION
    connect = socks5_request(ORIGIN_V4, port)
    name = NAME.encode()
    tail = struct.pack("!H", port)
    socks4 = b"\x04\x01" + tail + ipaddress.IPv4Address(ORIGIN_V4).packed + b"user\x00"
    socks4a = b"\x04\x01" + tail + b"\x00\x00\x00\x01" + b"user\x00" + b"v4." + name + b"\x00"

    def asks(request: bytes) -> Script:
        return Script([hello, ANSWER, request])

    return {
        # What applications do
        "connect, step by step": Script([hello, ANSWER, connect, ANSWER, PAYLOAD, FIN]),
        "connect, all in one segment": Script([hello + connect + PAYLOAD, FIN]),
        "connect, byte by byte": Script([hello + connect + PAYLOAD, FIN], one_by_one=True),
        "connect to a name": Script([hello, ANSWER, socks5_request("v4." + NAME, port), ANSWER, PAYLOAD, FIN]),
        "connect to an IPv4 literal sent as a name": Script(
            [hello, ANSWER, b"\x05\x01\x00\x03" + bytes([len(ORIGIN_V4)]) + ORIGIN_V4.encode() + tail, ANSWER, FIN]
        ),
        "connect to an IPv6 address": asks(socks5_request(ORIGIN_V6, 80)),
        "no-auth among other methods": Script([b"\x05\x03\x01\x02\x00", ANSWER, connect, ANSWER, PAYLOAD, FIN]),
        "socks4": Script([socks4, ANSWER, PAYLOAD, FIN]),
        "socks4a": Script([socks4a, ANSWER, PAYLOAD, FIN]),
        # What goes wrong on the way
        "refused": asks(socks5_request(ORIGIN_V4, 9)),
        "host unreachable": asks(socks5_request(UNREACHABLE_V4, 80)),
        "network unreachable": asks(socks5_request(UNROUTED_V4, 80)),
        "no such name": asks(socks5_request("missing.test", 80)),
        # What no application should do
        "port 0": asks(socks5_request(ORIGIN_V4, 0)),
        "an empty name": asks(b"\x05\x01\x00\x03\x00" + tail),
        "a name with NUL": asks(b"\x05\x01\x00\x03\x05a\x00.b." + tail),
        "bind": asks(socks5_request(ORIGIN_V4, port, command=2)),
        "udp associate": asks(socks5_request("0.0.0.0", 0, command=3)),
        "an unknown command": asks(socks5_request(ORIGIN_V4, port, command=9)),
        "an unknown address type": asks(b"\x05\x01\x00\x02\x7f\x00\x00\x01" + tail),
        "version 4 in the request": asks(b"\x04" + connect[1:]),
        "a reserved byte that is not zero": asks(connect[:2] + b"\x01" + connect[3:]),
        "no methods": Script([b"\x05\x00"]),
        "only unknown methods": Script([b"\x05\x01\x80"]),
        "only GSSAPI": Script([b"\x05\x01\x01"]),
        "only a password, where none is wanted": Script([b"\x05\x01\x02"]),
        "version 6": Script([b"\x06\x01\x00"]),
        "noise": Script([bytes(range(128, 192))]),
        "half a greeting, then FIN": Script([b"\x05\x02\x00", FIN]),
        "a greeting, then FIN": Script([hello, FIN]),
        "half a request, then FIN": Script([hello, ANSWER, connect[:6], FIN]),
    }


def password_scripts(system: System) -> dict[str, Script]:
    """For servers that want user "user" and password "secret" (RFC 1929)."""
    connect = socks5_request(ORIGIN_V4, system.mannerly.port)
    offer = b"\x05\x02\x00\x02"
    right = b"\x01\x04user\x06secret"
    return {
        "the right password": Script([offer, ANSWER, right, ANSWER, connect, ANSWER, PAYLOAD, FIN]),
        "the right password, all in one segment": Script([offer + right + connect + PAYLOAD, FIN]),
        "a wrong password": Script([offer, ANSWER, b"\x01\x04user\x05wrong", ANSWER, connect]),
        "a wrong user": Script([offer, ANSWER, b"\x01\x05admin\x06secret", ANSWER, connect]),
        "a prefix of the password": Script([offer, ANSWER, b"\x01\x04user\x05secre", ANSWER, connect]),
        "an empty password": Script([offer, ANSWER, b"\x01\x04user\x00", ANSWER, connect]),
        "version 5 in the sub-negotiation": Script([offer, ANSWER, b"\x05" + right[1:], ANSWER, connect]),
        "no password offered": Script([NO_AUTHENTICATION, ANSWER, connect]),
    }


def run(proxy: Proxy, script: Script) -> str:
    """The outcome: methods, authentication, reply and payload, each in hex or text; then "fin", "rst" or "open"."""
    received = bytearray()
    end = ""
    with proxy.connect(timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for step in script.steps:
                if step == FIN:
                    sock.shutdown(socket.SHUT_WR)
                elif step == ANSWER:
                    if not (data := sock.recv(65536)):
                        end = "fin"
                        break
                    received += data
                else:
                    assert isinstance(step, bytes)
                    for part in [step[i : i + 1] for i in range(len(step))] if script.one_by_one else [step]:
                        sock.sendall(part)
            deadline = time.monotonic() + QUIET
            while not end:
                sock.settimeout(max(0.01, deadline - time.monotonic()))
                if data := sock.recv(65536):
                    received += data
                    deadline = time.monotonic() + QUIET
                else:
                    end = "fin"
        except TimeoutError:
            end = "open"
        except OSError as error:
            # A shutdown after a reset says ENOTCONN.
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                raise
            end = "rst"
    return " ".join([*describe(bytes(received)), end])


def describe(data: bytes) -> list[str]:
    """Split a server's bytes into its messages; what is none of them comes out as hex."""
    words = []
    if data[:1] == b"\x05" and len(data) >= 2:
        words.append(f"method {data[1]:02x}")
        data = data[2:]
        if words == ["method 02"] and data[:1] == b"\x01":
            words.append(f"auth {data[1]:02x}")
            data = data[2:]
        sizes = {1: 10, 4: 22}
        if len(data) >= 10 and data[:1] == b"\x05" and data[2] == 0 and data[3] in sizes:
            words.append(f"reply {data[1]:02x}")
            data = data[sizes[data[3]] :]
    elif data[:1] == b"\x00" and len(data) >= 8:
        words.append(f"socks4 {data[1]:02x}")
        data = data[8:]
    if data:
        payload = data.decode("ascii", "replace").split()
        good = len(payload) == 2 and payload[0].isdigit() and len(payload[1]) == 64
        words.append(f"answer {payload[0]}" if good else f"hex {data[:24].hex()}")
    return words
