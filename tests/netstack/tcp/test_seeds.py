"""Seeded runs over paths that lose, reorder, duplicate and damage packets: every octet arrives, once and in order, both ends
hear the end of it, and nothing is left behind. QUICSOCKS_TEST_SEEDS has others run, as for the transport."""

from __future__ import annotations

import os

import pytest

from .seeds import run

_GIVEN = os.environ.get("QUICSOCKS_TEST_SEEDS", "0-399")
FIRST, LAST = (int(number) for number in (_GIVEN if "-" in _GIVEN else f"{_GIVEN}-{_GIVEN}").split("-"))
CHUNK = max(1, (LAST - FIRST + 1) // 20)


@pytest.mark.parametrize("first", range(FIRST, LAST + 1, CHUNK))
def test_seeds(first: int) -> None:
    for seed in range(first, min(first + CHUNK, LAST + 1)):
        try:
            run(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
