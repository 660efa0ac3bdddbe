"""SipHash-2-4 against the vectors of its reference implementation."""

from __future__ import annotations

import pytest

from quicsocks.netstack.tcp.keyed import sip

KEY = bytes(range(16))
VECTORS = {
    0: 0x726FDB47DD0E0E31,
    1: 0x74F839C593DC67FD,
    7: 0xAB0200F58B01D137,
    8: 0x93F5F5799A932462,
    15: 0xA129CA6149BE45E5,
}


@pytest.mark.parametrize(("size", "wanted"), VECTORS.items())
def test_vectors(size: int, wanted: int) -> None:
    assert sip(KEY, bytes(range(size))) == wanted
