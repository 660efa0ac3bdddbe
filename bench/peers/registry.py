"""The peers in the order in which they run: ours beside its yardstick, so that both see the same machine,
and the slowest last, since they are cut when a run's time is up."""

from __future__ import annotations

from bench.peers.base import Peer
from bench.peers.plain import BareAioquic, BareHop, Direct, Microsocks
from bench.peers.pproxy import PproxyQuic, PproxyShadowsocks
from bench.peers.quicsocks import Quicsocks
from bench.peers.ssh import Ssh

PEERS: tuple[Peer, ...] = (
    Direct(),
    Quicsocks(),
    Quicsocks(engine="aioquic"),
    Quicsocks(congestion="cubic"),
    BareAioquic(),
    Ssh(),
    BareHop(),
    Microsocks(),
    PproxyShadowsocks(),
    PproxyQuic(),
)
