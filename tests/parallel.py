"""Runs all tests in two processes at once: ``python -m tests.parallel``.

One has those that only compute, the other those that wait for programs, sockets and time. The first's output comes when it
has ended, behind the second's. On one processor they run one after the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

COMPUTING = ("quic", "sim", "fuzz", "netstack", "lane", "tunnel")
"""Folders below tests; all others are the other process's, new ones too."""


def arguments(computing: bool) -> list[str]:
    """What makes pytest run one half. A folder that is not there is a mistake here."""
    folders = [Path("tests", name) for name in COMPUTING]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise SystemExit(f"no such folders: {', '.join(missing)}")
    if computing:
        return [str(folder) for folder in folders]
    return ["tests", *(f"--ignore={folder}" for folder in folders)]


def main() -> int:
    command = [sys.executable, "-m", "pytest"]
    with tempfile.TemporaryFile() as output:
        first = subprocess.Popen([*command, *arguments(True)], stdout=output, stderr=subprocess.STDOUT)
        try:
            if os.cpu_count() == 1:
                first.wait()
            second = subprocess.run([*command, *arguments(False)], check=False).returncode
            first.wait()
        finally:
            first.kill()
            first.wait()
        output.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(output.read())
    return second or first.returncode


if __name__ == "__main__":
    sys.exit(main())
