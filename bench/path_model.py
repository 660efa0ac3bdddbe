"""One direction of a network path: a queue in front of a link of some rate, then loss, duplication and delay.

A sans-IO core: packets and the time go in, packets whose time has come go out. The clock is the caller's and so are
the random numbers, so that a seed repeats a run. It must not look into packets. What comes first and last: a packet
arrives, finds room in the drop-tail queue or is dropped, leaves the link when the bits before it have left, is lost or
not (a lost packet has used the link, as on a real one), and arrives after the delay.

The order of these steps is that of a router in front of a long line. netem (tc-netem(8)) has the same terms, but
applies loss before its queue.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace

# A link without a rate has no queue, but its delay line holds packets all the same: 64 MiB is 5 s of 100 Mbit/s, more
# than any path here keeps in flight, and bounds the memory when somebody sends without any congestion control.
IN_FLIGHT_LIMIT = 64 << 20

# The queue that a path gets when none is asked for: what a well set up router has, one round trip's worth at full rate,
# but never less than 64 KiB, below which a single burst of a sender overflows it.
SMALLEST_DEFAULT_QUEUE = 64 << 10


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """What one direction does to packets.

    delay: propagation time in seconds, 0 or more. jitter: up to so many seconds more, evenly distributed, for each
    packet on its own, so that packets overtake each other; 0 or more. loss, duplicate: probabilities, 0 to 1.
    rate: bits per second of IP packets, above 0, or None for no limit. queue: bytes that may wait for the link, above
    0, or None for one round trip's worth (twice the delay). Raises ValueError with one clear line.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    rate: float | None = None
    queue: int | None = None

    def __post_init__(self) -> None:
        for name in ("delay", "jitter"):
            if not 0 <= getattr(self, name) <= 60:
                raise ValueError(f"{name} is {getattr(self, name)}: give seconds from 0 to 60")
        for name in ("loss", "duplicate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a probability from 0 to 1")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"rate is {self.rate}: give bits per second above 0, or none for no limit")
        if self.queue is not None and not self.queue > 0:
            raise ValueError(f"queue is {self.queue}: give bytes above 0, or none for one round trip's worth")

    @property
    def queue_limit(self) -> int:
        """Bytes that may wait for the link or be on it."""
        if self.queue is not None:
            return self.queue
        if self.rate is None:
            return IN_FLIGHT_LIMIT
        return max(SMALLEST_DEFAULT_QUEUE, int(self.rate * 2 * self.delay / 8))


@dataclass(slots=True)
class LinkStatistics:
    """What has happened on one direction since it was made. Packets are IP packets, bytes theirs with headers.

    largest: the longest packet in bytes. lateness: seconds, summed over all packets, that they were handed out after
    their time, and latest the most for one of them: how well the caller keeps up. All others count packets or bytes.
    """

    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    lost: int = 0
    queue_drops: int = 0
    duplicated: int = 0
    largest: int = 0
    lateness: float = 0.0
    latest: float = 0.0

    @property
    def mean_lateness(self) -> float:
        """Seconds that the average packet was late; 0 before the first one."""
        return self.lateness / self.packets_out if self.packets_out else 0.0


class LinkModel:
    """One direction. uniform gives numbers from 0 up to but not 1, as random.Random(seed).random does.

    Poll ``get_timer`` after each ``receive_packet`` and each ``packets_to_send``.
    """

    def __init__(self, settings: LinkSettings, uniform: Callable[[], float]) -> None:
        self.statistics = LinkStatistics()
        self._uniform = uniform
        self._free_at = 0.0  # when the link has sent everything that was put in front of it
        self._in_flight = 0
        self._sequence = 0  # packets of the same due time keep their order
        self._heap: list[tuple[float, int, bytes]] = []
        self.change(settings)

    @property
    def settings(self) -> LinkSettings:
        """What holds for packets that arrive from now on."""
        return self._settings

    def change(self, settings: LinkSettings) -> None:
        """Let other settings hold for later packets; those already on the way arrive when they would have."""
        self._settings = settings
        self._queue_limit = settings.queue_limit
        self._seconds_per_byte = 8 / settings.rate if settings.rate is not None else 0.0
        self._plain = not (settings.loss or settings.duplicate or settings.jitter)

    def receive_packet(self, packet: bytes, now: float) -> None:
        """Take a packet that arrives at now (seconds of any clock that never goes back)."""
        size = len(packet)
        statistics = self.statistics
        statistics.packets_in += 1
        statistics.bytes_in += size
        if size > statistics.largest:
            statistics.largest = size

        leaves = now
        if self._seconds_per_byte:
            start = self._free_at if self._free_at > now else now
            if (start - now) / self._seconds_per_byte + size > self._queue_limit:
                statistics.queue_drops += 1
                return
            leaves = self._free_at = start + size * self._seconds_per_byte
        if self._in_flight + size > IN_FLIGHT_LIMIT:
            statistics.queue_drops += 1
            return

        settings = self._settings
        if self._plain:
            self._schedule(packet, leaves + settings.delay)
            return
        # Every packet draws the same number of times whatever becomes of it, so that two runs with the same seed and
        # different settings still lose the same packets.
        lost, duplicated, jitter = self._uniform(), self._uniform(), self._uniform()
        if lost < settings.loss:
            statistics.lost += 1
            return
        self._schedule(packet, leaves + settings.delay + jitter * settings.jitter)
        if duplicated < settings.duplicate:
            statistics.duplicated += 1
            self._schedule(packet, leaves + settings.delay + jitter * settings.jitter)

    def _schedule(self, packet: bytes, due: float) -> None:
        self._in_flight += len(packet)
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, packet))

    def packets_to_send(self, now: float) -> list[bytes]:
        """Hand out the packets that have arrived at the far end by now, in the order of their arrival."""
        heap = self._heap
        if not heap or heap[0][0] > now:
            return []
        statistics = self.statistics
        statistics.latest = max(statistics.latest, now - heap[0][0])
        packets = []
        size = 0
        lateness = 0.0
        while heap and heap[0][0] <= now:
            due, _, packet = heapq.heappop(heap)
            lateness += now - due
            size += len(packet)
            packets.append(packet)
        statistics.lateness += lateness
        statistics.packets_out += len(packets)
        statistics.bytes_out += size
        self._in_flight -= size
        return packets

    def get_timer(self) -> float | None:
        """When the next packet arrives at the far end; None while the link is empty."""
        return self._heap[0][0] if self._heap else None


def changed(settings: LinkSettings, **values: float | None) -> LinkSettings:
    """The settings with some of them replaced; raises ValueError for an unknown name or a bad value."""
    try:
        return replace(settings, **values)  # type: ignore[arg-type]  # checked by the class itself
    except TypeError:
        known = ", ".join(LinkSettings.__dataclass_fields__)
        raise ValueError(f"unknown setting among {', '.join(values)}: known are {known}") from None
