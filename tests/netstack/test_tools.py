"""The pcap writer and the trace against tcpdump, and the fault injector."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.packet import Raw
from scapy.utils import PcapReader

from quicsocks.netstack.faults import FaultInjector, Faults
from quicsocks.netstack.pcap import PcapWriter
from quicsocks.netstack.trace import describe

from .packets import A4, A6, B4, B6, C4, C6

QUOTED4 = IP(src=B4, dst=C4) / UDP(sport=5, dport=33434) / Raw(b"x" * 20)
QUOTED6 = IPv6(src=B6, dst=C6) / UDP(sport=5, dport=33434) / Raw(b"x" * 20)
OPTIONS = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
SACK = [("NOP", None), ("NOP", None), ("SAck", (20, 30, 40, 50))]
LINES = [
    IP(src=A4, dst=B4) / UDP(sport=4000, dport=4001) / Raw(b"abc"),
    IPv6(src=A6, dst=B6) / UDP(sport=4000, dport=4001) / Raw(b"abc"),
    IP(src=A4, dst=B4) / TCP(sport=4000, dport=4001, flags="S", seq=5, window=65535, options=OPTIONS),
    IP(src=A4, dst=B4) / TCP(sport=4000, dport=4001, flags="SA", seq=5, ack=9, window=100),
    IP(src=A4, dst=B4) / TCP(sport=4000, dport=4001, flags="PA", seq=5, ack=9, window=100) / Raw(b"12345"),
    IPv6(src=A6, dst=B6) / TCP(sport=4000, dport=4001, flags="FA", seq=5, ack=9, window=100) / Raw(b"12345"),
    IPv6(src=A6, dst=B6) / TCP(sport=4000, dport=4001, flags="A", seq=5, ack=9, window=100),
    IP(src=A4, dst=B4) / TCP(sport=4000, dport=4001, flags="R", seq=5, window=0),
    IP(src=A4, dst=B4) / TCP(sport=4000, dport=4001, flags="A", ack=9, options=SACK),
    IP(src=A4, dst=B4) / ICMP(id=3, seq=4) / Raw(b"ping"),
    IP(src=A4, dst=B4) / ICMP(type=0, id=3, seq=4) / Raw(b"ping"),
    IP(src=A4, dst=B4) / ICMP(type=3, code=3) / QUOTED4,
    IP(src=A4, dst=B4) / ICMP(type=3, code=4, nexthopmtu=1200) / QUOTED4,
    IP(src=A4, dst=B4) / ICMP(type=3, code=0) / QUOTED4,
    IP(src=A4, dst=B4) / ICMP(type=3, code=1) / QUOTED4,
    IP(src=A4, dst=B4) / ICMP(type=3, code=13) / QUOTED4,
    IP(src=A4, dst=B4) / ICMP(type=11, code=0) / QUOTED4,
    IPv6(src=A6, dst=B6) / ICMPv6EchoRequest(id=3, seq=4) / Raw(b"ping"),
    IPv6(src=A6, dst=B6) / ICMPv6EchoReply(id=3, seq=4) / Raw(b"ping"),
    IPv6(src=A6, dst=B6) / ICMPv6DestUnreach(code=4) / QUOTED6,
    IPv6(src=A6, dst=B6) / ICMPv6DestUnreach(code=3) / QUOTED6,
    IPv6(src=A6, dst=B6) / ICMPv6DestUnreach(code=0) / QUOTED6,
    IPv6(src=A6, dst=B6) / ICMPv6PacketTooBig(mtu=1400) / QUOTED6,
    IPv6(src=A6, dst=B6) / ICMPv6TimeExceeded(code=0) / QUOTED6,
]  # fmt: skip


@pytest.mark.programs
@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not installed")
def test_lines_are_tcpdump_s(tmp_path: Path) -> None:
    packets = [bytes(packet) for packet in LINES]
    with PcapWriter(str(tmp_path / "packets.pcap")) as writer:
        for index, packet in enumerate(packets):
            writer.write(packet, 1000.25 + index)
    printed = subprocess.run(
        ["tcpdump", "-n", "-S", "-tt", "-r", tmp_path / "packets.pcap", "--nano"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert printed == [f"{1000 + index}.250000000 {describe(packet)}" for index, packet in enumerate(packets)]


@given(st.binary(max_size=100), st.sampled_from([b"", b"\x45\x00", b"\x60\x00"]))
def test_anything_is_described_in_a_line(data: bytes, first: bytes) -> None:
    assert "\n" not in describe(first + data)


@given(st.sampled_from(LINES), st.data())
def test_any_mutation_is_described(packet: object, data: st.DataObject) -> None:
    octets = bytearray(bytes(packet))  # type: ignore[call-overload] # scapy's packets are
    for _ in range(5):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    assert describe(bytes(octets[: data.draw(st.integers(0, len(octets)))]))


def test_scapy_reads_the_file() -> None:
    file = io.BytesIO()
    writer = PcapWriter(file)
    writer.write(bytes(LINES[0]), 5.000000001)
    writer.write(memoryview(bytes(LINES[1])), 6.5)
    writer.close()
    file.seek(0)
    first, second = PcapReader(file)  # type: ignore[arg-type] # it takes files, too
    assert (bytes(first), bytes(second)) == (bytes(LINES[0]), bytes(LINES[1]))
    assert (float(first.time), float(second.time)) == (5.000000001, 6.5)


def numbered(count: int) -> list[bytes]:
    return [number.to_bytes(4, "big") for number in range(count)]


def test_no_faults() -> None:
    injector = FaultInjector(Faults(), random.Random(1).random)
    assert [injector.pass_on(packet) for packet in numbered(50)] == [[packet] for packet in numbered(50)]


def test_each_fault_as_often_as_asked() -> None:
    packets = numbered(5000)
    injector = FaultInjector(Faults(loss=0.1, duplication=0.05, corruption=0.02), random.Random(7).random)
    out = [packet for given_packet in packets for packet in injector.pass_on(given_packet)]
    assert injector.lost == pytest.approx(500, abs=80)
    assert injector.duplicated == pytest.approx(225, abs=60)
    assert injector.corrupted == pytest.approx(90, abs=40)
    assert len(out) == 5000 - injector.lost + injector.duplicated
    counted = Counter(out)
    # A duplicate of a corrupted one is corrupted as it is.
    assert (
        5000 - injector.lost - injector.corrupted
        <= sum(packet in counted for packet in packets)
        <= 5000 - injector.lost
    )
    again = FaultInjector(Faults(loss=0.1, duplication=0.05, corruption=0.02), random.Random(7).random)
    assert out == [packet for given_packet in packets for packet in again.pass_on(given_packet)]


def test_reordering_goes_as_deep_as_asked() -> None:
    injector = FaultInjector(Faults(reordering=0.2, reordering_depth=5), random.Random(3).random)
    out = [packet for given_packet in numbered(1000) for packet in injector.pass_on(given_packet)] + injector.rest()
    assert sorted(out) == numbered(1000)
    late = [position - int.from_bytes(packet, "big") for position, packet in enumerate(out)]
    assert injector.reordered == pytest.approx(200, abs=50)
    assert 5 <= max(late) <= 10
    assert injector.rest() == []


def test_what_is_too_large_is_lost() -> None:
    injector = FaultInjector(Faults(largest=3), random.Random(3).random)
    assert [injector.pass_on(bytes(size)) for size in (2, 3, 4)] == [[bytes(2)], [bytes(3)], []]


@pytest.mark.parametrize("wrong", [{"loss": 1.5}, {"corruption": -0.1}, {"reordering_depth": 0}, {"largest": -1}])
def test_faults_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"chance|at least"):
        Faults(**wrong)  # type: ignore[arg-type] # one of them is a number of packets
