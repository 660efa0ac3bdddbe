"""``make sanitize`` and ``make debug-test`` run the other tests on what they say, and what is wrong there is noticed.

Both set QUICSOCKS_TEST_BUILD; without it there is nothing to check.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from tests.conftest import ROOT

BUILD = os.environ.get("QUICSOCKS_TEST_BUILD", "")
pytestmark = pytest.mark.skipif(
    not BUILD, reason="the ordinary build has no checks; see make sanitize, make debug-test"
)

NEVER_WRITTEN = """
from quicsocks.netstack.send_buffer import SendBufferFace
buffer = SendBufferFace()
buffer.write_octets(b"abc")
buffer.was_sent(0, 3, False)
buffer.was_lost(0, 100_000, False)
print(buffer.next_piece(1 << 20, 1 << 20))
"""
"""What no caller of ours does: octets count as lost that have never been written, and are read to be sent again."""


def test_the_extensions_are_those_of_the_build() -> None:
    loaded = {
        name: Path(file)
        for name, module in sys.modules.items()
        if name.startswith("quicsocks.")
        and (file := getattr(module, "__file__", None) or "").endswith(tuple(EXTENSION_SUFFIXES))
    }
    code = "import quicsocks.userspace.quic.native.connection as it; print(it.__file__)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded["of a process of its own"] = Path(said.stdout.strip())
    for name, file in loaded.items():
        assert file.resolve().is_relative_to(ROOT / "build" / BUILD), name


def test_what_is_wrong_is_noticed() -> None:
    done = subprocess.run([sys.executable, "-c", NEVER_WRITTEN], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert {"sanitize": "runtime error: null pointer", "debug": "AssertionError"}[BUILD] in done.stderr
