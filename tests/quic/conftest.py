from __future__ import annotations

import pytest

from ..sim.pair import Pair

PAIRINGS = [("aioquic", "aioquic"), ("native", "native"), ("native", "aioquic"), ("aioquic", "native")]


@pytest.fixture(params=PAIRINGS[:2], ids=lambda pairing: pairing[0])
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair of hubs that the test makes has this engine at both ends."""
    monkeypatch.setattr(Pair, "engines", request.param)
