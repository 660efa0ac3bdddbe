"""The load generator: one case of the benchmark against one proxy, as a process of its own.

``python -m bench.load JSON`` with an object of ``case``, ``via`` (kind, host, port), ``target`` (host, port) and the
case's own arguments, which are those of the functions in load_bulk.py and load_requests.py. It prints one line of JSON:
the result, or ``error`` with exit status 1. A process of its own so that it can stand in a network namespace, and
so that its work is nobody else's CPU time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from bench import load_bulk, load_requests
from bench.flows import FlowError, Via
from bench.origin import raise_descriptor_limit

CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "verify": load_bulk.verify,
    "download": load_bulk.download,
    "upload": load_bulk.upload,
    "connections": load_requests.connections,
    "latency": load_requests.latency,
    "idle": load_requests.idle,
    "round_trips": load_requests.round_trips,
}


def main() -> int:
    """Run the case of the command line. Returns the exit status."""
    request = json.loads(sys.argv[1])
    kind, host, port = request.pop("via")
    target_host, target_port = request.pop("target")
    raise_descriptor_limit()
    try:
        result = CASES[request.pop("case")](Via(kind, (host, port)), (target_host, target_port), **request)
    except (FlowError, OSError) as error:
        print(json.dumps({"error": str(error) or type(error).__name__}))
        return 1
    print(json.dumps({key: value for key, value in result.items() if key != "sockets"}), flush=True)
    if "sockets" in result:
        load_requests.hold(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
