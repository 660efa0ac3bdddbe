"""``quicsocks version``: what is installed."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

from .. import __version__
from .parser import Commands, add_command


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "version",
        "what is installed",
        "Print the version; with -v those of Python and the libraries too.",
        "quicsocks version -v",
        handler=show,
    )
    parser.add_argument("-v", action="store_true", dest="_more", help="libraries too")


def show(arguments: argparse.Namespace) -> int:
    """Print it."""
    print(f"quicsocks {__version__}")
    if getattr(arguments, "_more", False):
        print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
        for name in ("aioquic", "cryptography", "dnspython", "h11", "pproxy", "uvloop"):
            try:
                print(f"{name} {importlib.metadata.version(name)}")
            except importlib.metadata.PackageNotFoundError:
                print(f"{name} is not installed")
        from cryptography.hazmat.backends.openssl import backend

        print(f"handshake: {backend.openssl_version_text()}, bundled with cryptography")
    return 0
