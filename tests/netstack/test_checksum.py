"""The Internet checksum against RFC 1071's example, a plain reading of it, and scapy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import checksum as scapy_checksum

from quicsocks.netstack.checksum import (
    adjust,
    internet_checksum,
    ones_complement_sum,
    pseudo_header_sum,
    sum_in_parts,
)


def test_rfc1071_example() -> None:
    # §3
    assert ones_complement_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


def plainly(data: bytes) -> int:
    total = 0
    for offset in range(0, len(data), 2):
        total += int.from_bytes(data[offset : offset + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.binary(max_size=200))
def test_against_a_plain_reading_and_scapy(data: bytes) -> None:
    assert ones_complement_sum(data) == plainly(data)
    assert internet_checksum(data) == scapy_checksum(data)


@given(st.binary(max_size=50).filter(lambda part: len(part) % 2 == 0), st.binary(max_size=50))
def test_parts_combine(first: bytes, second: bytes) -> None:
    assert ones_complement_sum(second, ones_complement_sum(first)) == ones_complement_sum(first + second)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_parts_combine_at_odd_offsets_too(data: bytes, cuts: list[int]) -> None:
    assert sum_in_parts(data, sorted(cut for cut in cuts if cut < len(data))) == plainly(data)


@given(
    st.binary(min_size=4, max_size=60).filter(lambda data: len(data) % 2 == 0),
    st.integers(0, 28),
    st.binary(min_size=2, max_size=2),
)
def test_a_checksum_follows_a_changed_word(data: bytes, word: int, new: bytes) -> None:
    """RFC 1624. Data of nothing but zeros, of which no header consists, has two sums."""
    at = 2 * (word % (len(data) // 2))
    changed = data[:at] + new + data[at + 2 :]
    after = adjust(internet_checksum(data), int.from_bytes(data[at : at + 2], "big"), int.from_bytes(new, "big"))
    assert after % 0xFFFF == internet_checksum(changed) % 0xFFFF
    if any(data) and any(changed):
        assert after == internet_checksum(changed)


def test_large_data() -> None:
    assert ones_complement_sum(b"\xff" * (1 << 20)) == 0xFFFF
    assert ones_complement_sum(b"\x12\x34" * (1 << 19)) == plainly(b"\x12\x34" * (1 << 19))


@given(st.binary(min_size=2, max_size=60).filter(lambda data: len(data) % 2 == 0))
def test_a_checked_packet_sums_to_all_ones(data: bytes) -> None:
    checksum = internet_checksum(data)
    assert ones_complement_sum(data + checksum.to_bytes(2, "big")) == 0xFFFF


@pytest.mark.parametrize(("source", "destination"), [(b"1234", b"1" * 16), (b"", b"")])
def test_addresses_of_one_version(source: bytes, destination: bytes) -> None:
    with pytest.raises(ValueError, match="4 or of 16"):
        pseudo_header_sum(source, destination, 6, 20)
