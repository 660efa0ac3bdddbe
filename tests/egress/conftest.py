"""The event loops that the tests here run on."""

from .loops import run

__all__ = ["run"]
