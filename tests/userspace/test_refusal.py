"""What a client says when it cannot connect, and that it says it however quiet it was asked to be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from quicsocks.userspace.quic.errors import End, Ended
from quicsocks.userspace.refusal import explain

NEW_LINK = "get a new link (on the concentrator: quicsocks client link NAME)"


@pytest.mark.parametrize(
    ("ended", "text"),
    [
        (
            Ended(End.UNTRUSTED, reason="no names in it."),
            "the concentrator's key or certificate is not the expected one, so nothing was sent to it (no names in it); "
            f"if it was changed on purpose, {NEW_LINK}",
        ),
        (
            Ended(End.UNREACHABLE, reason="No route to host"),
            "nothing listens there, or the network does not carry packets to it (No route to host); check the address and "
            "that the concentrator runs",
        ),
        (
            Ended(End.UNREACHABLE, reason="cannot resolve gw.example.com: Name or service not known"),
            "cannot resolve gw.example.com: Name or service not known; check the name in the link, and that this machine "
            "can resolve names",
        ),
        (
            Ended(End.TIMED_OUT, reason="no answer to the authentication"),
            "nothing has been heard from the concentrator for too long (no answer to the authentication)",
        ),
        (
            Ended(End.PEER_RESET),
            "the concentrator no longer knows this connection; it has probably been restarted",
        ),
    ],
    ids=lambda value: value.end.name if isinstance(value, Ended) else "",
)
def test_the_reason_comes_before_the_advice(ended: Ended, text: str) -> None:
    assert explain(ended).text == text


@pytest.mark.parametrize("quiet", [[], ["-q"]], ids=["plain", "quiet"])
def test_why_the_program_ends_is_said_even_with_q(tmp_path: Path, quiet: list[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
    # Nobody has the port any more: the kernel refuses at once.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "quicsocks.userspace", "run", "--once", "--listen", "127.0.0.1:0", *quiet],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "QUICSOCKS_RUNTIME": str(tmp_path / "run"),
            "QUICSOCKS_LINK": f"quicsocks://127.0.0.1:{port}/",
        },
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert errors[0].startswith(f"quicsocks: error: cannot connect to 127.0.0.1:{port}: nothing listens there")
    assert len(done.stderr.splitlines()) == (1 if quiet else 2)
