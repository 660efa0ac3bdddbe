"""The event loops that the tests here run on."""

from tests.egress.loops import run

__all__ = ["run"]
