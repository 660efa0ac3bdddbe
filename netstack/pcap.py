"""Writes packets into a file that tcpdump and Wireshark read.

The format is pcap's with nanoseconds (draft-ietf-opsawg-pcap), of link type RAW: IP packets without anything before them.
"""

from __future__ import annotations

import struct
from types import TracebackType
from typing import IO

MAGIC_NANOSECONDS = 0xA1B23C4D
LINKTYPE_RAW = 101
SNAPLEN = 65535


class PcapWriter:
    """file: open for writing octets, or the name of one to be made. The name's file is closed by ``close`` or ``with``."""

    def __init__(self, file: IO[bytes] | str) -> None:
        self._own = isinstance(file, str)
        self._file: IO[bytes] = open(file, "wb") if isinstance(file, str) else file  # noqa: SIM115 # closed by close
        self._file.write(struct.pack("=IHHiIII", MAGIC_NANOSECONDS, 2, 4, 0, 0, SNAPLEN, LINKTYPE_RAW))

    def write(self, packet: bytes | bytearray | memoryview, at: float) -> None:
        """at: s since the epoch, or on any other clock."""
        seconds, nanoseconds = divmod(round(at * 1e9), 10**9)
        kept = packet[:SNAPLEN]
        self._file.write(struct.pack("=IIII", seconds, nanoseconds, len(kept), len(packet)))
        self._file.write(kept)

    def close(self) -> None:
        self._file.flush()
        if self._own:
            self._file.close()

    def __enter__(self) -> PcapWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
