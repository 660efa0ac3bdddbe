"""The process behind an emulated path: makes two network namespaces with a TUN device each and carries the packets.

Read bench/emulator.py first, which starts this with ``python -m bench.emulator_worker`` and speaks with it in JSON
lines: the first line in has the settings and the first line out says ready or what failed; later lines in are
commands. It ends when its standard input does, and the namespaces go with the last descriptor that refers to them.
It must not decide anything about packets: that is path_model.py's.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.path_model import LinkModel, LinkSettings, changed

CLONE_NEWNET = 0x40000000  # sched.h
TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000

DEVICE = "path0"
# Packets that the device holds while this process does something else. 10,000 are 1.2 s of 100 Mbit/s: more than any
# scheduling delay, so that only the model drops packets.
DEVICE_QUEUE = 10_000
# Packets taken from one device before the other one and the timers get their turn: about 0.3 ms of work.
BATCH = 64


class SetupError(Exception):
    """The path could not be made; the text says what failed and why."""


def main() -> int:
    """Serve one path until standard input ends. Returns the exit status."""
    request = json.loads(sys.stdin.buffer.readline())
    try:
        worker = Worker(request)
    except (SetupError, ValueError) as error:
        _reply({"error": str(error)})
        return 1
    _reply({"left": worker.namespaces[0], "right": worker.namespaces[1]})
    worker.run()
    return 0


class Worker:
    """Two namespaces, two devices, two directions. request: see ``EmulatedPath``."""

    def __init__(self, request: dict[str, Any]) -> None:
        ends = [_make_end(end, request) for end in request["ends"]]
        self.namespaces = [namespace for namespace, _ in ends]
        self._devices = [device for _, device in ends]
        seed = request["seed"]
        # links[0] carries what the left end sends, links[1] what the right end sends.
        self._links = [
            LinkModel(LinkSettings(**request["settings"][side]), random.Random(f"{seed}/{side}").random)
            for side in range(2)
        ]
        self._write_errors = 0
        try:
            # A late emulator is a wrong one: it runs as soon as it has something to do, before all ordinary programs.
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        except PermissionError:
            pass  # in a container without the right to do so it is only less exact; statistics.latest tells by how much
        # The kernel may delay a wake-up by its timer slack, 50 us by default: PR_SET_TIMERSLACK to 1 us.
        ctypes.CDLL(None).prctl(29, 1000, 0, 0, 0)

    def run(self) -> None:
        """Carry packets until standard input ends."""
        left, right = self._devices
        forward, back = self._links
        watched = [left, right, 0]
        pending = b""
        while True:
            timers = [timer for link in self._links if (timer := link.get_timer()) is not None]
            timeout = max(0.0, min(timers) - time.monotonic()) if timers else None
            # select, not epoll: its timeout has microseconds, epoll's has milliseconds, which are 8 packets here.
            ready, _, _ = select.select(watched, [], [], timeout)
            if left in ready:
                self._take(left, forward)
            if right in ready:
                self._take(right, back)
            now = time.monotonic()
            for packet in forward.packets_to_send(now):
                self._give(right, packet)
            for packet in back.packets_to_send(now):
                self._give(left, packet)
            if 0 in ready:
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    self._command(json.loads(line))

    def _take(self, device: int, link: LinkModel) -> None:
        receive, read, now = link.receive_packet, os.read, time.monotonic()
        for _ in range(BATCH):
            try:
                packet = read(device, 65535)
            except BlockingIOError:
                return
            receive(packet, now)

    def _give(self, device: int, packet: bytes) -> None:
        try:
            os.write(device, packet)
        except OSError:
            # The device is down or has no memory: for the path that is one more lost packet.
            self._write_errors += 1

    def _command(self, command: dict[str, Any]) -> None:
        if "change" in command:
            try:
                settings = [
                    changed(link.settings, **values)
                    for link, values in zip(self._links, command["change"], strict=True)
                ]
            except ValueError as error:
                _reply({"error": str(error)})
                return
            for link, new in zip(self._links, settings, strict=True):
                link.change(new)
            _reply({})
        else:
            _reply(
                {
                    "links": [asdict(link.statistics) for link in self._links],
                    "write_errors": self._write_errors,
                    "cpu_seconds": time.process_time(),
                }
            )


def _make_end(end: dict[str, Any], request: dict[str, Any]) -> tuple[int, int]:
    """Make one namespace with its device, and return descriptors of both. This process then stands in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise SetupError(f"cannot make a network namespace: {os.strerror(ctypes.get_errno())}")
    try:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    except OSError as error:
        raise SetupError(f"cannot make a TUN device: {error.strerror}") from None
    for line in (
        "link set lo up",
        f"link set {DEVICE} mtu {request['mtu']} txqueuelen {DEVICE_QUEUE} addrgenmode none",
        f"addr add {end['address']} peer {end['peer']} dev {DEVICE}",
        f"link set {DEVICE} up",
    ):
        _ip(line)
    if request["congestion_control"] is not None:
        _sysctl("ipv4/tcp_congestion_control", request["congestion_control"])
    # The kernel remembers a destination's RTT and threshold; whoever is measured second would profit from the first.
    _sysctl("ipv4/tcp_no_metrics_save", "1")
    if Path("/proc/net/if_inet6").exists():
        _ip(f"-6 addr add {end['address6']} peer {end['peer6']} dev {DEVICE} nodad")
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC), device


def _ip(arguments: str) -> None:
    try:
        result = subprocess.run(["ip", *arguments.split()], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SetupError("the program ip is missing: install iproute2") from None
    if result.returncode != 0:
        raise SetupError(f"ip {arguments}: {result.stderr.strip()}")


def _sysctl(name: str, value: str) -> None:
    try:
        Path("/proc/sys/net", name).write_text(value)
    except OSError as error:
        raise SetupError(f"cannot set net/{name} to {value}: {error.strerror}") from None


def _reply(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
