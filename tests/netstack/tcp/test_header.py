"""TCP headers: what is written is read by scapy, what scapy writes is read, and nothing that may come raises."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from quicsocks.netstack.checksum import pseudo_header_sum
from quicsocks.netstack.tcp.header import look, write

from .peer import packet_of

A4, B4, A6, B6 = "192.0.2.1", "198.51.100.7", "2001:db8::1", "2001:db8:ffff::7"
PAIRS = st.sampled_from([(A4, B4), (A6, B6)])
NUMBERS = st.integers(0, 0xFFFFFFFF)
PORTS = st.integers(0, 65535)

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "mss": st.integers(1, 65535),
        "scale": st.integers(0, 14),
        "sack_permitted": st.just(True),
        "timestamps": st.tuples(NUMBERS, NUMBERS),
    },
)


def options_of(fields: dict[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    if "mss" in fields:
        found.append(("MSS", fields["mss"]))
    if "scale" in fields:
        found.append(("WScale", fields["scale"]))
    if "sack_permitted" in fields:
        found.append(("SAckOK", b""))
    if "timestamps" in fields:
        found.append(("Timestamp", fields["timestamps"]))
    return found


@settings(max_examples=200)
@given(
    PAIRS, PORTS, PORTS, NUMBERS, NUMBERS, st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=99), OPTIONS
)
def test_scapy_reads_what_is_written(
    pair: tuple[str, str], sport: int, dport: int, seq: int, ack: int, flags: int, window: int, data: bytes, fields: Any
) -> None:
    source, destination = pair
    packed = ip_address(source).packed, ip_address(destination).packed
    # The sum of the pseudo-header without a length, as it stands in memory.
    pseudo = struct.unpack("<H", struct.pack(">H", pseudo_header_sum(*packed, 6, 0)))[0]
    segment = write(sport, dport, seq, ack, flags, window, data, pseudo=pseudo, **fields)
    network: Any = IPv6(src=source, dst=destination) if ":" in source else IP(src=source, dst=destination)
    packet = bytes(network / TCP(segment))
    found = (IPv6 if ":" in source else IP)(packet)[TCP]
    assert (found.sport, found.dport, found.seq, found.ack, int(found.flags), found.window) == (
        sport, dport, seq, ack, flags, window
    )  # fmt: skip
    assert bytes(found.payload) == data
    assert [option for option in found.options if option[0] not in ("NOP", "EOL")] == options_of(
        dict(sorted(fields.items(), key=lambda item: ["mss", "scale", "sack_permitted", "timestamps"].index(item[0])))
    )
    wanted = found.chksum
    del found.chksum
    assert network.__class__(bytes(network / found))[TCP].chksum == wanted
    assert look(packet) is not None


@settings(max_examples=200)
@given(
    PAIRS, PORTS, PORTS, NUMBERS, NUMBERS, st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=99), OPTIONS,
    st.lists(st.tuples(NUMBERS, NUMBERS), max_size=2),
)  # fmt: skip
def test_what_scapy_writes_is_read(
    pair: tuple[str, str], sport: int, dport: int, seq: int, ack: int, flags: int, window: int, data: bytes, fields: Any,
    sacks: list[tuple[int, int]],
) -> None:  # fmt: skip
    source, destination = pair
    options = options_of(fields)
    if sacks and "timestamps" not in fields:
        options.append(("SAck", tuple(number for block in sacks for number in block)))
    network: Any = IPv6(src=source, dst=destination) if ":" in source else IP(src=source, dst=destination)
    packet = bytes(
        network
        / TCP(sport=sport, dport=dport, seq=seq, ack=ack, flags=flags, window=window, options=options)
        / Raw(data)
    )
    found = look(packet)
    assert found is not None
    assert (found["source_port"], found["destination_port"]) == (sport, dport)
    assert (found["sequence"], found["acknowledgement"], found["flags"], found["window"]) == (seq, ack, flags, window)
    assert found["data"] == data
    for name in ("mss", "scale", "timestamps"):
        assert found[name] == fields.get(name)
    assert found["sack_permitted"] == ("sack_permitted" in fields)
    if sacks and "timestamps" not in fields:
        assert found["sacks"] == sacks


def plain(options: bytes, data: bytes = b"data") -> bytes:
    """A packet with these octets as options, a multiple of four."""
    assert len(options) % 4 == 0
    head = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, (20 + len(options)) << 2, 16, 5, 0, 0)
    return packet_of(A4, B4, head + options + data)


@pytest.mark.parametrize(
    "options",
    [
        b"\x02\x00\x05\xb4",  # a length of 0
        b"\x02\x01\x05\xb4",  # and of 1
        b"\x02\x28\x05\xb4",  # beyond the header
        b"\x01\x01\x01\x08",  # no room for a length
        b"\xfd\xff\x00\x00",
    ],
)
def test_must_7_impossible_option_lengths_are_coped_with(options: bytes) -> None:
    found = look(plain(options))
    assert found is not None
    assert found["data"] == b"data"
    assert found["mss"] is None


def test_must_6_unknown_options_are_skipped() -> None:
    found = look(plain(b"\xfe\x06abcd\x02\x04\x05\xb4\x00\x00"))
    assert found is not None
    assert found["mss"] == 1460


def test_must_64_options_begin_anywhere() -> None:
    found = look(plain(b"\x01\x02\x04\x05\xb4\x08\x0a\x00\x00\x00\x07\x00\x00\x00\x09\x03\x03\x0f\x04\x02"[:20]))
    assert found is not None
    assert (found["mss"], found["timestamps"]) == (1460, (7, 9))
    assert found["scale"] == 14, "RFC 7323 §2.3: more counts as 14"
    assert found["sack_permitted"]


def test_must_68_a_length_that_is_not_the_options_is_skipped_over() -> None:
    found = look(plain(b"\x02\x03\x01\x03\x04\x05\x01\x04\x02\x00\x00\x00"))
    assert found is not None
    assert (found["mss"], found["scale"], found["sack_permitted"]) == (None, None, True)


def test_nothing_is_read_behind_the_end_of_options() -> None:
    found = look(plain(b"\x00\x00\x00\x00\x02\x04\x05\xb4"))
    assert found is not None
    assert found["mss"] is None


def test_must_3_a_wrong_checksum_is_noticed_wherever_a_bit_has_changed() -> None:
    whole = plain(b"\x02\x04\x05\xb4", b"0123456789")
    assert look(whole) is not None
    for at in range(20, len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            assert look(changed) is None


@pytest.mark.parametrize("offset", [0, 1, 4, 7, 15])
def test_a_data_offset_that_cannot_be_is_refused(offset: int) -> None:
    segment = bytearray(struct.pack("!HHIIBBHHH", 1, 2, 3, 4, offset << 4, 16, 5, 0, 0) + b"1234")
    assert (look(packet_of(A4, B4, bytes(segment))) is None) == (offset != 6 and offset != 5)


@settings(max_examples=400)
@given(st.binary(max_size=80), st.integers(0, 15))
def test_nothing_raises(octets: bytes, words: int) -> None:
    look(packet_of(A4, B4, octets if len(octets) >= 20 else octets.ljust(20, b"\0")))
    options = octets[: len(octets) & ~3][:40]
    look(plain(options))
    look(octets)
