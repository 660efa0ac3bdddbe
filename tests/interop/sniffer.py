"""Watch every packet on a place's interfaces with AF_PACKET (packet(7)), to show what did *not* leave a host.

The kernel hands over each packet from layer 3 up (SOCK_DGRAM), outgoing and incoming, with the interface's name.
Nothing is parsed but addresses and ports.
"""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import dataclass
from typing import Self

from tests.interop.places import Place

ETH_P_ALL = 3
DNS_PORTS = (53, 853, 5353, 5355)
"""DNS, DNS over TLS or QUIC, multicast DNS, LLMNR."""
TCP, UDP = 6, 17


@dataclass(frozen=True, slots=True)
class Packet:
    """protocol: IP protocol number. Ports are 0 where there are none. data: the packet from its IP header on."""

    device: str
    protocol: int
    source_port: int
    destination_port: int
    data: bytes

    @property
    def is_dns(self) -> bool:
        return self.source_port in DNS_PORTS or self.destination_port in DNS_PORTS

    def mentions(self, name: str) -> bool:
        """Whether the name stands in it, as text or in DNS's form (RFC 1035 §3.1), in any case."""
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        data = self.data.lower()
        return name.lower().encode() in data or labels.lower() in data


class Sniffer:
    """Use as a context manager; ``packets`` is complete after it."""

    def __init__(self, place: Place) -> None:
        self.packets: list[Packet] = []
        self._socket = place.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)))
        # Room for a burst: a packet that is dropped here is one that the test does not see.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._stopping = False
        self._thread = threading.Thread(target=self._read, name="sniffer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # The thread looks at the flag only when the kernel's queue is empty.
        self._stopping = True
        self._thread.join(10)
        self._socket.close()

    def _read(self) -> None:
        self._socket.settimeout(0.2)
        while True:
            try:
                data, address = self._socket.recvfrom(65536)
            except TimeoutError:
                if self._stopping:
                    return
                continue
            if packet := _parse(data, address[0]):
                self.packets.append(packet)


def _parse(data: bytes, device: str) -> Packet | None:
    if len(data) < 20:
        return None
    if data[0] >> 4 == 4:
        protocol, start = data[9], 4 * (data[0] & 15)
    elif data[0] >> 4 == 6 and len(data) >= 40:
        protocol, start = data[6], 40
    else:
        return None
    ports = (0, 0)
    if protocol in (TCP, UDP) and len(data) >= start + 4:
        ports = struct.unpack_from("!HH", data, start)
    return Packet(device, protocol, ports[0], ports[1], data)
