"""Bare aioquic as the yardstick: a client and a server that pump bytes over streams and do nothing else.

``python -m bench.bare_aioquic serve ADDRESS PORT CERTIFICATE KEY`` and ``... pump JSON`` with host, port, direction
("download", "upload"), flows, size and seconds; pump prints one line of JSON as bench/load.py does, with the CPU time
it used for pumping. Read aioquic's asyncio API. Both ends run on uvloop, with aioquic's defaults except for a datagram
size of 1,452 bytes, which is what a path with an MTU of 1,500 carries over IPv6, and socket buffers that hold a burst.

Each stream begins with one byte, b"D" or b"U", and the number of bytes in 8. The receiver of the bytes returns one byte
for each ``CREDIT`` that it has taken; the sender keeps at most ``WINDOW`` bytes ahead of that, since aioquic itself
would buffer without a bound. That window is above any path's bandwidth-delay product here, and larger ones and other
socket buffers made no difference on loopback. It uses public interfaces and the protocol's ``_quic``, as aioquic's own
examples do.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived

DATAGRAM = 1452
CREDIT = 64 << 10
WINDOW = 2 << 20
SOCKET_BUFFER = 1 << 20
CHUNK = bytes(CREDIT)
ALPN = "bench"


@dataclass(slots=True)
class _Transfer:
    """One stream. sending: whether this end sends. size: bytes in all. moved: bytes sent or received.
    acknowledged: bytes that the other end has taken, known to a sender."""

    sending: bool
    size: int
    moved: int = 0
    acknowledged: int = 0
    credited: int = 0
    head: bytes = field(default=b"")


class Pump(QuicConnectionProtocol):
    """Either end. The server's transfers begin with a stream's head, the client's with ``start``."""

    on_progress: Callable[[], None] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.transfers: dict[int, _Transfer] = {}
        self._heads: dict[int, bytes] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)

    def start(self, direction: str, size: int) -> None:
        """Open a stream and move size bytes over it."""
        stream = self._quic.get_next_available_stream_id()
        upload = direction == "upload"
        self.transfers[stream] = _Transfer(sending=upload, size=size)
        self._quic.send_stream_data(stream, struct.pack("!cQ", b"U" if upload else b"D", size))
        self._fill(stream)

    def quic_event_received(self, event: QuicEvent) -> None:
        if not isinstance(event, StreamDataReceived):
            return
        stream, data = event.stream_id, event.data
        transfer = self.transfers.get(stream)
        if transfer is None:
            data = self._heads.pop(stream, b"") + data
            if len(data) < 9:
                self._heads[stream] = data
                return
            kind, size = struct.unpack("!cQ", data[:9])
            transfer = self.transfers[stream] = _Transfer(sending=kind == b"D", size=size)
            data = data[9:]
        if transfer.sending:
            transfer.acknowledged += len(data) * CREDIT
            self._fill(stream)
        else:
            transfer.moved += len(data)
            whole = transfer.moved // CREDIT
            if whole > transfer.credited:
                self._quic.send_stream_data(stream, bytes(whole - transfer.credited))
                transfer.credited = whole
        if self.on_progress is not None:
            self.on_progress()

    def _fill(self, stream: int) -> None:
        transfer = self.transfers[stream]
        while transfer.sending and transfer.moved < min(transfer.size, transfer.acknowledged + WINDOW):
            self._quic.send_stream_data(stream, CHUNK)
            transfer.moved += CREDIT

    def arrived(self) -> int:
        """Bytes that are known to have arrived at their receiver."""
        return sum(
            transfer.acknowledged if transfer.sending else transfer.moved for transfer in self.transfers.values()
        )


async def pump(host: str, port: int, direction: str, flows: int, size: int, seconds: float) -> dict[str, Any]:
    """Move size bytes in all (rounded to ``CREDIT`` for each flow) for at most so many seconds."""
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=[ALPN], max_datagram_size=DATAGRAM, verify_mode=ssl.CERT_NONE
    )
    async with connect(host, port, configuration=configuration, create_protocol=Pump) as protocol:
        client = cast(Pump, protocol)
        share = max(CREDIT, size // flows // CREDIT * CREDIT)
        done = asyncio.Event()
        client.on_progress = lambda: done.set() if client.arrived() >= share * flows else None
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(flows):
            client.start(direction, share)
        client.transmit()
        try:
            async with asyncio.timeout(seconds):
                await done.wait()
        except TimeoutError:
            pass  # the time was up before the bytes were
        elapsed, used, arrived = time.perf_counter() - start, time.process_time() - cpu, client.arrived()
    return {"bytes": arrived, "seconds": elapsed, "complete": arrived >= share * flows, "cpu": used}


async def run_server(address: str, port: int, certificate: str, key: str) -> None:
    """Serve for ever."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[ALPN], max_datagram_size=DATAGRAM)
    configuration.load_cert_chain(certificate, key)
    await serve(address, port, configuration=configuration, create_protocol=Pump)
    await asyncio.Event().wait()


def main() -> int:
    """Be the server or the client. Returns the exit status."""
    if sys.argv[1] == "serve":
        address, port, certificate, key = sys.argv[2:]
        uvloop.run(run_server(address, int(port), certificate, key))
        return 0
    try:
        print(json.dumps(uvloop.run(pump(**json.loads(sys.argv[2])))))
    except OSError as error:
        print(json.dumps({"error": str(error) or type(error).__name__}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
