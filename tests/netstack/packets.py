"""Packets for the tests of the stack, made and judged by scapy."""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, _ICMPv6
from scapy.packet import Packet, Raw

A4, B4, C4 = "192.0.2.1", "192.0.2.2", "198.51.100.7"
A6, B6, C6 = "2001:db8::1", "2001:db8::2", "2001:db8:ffff::7"


def parsed(data: bytes) -> Packet:
    """A packet that the stack has sent, with every length and checksum found to be right."""
    layer = IP if data[0] >> 4 == 4 else IPv6
    packet = layer(data)
    again = layer(data)
    for part in _layers(again):
        for field in ("chksum", "cksum", "len", "plen", "ihl", "dataofs"):
            if field in part.fields:
                del part.fields[field]
    assert bytes(again) == data, f"scapy would have sent {again!r}, not {packet!r}"
    return packet


def _layers(packet: Packet) -> list[Packet]:
    """Up to what is quoted in an error, which may be cut short."""
    found = []
    part: Any = packet
    while part and not isinstance(part, Raw):
        found.append(part)
        if (isinstance(part, ICMP) and part.type in (3, 11, 12)) or (isinstance(part, _ICMPv6) and part.type < 128):
            break
        part = part.payload
    return found


def ip(source: str, destination: str, **fields: Any) -> Packet:
    if ":" in source:
        if "ttl" in fields:
            fields["hlim"] = fields.pop("ttl")
        return IPv6(src=source, dst=destination, **fields)
    return IP(src=source, dst=destination, **fields)


def udp(source: str, destination: str, sport: int, dport: int, data: bytes = b"", **fields: Any) -> bytes:
    return bytes(ip(source, destination, **fields) / UDP(sport=sport, dport=dport) / Raw(data))


__all__ = ["A4", "A6", "B4", "B6", "C4", "C6", "ICMP", "IP", "TCP", "UDP", "IPv6", "Raw", "ip", "parsed", "udp"]
