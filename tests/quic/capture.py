"""Captures of simulated connections, without root: what a pair has sent is written as a pcap, and tshark reads it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import PcapWriter

from ..sim.pair import CLIENT, EPOCH, SERVER

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark (Debian: tshark) is missing")
WARNING = 0x600000
"""Of an expert remark's severity; below are notes and chats."""
_PATIENCE = 60.0


def write_pcap(path: Path, seen: Iterable[tuple[str, bytes]]) -> None:
    """seen: as ``Pair.seen``. A millisecond passes from one datagram to the next."""
    with PcapWriter(str(path), sync=True) as writer:
        for number, (direction, data) in enumerate(seen):
            source, target = (CLIENT, SERVER) if direction == "up" else (SERVER, CLIENT)
            packet = (
                Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
                / IP(src=source[0], dst=target[0])
                / UDP(sport=source[1], dport=target[1])
                / data
            )
            packet.time = EPOCH + number * 1e-3
            writer.write(packet)


@dataclass(frozen=True)
class Dissected:
    """A datagram, as tshark reads it. Fields by name, all occurrences in order."""

    fields: dict[str, list[str]]

    def __getitem__(self, name: str) -> list[str]:
        return self.fields[name]

    def numbers(self, name: str) -> list[int]:
        return [int(value, 0) for value in self.fields[name]]

    @property
    def is_up(self) -> bool:
        return self.fields["udp.srcport"] == [str(CLIENT[1])]

    @property
    def is_short(self) -> bool:
        """A 1-RTT packet alone."""
        return self.fields["quic.header_form"] == ["0"]


_ALWAYS = ("udp.srcport", "quic.header_form", "_ws.expert.severity", "_ws.expert.message", "_ws.malformed")


def dissect(pcap: Path, keys: Path | None, *fields: str) -> list[Dissected]:
    """Each datagram of the capture. keys: a key log file. fields: what to tell of it, as ``tshark -G fields`` names it."""
    wanted = [*_ALWAYS, *fields]
    command = ["tshark", "-n", "-r", str(pcap), "-d", f"udp.port=={SERVER[1]},quic"]
    if keys is not None:
        command += ["-o", f"tls.keylog_file:{keys}"]
    command += ["-T", "fields", "-E", "occurrence=a", "-E", "aggregator=|"]
    for name in wanted:
        command += ["-e", name]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
        # The user's own preferences must not matter.
        env={**os.environ, "HOME": str(pcap.parent), "WIRESHARK_CONFIG_DIR": str(pcap.parent), "LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stderr
    return [
        Dissected({
            name: value.split("|") if value else []
            for name, value in zip(wanted, line.split("\t"), strict=True)
        })
        for line in done.stdout.splitlines()
    ]  # fmt: skip


def complaints(datagrams: Iterable[Dissected]) -> list[str]:
    """What tshark warns of."""
    return [
        f"datagram {number}: {', '.join(datagram['_ws.expert.message'] + datagram['_ws.malformed'])}"
        for number, datagram in enumerate(datagrams, 1)
        if datagram["_ws.malformed"] or any(severity >= WARNING for severity in datagram.numbers("_ws.expert.severity"))
    ]
