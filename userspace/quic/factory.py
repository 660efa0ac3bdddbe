"""Where the rest of the program gets its transport from, whichever engine that is."""

from __future__ import annotations

from collections.abc import Sequence

from . import aioquic_internals  # noqa: F401 # before the others import aioquic
from .endpoint import UdpEndpoint
from .engines import ENGINES
from .errors import LocalError
from .types import Address, Endpoint
from .udp import PORTABLE
from .workers import Share

__all__ = ["ENGINES", "open_endpoint"]


async def open_endpoint(
    local: Sequence[Address],
    *,
    engine: str = "aioquic",
    server_id: int = 0,
    workers: int = 0,
    share: Share | None = None,
) -> Endpoint:
    """Bind UDP sockets and make an endpoint around them.

    local: IP literals and ports, port 0 for any; one socket each. One for each address family that is to be dialled.
    engine: one of ENGINES. server_id: 0 to 65535, carried in connection IDs; workers: see ``cid``. share: a worker's
    part of a port, instead of local; it names the server ID and the number of workers, too.
    Raises LocalError when an address cannot be bound or the engine does not exist.
    """
    if engine not in ENGINES:
        raise LocalError(f"engine {engine!r} is not known; use one of: {', '.join(ENGINES)}")
    if share is not None:
        server_id, workers = share.number, share.workers
    if engine == "native" and not PORTABLE:
        from .batched_endpoint import BatchedEndpoint

        return BatchedEndpoint(local, engine=engine, server_id=server_id, workers=workers, share=share)
    return UdpEndpoint(local, engine=engine, server_id=server_id, workers=workers, share=share)
