"""Two stacks joined by a session's DATAGRAMs, on simulated networks."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from quicsocks.netstack.stack import Stack, StackOptions
from quicsocks.userspace.lane.lane import Lane
from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.types import Session

from ..netstack.packets import A4, A6, B4, B6, parsed
from ..quic.dialled import Dialled, dial
from ..sim.link import Conditions

BEGIN = 100.0
"""Of the simulation's clock."""


@dataclass
class Echoing:
    """Sends back what comes."""

    stack: Stack
    got: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.socket = self.stack.udp.open(self, port=7)

    def datagram_received(self, data: bytes, address: object, port: int) -> None:
        self.got.append(data)
        self.socket.send_to(data, str(address), port)

    def error_received(self, error: OSError) -> None:
        raise AssertionError(error)


@dataclass
class Asking:
    stack: Stack
    got: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.socket = self.stack.udp.open(self)

    def datagram_received(self, data: bytes, address: object, port: int) -> None:
        self.got.append(data)

    def error_received(self, error: OSError) -> None:
        raise AssertionError(error)


def lane_on(session: Session, addresses: tuple[str, ...], *, has_context: bool = True) -> Lane:
    assert isinstance(session, NativeSession)
    lane = Lane(
        Stack(StackOptions(addresses=addresses)),
        has_context=has_context,
        size=session.max_datagram_size,
        on_wake=session.connection.notice,
    )
    session.connection.set_port(lane)
    return lane


def joined(conditions: Conditions | None = None, *, has_context: bool = True) -> tuple[Dialled, Lane, Lane]:
    dialled = dial(1, conditions, engines=("native", "native")).complete()
    dialled.pair.settle(1.0)
    near = lane_on(dialled.client, (A4, A6), has_context=has_context)
    return dialled, near, lane_on(dialled.server, (B4, B6), has_context=has_context)


@pytest.mark.parametrize("has_context", [True, False])
@pytest.mark.parametrize("to", [B4, B6])
def test_datagrams_go_there_and_back(to: str, has_context: bool) -> None:
    dialled, near, far = joined(Conditions(delay=0.02), has_context=has_context)
    asking, echoing = Asking(near.stack), Echoing(far.stack)
    sent = [bytes([number]) * (number * 60) for number in range(40)]
    for data in sent:
        assert asking.socket.send_to(data, to, 7)
    dialled.pair.drive(lambda: len(asking.got) == len(sent))
    # Large ones are cut to the tunnel's size on the way, not by the tunnel.
    assert echoing.got == sent
    assert asking.got == sent
    assert near.stack.mtu == near.size - has_context


def test_one_end_without_the_other_s_context() -> None:
    """A frame of another context is not a packet, whatever is in it."""
    dialled, near, far = joined()
    assert isinstance(dialled.client, NativeSession)
    dialled.client.connection.set_port(None)
    packet = bytes(IP(src=A4, dst=B4) / UDP(sport=1, dport=7) / Raw(b"x"))
    echoing = Echoing(far.stack)
    for data in (b"", b"\x02" + packet, b"\x40\x00" + packet, packet, b"\x00" + packet):
        dialled.client.send_datagram(data)
    dialled.pair.settle(1.0)
    assert echoing.got == [b"x"]
    assert far.other_contexts == 4
    assert near.stack.counted()["received"] == 0


def test_the_stack_follows_the_largest_datagram() -> None:
    # The path carries 1,400 octets for five seconds, and then 1,250 only.
    conditions = Conditions(delay=0.01, mtu=1400, mtu_changes=((BEGIN, 1400), (BEGIN + 8.0, 1250)))
    dialled, near, far = joined(conditions)
    asking, echoing = Asking(near.stack), Echoing(far.stack)

    def again() -> None:
        asking.socket.send_to(bytes(1300), B4, 7)
        if dialled.pair.now < BEGIN + 30.0:
            dialled.pair.at(dialled.pair.now + 0.1, again)

    again()
    dialled.pair.drive(lambda: dialled.pair.now > BEGIN + 7.0)
    assert 1330 < near.stack.mtu < 1400
    dialled.pair.drive(lambda: dialled.pair.now > BEGIN + 29.0)
    assert near.stack.mtu < 1250
    before = len(echoing.got)
    again()
    dialled.pair.drive(lambda: len(echoing.got) > before)


def test_congestion_is_told_to_those_inside_who_listen() -> None:
    """RFC 6040: a mark that the outer packet got on the way."""
    stack = Stack(StackOptions(addresses=(B4, B6), mtu=1280))
    lane = Lane(stack, has_context=True, size=1281, on_wake=lambda: None)
    for version, ecn, expected in [(4, 2, 3), (4, 1, 3), (4, 0, 0), (4, 3, 3), (6, 2, 3), (6, 0, 0)]:
        request = Raw(b"echo me")
        packet = (
            IP(src=A4, dst=B4, tos=ecn) / UDP(sport=1, dport=9) / request
            if version == 4
            else IPv6(src=A6, dst=B6, tc=ecn) / UDP(sport=1, dport=9) / request
        )
        for outer, seen in ((3, expected), (2, ecn)):
            lane.receive(b"\x00" + bytes(packet), 1.0, outer)
            # Port Unreachable quotes what arrived.
            (answer,) = lane.datagrams(1.0)
            quoted = parsed(answer[1:])
            inner = bytes(quoted.payload.payload)
            assert (inner[1] & 3 if version == 4 else inner[1] >> 4 & 3) == seen
            assert stack.counted()["malformed"] == 0


def test_too_narrow_for_any_packet() -> None:
    stack = Stack(StackOptions(addresses=(A4,)))
    lane = Lane(stack, has_context=True, size=1281, on_wake=lambda: None)
    asking = Asking(stack)
    assert not lane.set_size(0)
    asking.socket.send_to(b"kept", B4, 7)
    assert lane.datagrams(1.0) == []
    assert lane.set_size(577)
    assert [data[-4:] for data in lane.datagrams(1.0)] == [b"kept"]


def test_it_wakes_once() -> None:
    woken: list[int] = []
    stack = Stack(StackOptions(addresses=(A4,)))
    lane = Lane(stack, has_context=False, size=1280, on_wake=lambda: woken.append(1))
    asking = Asking(stack)
    asking.socket.send_to(b"1", B4, 7)
    asking.socket.send_to(b"2", B4, 7)
    assert len(woken) == 1
    assert len(lane.datagrams(1.0)) == 2
    asking.socket.send_to(b"3", B4, 7)
    assert len(woken) == 2
