"""The status of all workers as one, as if a single process served all clients. Sans-IO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

SUMMED = ("flows", "pending", "bytes_in", "bytes_out", "flows_opened")


def combined(statuses: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """statuses: of those workers that have answered, with their numbers. Sums, clients with their ``worker``, and
    ``endpoint`` and ``tunnel`` counters of all."""
    counters: Counter[str] = Counter()
    tunnels: Counter[str] = Counter()
    clients: list[dict[str, Any]] = []
    for number, status in statuses:
        counters.update(status["endpoint"])
        tunnels.update(status.get("tunnel", {}))
        clients += [{**client, "worker": number} for client in status["clients"]]
    return {
        **{key: sum(status[key] for _, status in statuses) for key in SUMMED},
        "clients": sorted(clients, key=lambda client: float(client["since"])),
        "endpoint": dict(counters),
        "tunnel": dict(tunnels),
    }
