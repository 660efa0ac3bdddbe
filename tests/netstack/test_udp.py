"""UDP sockets of a stack: what they send is read by scapy, what they get made by it."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from quicsocks.netstack.stack import Stack, StackOptions
from quicsocks.netstack.udp import UdpLimits

from .packets import A4, A6, B4, B6, C4, C6, parsed, udp

PAIRS = [(A4, B4), (A6, B6)]


class Handler:
    def __init__(self) -> None:
        self.got: list[tuple[bytes, str, int]] = []
        self.errors: list[OSError] = []

    def datagram_received(self, data: bytes, address: object, port: int) -> None:
        self.got.append((data, str(address), port))

    def error_received(self, error: OSError) -> None:
        self.errors.append(error)


def stack_at(*addresses: str, **options: Any) -> Stack:
    return Stack(StackOptions(addresses=addresses or (B4, B6), **options))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(PAIRS), st.binary(max_size=1200), st.integers(1, 65535), st.integers(0, 3), st.integers(1, 255))
def test_there_and_back(pair: tuple[str, str], data: bytes, port: int, ecn: int, hops: int) -> None:
    source, destination = pair
    near, far = stack_at(source), stack_at(destination)
    client, server = Handler(), Handler()
    answering = far.udp.open(server, port=port)
    asking = near.udp.open(client)
    assert asking.send_to(data, destination, port, ecn=ecn, hops=hops)
    (packet,) = near.packets_to_send(1.0)
    found = parsed(packet)
    assert (found[UDP].sport, found[UDP].dport) == (asking.port, port)
    assert packet.endswith(data)
    assert (found.tc if ":" in source else found.tos) == ecn
    assert (found.hlim if ":" in source else found.ttl) == hops
    far.receive(packet, 1.0)
    far.tell()
    assert server.got == [(data, source, asking.port)]
    assert answering.send_to(data[::-1], source, asking.port)
    (packet,) = far.packets_to_send(2.0)
    near.receive(packet, 2.0)
    near.tell()
    assert client.got == [(data[::-1], destination, port)]


def test_a_checksum_of_zero_is_written_as_all_ones() -> None:
    """RFC 768: zero says that there is none."""
    stack = stack_at(A4)
    socket = stack.udp.open(Handler(), port=1)
    for first in range(65536):
        data = first.to_bytes(2, "big")
        socket.send_to(data, B4, 2)
        (packet,) = stack.packets_to_send(1.0)
        if packet[26:28] == b"\xff\xff":
            break
    else:
        raise AssertionError("it was never all ones")
    far, handler = stack_at(B4), Handler()
    far.udp.open(handler, port=2)
    far.receive(packet, 1.0)
    far.tell()
    assert handler.got == [(data, A4, 1)]


@pytest.mark.parametrize(("version", "taken"), [(4, True), (6, False)])
def test_no_checksum(version: int, taken: bool) -> None:
    """Allowed over IPv4 (RFC 768), not over IPv6 (RFC 8200 §8.1)."""
    stack, handler = stack_at(), Handler()
    stack.udp.open(handler, port=9)
    layer = IP(src=A4, dst=B4) if version == 4 else IPv6(src=A6, dst=B6)
    stack.receive(bytes(layer / UDP(sport=1, dport=9, chksum=0) / Raw(b"x")), 1.0)
    stack.tell()
    assert bool(handler.got) is taken
    assert stack.packets_to_send(1.0) == []


@pytest.mark.parametrize(("source", "destination"), PAIRS)
@pytest.mark.parametrize("change", [{"chksum": 1}, {"len": 7}, {"len": 30}, {"dport": 0}])
def test_what_is_no_datagram_is_dropped(source: str, destination: str, change: dict[str, Any]) -> None:
    stack, handler = stack_at(), Handler()
    stack.udp.open(handler, port=9)
    layer = IP(src=source, dst=destination) if ":" not in source else IPv6(src=source, dst=destination)
    stack.receive(bytes(layer / UDP(**{"sport": 1, "dport": 9, **change}) / Raw(b"x")), 1.0)
    stack.tell()
    assert handler.got == []
    assert stack.packets_to_send(1.0) == []


def test_what_stands_behind_a_datagram_is_left_out() -> None:
    stack, handler = stack_at(), Handler()
    stack.udp.open(handler, port=9)
    datagram = bytes(UDP(udp(A4, B4, 1, 9, b"inside")[20:]))
    stack.receive(bytes(IP(src=A4, dst=B4, proto=17) / Raw(datagram + b"outside")), 1.0)
    stack.tell()
    assert handler.got == [(b"inside", A4, 1)]


def test_who_gets_what() -> None:
    """The name that says most comes first: peer, address, port alone."""
    stack = stack_at(B4, "192.0.2.99", B6)
    anyone, here, joined = Handler(), Handler(), Handler()
    stack.udp.open(anyone, port=9)
    stack.udp.open(here, address=B4, port=9)
    socket = stack.udp.open(joined, address=B4, port=9, peer=(A4, 5))
    assert socket.peer == (ip_address(A4), 5)
    for to, port in ((B4, 5), (B4, 6), ("192.0.2.99", 5)):
        stack.receive(udp(A4, to, port, 9, f"{to} {port}".encode()), 1.0)
    stack.tell()
    assert [len(h.got) for h in (joined, here, anyone)] == [1, 1, 1]
    assert joined.got[0][0] == b"192.0.2.2 5"
    assert here.got[0][0] == b"192.0.2.2 6"
    with pytest.raises(OSError, match="connected"):
        socket.send_to(b"", C4, 5)
    socket.send_to(b"to the peer")
    assert parsed(stack.packets_to_send(1.0)[0]).dst == A4
    socket.close()
    socket.close()
    stack.receive(udp(A4, B4, 5, 9, b"again"), 1.0)
    stack.tell()
    assert here.got[-1][0] == b"again"
    with pytest.raises(OSError, match="closed"):
        socket.send_to(b"")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"port": 9}, "in use"),
        ({"address": A4, "port": 10}, "none of the stack"),
        ({"peer": (A6, 0)}, "no destination"),
        ({"peer": ("224.0.0.1", 5)}, "no destination"),
    ],
)
def test_what_cannot_be_opened(arguments: dict[str, Any], message: str) -> None:
    stack = stack_at()
    stack.udp.open(Handler(), port=9)
    with pytest.raises(OSError, match=message):
        stack.udp.open(Handler(), **arguments)


def test_without_an_address_of_that_version() -> None:
    stack = stack_at(B4)
    with pytest.raises(OSError, match="no address of that version"):
        stack.udp.open(Handler(), peer=(A6, 9))
    with pytest.raises(OSError, match="no address of that version"):
        stack.udp.open(Handler()).send_to(b"", A6, 9)
    with pytest.raises(OSError, match="no port"):
        stack.udp.open(Handler()).send_to(b"", A4, 0)
    with pytest.raises(OSError, match="needs a destination"):
        stack.udp.open(Handler()).send_to(b"")


def test_ports_are_hard_to_guess_and_not_used_twice() -> None:
    stack = stack_at(udp=UdpLimits(sockets=3000))
    ports = [stack.udp.open(Handler()).port for _ in range(3000)]
    assert len(set(ports)) == 3000
    assert min(ports) >= 1024
    steps = {(after - before) % 64512 for before, after in pairwise(ports)}
    assert len(steps) > 300
    with pytest.raises(OSError, match="3000 UDP sockets"):
        stack.udp.open(Handler())


def test_a_slow_reader_and_a_slow_link_lose_the_oldest() -> None:
    limits = UdpLimits(received=1 << 14, received_packets=10, waiting=1 << 14, waiting_packets=10)
    stack, handler = stack_at(udp=limits), Handler()
    socket = stack.udp.open(handler, port=9)
    for number in range(15):
        stack.receive(udp(A4, B4, 1, 9, bytes([number])), 1.0)
    stack.tell()
    assert [data[0] for data, *_ in handler.got] == list(range(5, 15))
    assert socket.dropped == 5
    # By octets, too, and those are counted as well.
    handler.got.clear()
    for number in range(9):
        stack.receive(udp(A4, B4, 1, 9, bytes([number]) * 2500), 1.0)
    stack.tell()
    assert 3 <= len(handler.got) <= 6
    assert handler.got[-1][0][0] == 8
    assert socket.dropped == 5 + 9 - len(handler.got)
    for number in range(15):
        socket.send_to(bytes([number]), A4, 1)
    assert [packet[-1] for packet in stack.packets_to_send(1.0)] == list(range(5, 15))


@pytest.mark.parametrize(("near", "far"), PAIRS)
@pytest.mark.parametrize("mtu", [576, 1000, 1280, 1500])
def test_large_datagrams_are_cut_to_the_link(near: str, far: str, mtu: int) -> None:
    """Over IPv6 below 1,280 octets too, at the source."""
    stack, other, handler = stack_at(near, mtu=mtu), stack_at(far), Handler()
    other.udp.open(handler, port=9)
    socket = stack.udp.open(Handler())
    data = bytes(range(256)) * 20
    assert socket.send_to(data, far, 9)
    assert socket.send_to(b"behind it", far, 9)
    packets = stack.packets_to_send(1.0)
    for packet in packets:
        assert len(packet) <= mtu
        found = parsed(packet)
        assert IPv6ExtHdrFragment in found or ":" not in near or packet is packets[-1]
        other.receive(packet, 1.0)
    other.tell()
    assert [data for data, *_ in handler.got] == [data, b"behind it"]


def test_what_must_not_be_cut() -> None:
    stack = stack_at(mtu=1280)
    socket = stack.udp.open(Handler())
    assert not socket.send_to(bytes(1253), A4, 9, keep=True)
    assert not socket.send_to(bytes(65508), A4, 9)
    assert socket.send_to(bytes(1252), A4, 9, keep=True)
    # The link becomes narrower before they leave: one is dropped, the other one is cut.
    assert socket.send_to(bytes(1252), A4, 10)
    stack.set_mtu(1000)
    packets = stack.packets_to_send(1.0)
    assert [parsed(packet).flags.DF for packet in packets] == [False, False]
    assert sum(len(packet) - 20 for packet in packets) == 1260


@pytest.mark.parametrize(
    ("remote", "answer", "expected"),
    [
        (C4, ICMP(type=3, code=3), "Connection refused"),
        (C4, ICMP(type=3, code=0), "Network is unreachable"),
        (C4, ICMP(type=3, code=1), "No route to host"),
        (C4, ICMP(type=11, code=0), "No route to host"),
        (C6, ICMPv6DestUnreach(code=4), "Connection refused"),
        (C6, ICMPv6DestUnreach(code=1), "Permission denied"),
        (C6, ICMPv6DestUnreach(code=0), "Network is unreachable"),
        (C6, ICMPv6DestUnreach(code=3), "No route to host"),
    ],
)
def test_errors_reach_the_socket(remote: str, answer: Any, expected: str) -> None:
    stack, handler = stack_at(), Handler()
    socket = stack.udp.open(handler)
    socket.send_to(b"x", remote, 77)
    (packet,) = stack.packets_to_send(1.0)
    reporter, local = (A6, B6) if ":" in remote else (A4, B4)
    layer = IPv6(src=reporter, dst=local) if ":" in remote else IP(src=reporter, dst=local)
    stack.receive(bytes(layer / answer / Raw(packet)), 1.0)
    stack.tell()
    (error,) = handler.errors
    assert str(error).endswith(f"{expected}, says {reporter}")


def test_datagrams_to_nobody_can_be_taken() -> None:
    stack = stack_at(takes_all=True)
    seen: list[tuple[object, ...]] = []

    def unknown(*name: object) -> bool:
        seen.append(name)
        return len(seen) == 1

    stack.udp.on_unknown = unknown
    stack.receive(udp(A4, C4, 5, 9, b"x"), 1.0)
    assert stack.packets_to_send(1.0) == []
    stack.receive(udp(A4, C4, 5, 9, b"x"), 1.0)
    assert len(stack.packets_to_send(1.0)) == 1
    assert seen[0] == (ip_address(A4), 5, ip_address(C4), 9)


def test_closing_in_a_callback() -> None:
    stack = stack_at()
    got: list[bytes] = []

    class Once(Handler):
        def datagram_received(self, data: bytes, address: object, port: int) -> None:
            got.append(data)
            socket.close()

    socket = stack.udp.open(Once(), port=9)
    for _ in range(3):
        stack.receive(udp(A4, B4, 1, 9, b"x"), 1.0)
    stack.tell()
    assert got == [b"x"]
    # What it had put into its queue still leaves.
    other = stack.udp.open(Handler(), port=9)
    other.send_to(b"last words", A4, 1)
    other.close()
    assert len(stack.packets_to_send(1.0)) == 1


def test_sockets_take_turns() -> None:
    stack = stack_at()
    one, two = stack.udp.open(Handler()), stack.udp.open(Handler())
    for _ in range(3):
        one.send_to(b"1", A4, 9)
    for _ in range(3):
        two.send_to(b"2", A4, 9)
    assert b"".join(packet[-1:] for packet in stack.packets_to_send(1.0)) == b"121212"


def test_the_waker_is_called_once() -> None:
    woken: list[int] = []
    stack = Stack(StackOptions(addresses=(B4,)), waker=lambda: woken.append(1))
    socket = stack.udp.open(Handler(), port=9)
    socket.send_to(b"", A4, 9)
    socket.send_to(b"", A4, 9)
    assert len(woken) == 1
    stack.rest()
    stack.receive(udp(A4, B4, 1, 9, b"x"), 1.0)
    assert len(woken) == 2
    assert stack.has_words
    stack.tell()
    assert not stack.has_words
