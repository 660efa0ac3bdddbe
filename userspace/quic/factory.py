"""Where the rest of the program gets its transport from, whichever engine that is."""

from __future__ import annotations

from collections.abc import Sequence

from .endpoint import UdpEndpoint
from .engines import ENGINES
from .errors import LocalError
from .types import Address, Endpoint
from .udp import PORTABLE

__all__ = ["ENGINES", "open_endpoint"]


async def open_endpoint(local: Sequence[Address], *, engine: str = "aioquic", server_id: int = 0) -> Endpoint:
    """Bind UDP sockets and make an endpoint around them.

    local: IP literals and ports, port 0 for any; one socket each. One for each address family that is to be dialled.
    engine: one of ENGINES. server_id: 0 to 65535, carried in connection IDs (see ``cid``).
    Raises LocalError when an address cannot be bound or the engine does not exist.
    """
    if engine not in ENGINES:
        raise LocalError(f"engine {engine!r} is not known; use one of: {', '.join(ENGINES)}")
    if engine == "native" and not PORTABLE:
        from .batched_endpoint import BatchedEndpoint

        return BatchedEndpoint(local, engine=engine, server_id=server_id)
    return UdpEndpoint(local, engine=engine, server_id=server_id)
