"""Fixtures of this folder; see tests/interop/fixtures.py."""

from tests.interop.fixtures import loopback

__all__ = ["loopback"]
