"""``python -m bench.handshakes``: what a handshake costs each side, in one process and without sockets.

Run it from the tree's root. A client and a server, each with our engine (native, aioquic) or bare aioquic, do one
handshake after the other up to the confirmation, the client checking the server's certificate (a pin with our engines,
the chain and the name with bare aioquic). Time is taken around each side's calls alone. Figures: handshakes a second that
one core does on that side. It alternates the kinds, and prints medians.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import HandshakeCompleted
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.certificate import write_certificate
from quicsocks.userspace.identity import pin_of
from quicsocks.userspace.quic.hub import Hub
from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.types import DialConfig, ListenConfig, PathEvent, Session, Stream, Trust

CLIENT, SERVER = ("192.0.2.1", 50000), ("198.51.100.1", 443)
KINDS = ("native", "aioquic", "bare")
MOST_TURNS = 50


class Clock:
    """Adds up what one side takes."""

    def __init__(self) -> None:
        self.total = 0.0

    def __call__(self, call: Callable[..., Any], *arguments: Any) -> Any:
        begun = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self.total += time.perf_counter() - begun


class _Handler:
    """What a session tells; only the handshake's end counts."""

    completed = False

    def handshake_completed(self) -> None:
        self.completed = True

    def stream_opened(self, stream: Stream) -> None: ...

    def datagram_received(self, data: bytes, ecn: int) -> None: ...

    def max_datagram_size_changed(self, size: int) -> None: ...

    def path_changed(self, event: PathEvent) -> None: ...

    def session_ended(self, ended: object) -> None: ...


def ours(engine: str, folder: Path, count: int) -> tuple[float, float]:
    """Seconds of the client and of the server for count handshakes."""
    certificate_file, key_file = write_certificate(folder)
    certificate = certificate_file.read_bytes()
    public_key = x509.load_pem_x509_certificate(certificate).public_key()
    pin = pin_of(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    hubs = [
        Hub(random_bytes=os.urandom, wall_clock=time.time, wake=lambda: None, engine=engine, server_id=1)
        for _ in range(2)
    ]
    client, server = hubs
    sessions: list[Session] = []

    def accept(session: Session) -> _Handler:
        sessions.append(session)
        return _Handler()

    # Nothing is to be asked of a stranger first, however many half-open ones this clock makes.
    secret = os.urandom(32)
    listening = ListenConfig(
        ("bench",), certificate, key_file.read_bytes(), secret, retry_above=count + 1, max_half_open=count + 1
    )
    server.listen(listening, accept)
    dialling = DialConfig(("bench",), Trust("localhost", (pin,)))
    near, far = Clock(), Clock()
    now = 1000.0
    for _ in range(count):
        handler = _Handler()
        session = near(client.dial, Route(CLIENT, SERVER), dialling, handler, now)
        quiet = False
        for _ in range(MOST_TURNS):
            now += 0.001
            up = near(client.datagrams_to_send, now)
            for data, _ in up:
                far(server.receive_datagram, data, Route(SERVER, CLIENT), now)
            down = far(server.datagrams_to_send, now)
            for data, _ in down:
                near(client.receive_datagram, data, Route(CLIENT, SERVER), now)
            quiet = not up and not down
            if quiet:
                break
        if not quiet or not handler.completed:
            raise RuntimeError(f"a handshake of {engine} does not end")
        # Not part of it: the next one is not to find old sessions.
        for one in (session, sessions.pop()):
            one.close()
        for hub in hubs:
            hub.datagrams_to_send(now)
        now += 10.0
        for hub in hubs:
            hub.handle_timer(now)
    for hub in hubs:
        hub.forget()
    return near.total, far.total


def bare(folder: Path, count: int) -> tuple[float, float]:
    """The same with aioquic as it comes."""
    certificate, key = write_certificate(folder)
    near, far = Clock(), Clock()
    now = 1000.0
    for _ in range(count):
        begun = time.perf_counter()
        configuration = QuicConfiguration(is_client=True, alpn_protocols=["bench"], server_name="localhost")
        configuration.load_verify_locations(cafile=str(certificate))
        client = QuicConnection(configuration=configuration)
        client.connect(SERVER, now)
        near.total += time.perf_counter() - begun
        served = QuicConfiguration(is_client=False, alpn_protocols=["bench"])
        served.load_cert_chain(str(certificate), str(key))  # once for all, in a server: not counted
        begun = time.perf_counter()
        server = QuicConnection(
            configuration=served, original_destination_connection_id=client.original_destination_connection_id
        )
        far.total += time.perf_counter() - begun
        completed = 0
        for _ in range(MOST_TURNS):
            now += 0.001
            up = near(client.datagrams_to_send, now)
            for data, _ in up:
                far(server.receive_datagram, data, CLIENT, now)
            down = far(server.datagrams_to_send, now)
            for data, _ in down:
                near(client.receive_datagram, data, SERVER, now)
            if not up and not down:
                break
        for end in (client, server):
            while (event := end.next_event()) is not None:
                completed += isinstance(event, HandshakeCompleted)
        if completed != 2:
            raise RuntimeError("a handshake of bare aioquic does not end")
    return near.total, far.total


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.handshakes", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument("--count", type=int, default=200, metavar="N", help="handshakes of each kind a round (200)")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds; figures are their medians (5)")
    options = parser.parse_args(arguments)
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="quicsocks-bench-") as name:
        folder = Path(name)
        for number in itertools.count():
            if number == options.repeat + 1:
                break
            for kind in KINDS:
                run = bare(folder, options.count) if kind == "bare" else ours(kind, folder, options.count)
                if number:  # The first round warms up.
                    found[kind].append((options.count / run[0], options.count / run[1]))
    for kind, rates in found.items():
        near, far = (statistics.median(rate[side] for rate in rates) for side in (0, 1))
        print(f"{kind}: {far:.0f} handshakes/s on the server, {near:.0f} on the client")
    return 0


if __name__ == "__main__":
    sys.exit(main())
