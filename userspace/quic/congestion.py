"""aioquic's congestion controllers with a counter of lost packets, registered under names of their own.

Read RFC 9002 §7 and RFC 9438. The controllers themselves are aioquic's.
"""

from __future__ import annotations

from collections.abc import Iterable

from aioquic.quic.congestion.base import register_congestion_control
from aioquic.quic.congestion.cubic import CubicCongestionControl
from aioquic.quic.congestion.reno import RenoCongestionControl
from aioquic.quic.packet_builder import QuicSentPacket

from .aioquic_internals.common import SMALLEST_DATAGRAM
from .errors import LocalError


class _Counting:
    """large_lost: packets larger than any path carries, lost since the last that was acknowledged; since when."""

    packets_lost = 0
    large_lost = 0
    large_lost_since = 0.0

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        if packet.sent_bytes > SMALLEST_DATAGRAM:
            self.large_lost = 0
        super().on_packet_acked(now=now, packet=packet)  # type: ignore[misc] # the controller's

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        lost = list(packets)
        self.packets_lost += len(lost)
        if large := sum(packet.sent_bytes > SMALLEST_DATAGRAM for packet in lost):
            if not self.large_lost:
                self.large_lost_since = now
            self.large_lost += large
        super().on_packets_lost(now=now, packets=lost)  # type: ignore[misc] # the controller's


class _CountingCubic(_Counting, CubicCongestionControl):
    pass


class _CountingReno(_Counting, RenoCongestionControl):
    pass


_NAMES = {"cubic": "quicsocks-cubic", "reno": "quicsocks-reno"}

register_congestion_control(_NAMES["cubic"], _CountingCubic)
register_congestion_control(_NAMES["reno"], _CountingReno)


CONTROLLERS = ("cubic", "reno", "bbr")
"""Those of the native engine; aioquic's own has the first two."""


def check(name: str, engine: str) -> None:
    """Raises LocalError when the engine has no such controller."""
    if name not in CONTROLLERS:
        raise LocalError(f"congestion control {name!r} is not known; use one of: {', '.join(CONTROLLERS)}")
    if engine == "aioquic" and name not in _NAMES:
        raise LocalError(
            f"congestion control {name!r} needs the native engine; with aioquic use one of: {', '.join(_NAMES)}"
        )


def algorithm(name: str) -> str:
    """aioquic's name for one of ours; for one that it has not, what a handshake may do with instead."""
    return _NAMES.get(name, _NAMES["cubic"])


def packets_lost(controller: object) -> int:
    return controller.packets_lost if isinstance(controller, _Counting) else 0


def large_packets_lost(controller: object) -> tuple[int, float]:
    """How many packets of more than 1200 octets have been lost since one was acknowledged, and since when, s."""
    return (controller.large_lost, controller.large_lost_since) if isinstance(controller, _Counting) else (0, 0.0)
