"""Which of several processes on one port a datagram is for: the worker that its connection ID names.

Read draft-ietf-quic-load-balancers and ``cid`` first: a worker's number is the last octet of the server ID. The same
decision stands here twice, as a program for the kernel and as a function, for datagrams that the kernel gave to another
worker. This file must not import asyncio, socket, time or random.

The program is classic BPF, which needs no privilege (bpf(2) is not involved). Attached to a group of SO_REUSEPORT sockets
it sees a datagram from its first octet and returns the number of a socket, in the order in which they were bound; a
number that no socket has leaves the choice to the kernel's hash of the addresses (socket(7), SO_ATTACH_REUSEPORT_CBPF).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from .cid import LENGTH, SERVER_ID_LENGTH, UNROUTABLE_CONFIG

MOST_WORKERS = 64
"""Processes on one port: as many as the cores of a large machine; a worker's number has to fit into an octet."""

LONG_HEADER = 0x80
FIXED_BIT = 0x40
_FIRST = UNROUTABLE_CONFIG << 5 | (LENGTH - 1)
_PREFIX = bytes([_FIRST, *bytes(SERVER_ID_LENGTH - 1)])
_SHORT_CID = 1
"""Where the Destination Connection ID of a short header begins (RFC 9000 §17.3)."""
_LONG_CID = 6
"""The same of a long header, behind its length (RFC 9000 §17.2)."""
_CHOSEN = 4
"""Which octets of a client's own Destination Connection ID decide, unpredictable by RFC 9000 §7.2: the last four of
the first eight."""

# linux/bpf_common.h
_LD_WORD, _LD_BYTE = 0x20, 0x30
_JEQ, _JGE, _JSET = 0x15, 0x35, 0x45
_MOD = 0x94
_RET_K, _RET_A = 0x06, 0x16
_INSTRUCTION = struct.Struct("=HBBI")
"""struct sock_filter of linux/filter.h."""
_Line = tuple[int, int | str, int | str, int]
"""Operation, where to jump when it is so and when not (how many lines to pass over, or a label), operand."""


def worker_of(data: bytes, workers: int) -> int | None:
    """The number of the worker that a datagram is for, below workers; None when it does not say."""
    if not data:
        return None
    if data[0] & LONG_HEADER:
        if len(data) < _LONG_CID + LENGTH:
            return None
        cid = data[_LONG_CID : _LONG_CID + data[5]]
        named = _named(cid) if data[5] == LENGTH else None
        if named is not None and named < workers:
            return named
        if not data[0] & FIXED_BIT:
            return None
        # A client's own choice, in its first packets: all of them go where the first one went.
        return int.from_bytes(data[_LONG_CID + _CHOSEN : _LONG_CID + _CHOSEN + 4], "big") % workers
    if not data[0] & FIXED_BIT:
        return None
    named = _named(data[_SHORT_CID : _SHORT_CID + LENGTH])
    return named if named is not None and named < workers else None


def is_client_chosen(data: bytes, workers: int) -> bool:
    """Whether it begins with a long header whose Destination Connection ID names no worker."""
    if not data or not data[0] & LONG_HEADER:
        return False
    named = _named(data[_LONG_CID : _LONG_CID + LENGTH]) if len(data) > 5 and data[5] == LENGTH else None
    return named is None or named >= workers


def _named(cid: bytes) -> int | None:
    if len(cid) != LENGTH or not cid.startswith(_PREFIX):
        return None
    return cid[SERVER_ID_LENGTH]


def program(workers: int) -> bytes:
    """``worker_of`` as an array of struct sock_filter. workers: 2 to MOST_WORKERS.

    A load beyond the datagram's end ends the program with 0: such a datagram is of no use to anybody.
    """
    if not 2 <= workers <= MOST_WORKERS:
        raise ValueError(f"{workers} workers; 2 to {MOST_WORKERS} share a port")
    return _assemble([
        (_LD_BYTE, 0, 0, 0),
        (_JSET, "long", 0, LONG_HEADER),
        (_JSET, 0, "any", FIXED_BIT),
        *_cid_names(_SHORT_CID, workers, "any"),
        "long",
        (_LD_BYTE, 0, 0, 5),
        (_JEQ, 0, "chosen", LENGTH),
        *_cid_names(_LONG_CID, workers, "chosen"),
        "chosen",
        (_LD_BYTE, 0, 0, 0),
        (_JSET, 0, "any", FIXED_BIT),
        (_LD_WORD, 0, 0, _LONG_CID + _CHOSEN),
        (_MOD, 0, 0, workers),
        (_RET_A, 0, 0, 0),
        "any",
        (_RET_K, 0, 0, 0xFFFFFFFF),
    ])  # fmt: skip


def _cid_names(at: int, workers: int, otherwise: str) -> list[_Line]:
    """Return what the connection ID at that octet names; go to otherwise when it is not of our layout."""
    lines: list[_Line] = []
    for place, octet in enumerate(_PREFIX):
        lines += [(_LD_BYTE, 0, 0, at + place), (_JEQ, 0, otherwise, octet)]
    return [*lines, (_LD_BYTE, 0, 0, at + len(_PREFIX)), (_JGE, otherwise, 0, workers), (_RET_A, 0, 0, 0)]


def _assemble(lines: Sequence[_Line | str]) -> bytes:
    """Jumps may name labels, the lines that are words."""
    labels: dict[str, int] = {}
    code: list[_Line] = []
    for line in lines:
        if isinstance(line, str):
            labels[line] = len(code)
        else:
            code.append(line)

    def distance(target: int | str, at: int) -> int:
        return labels[target] - at - 1 if isinstance(target, str) else target

    return b"".join(
        _INSTRUCTION.pack(operation, distance(yes, at), distance(no, at), value)
        for at, (operation, yes, no, value) in enumerate(code)
    )
