"""Fixtures of this folder; see fixtures.py."""

from tests.interop.fixtures import loopback, product, proxy, system

__all__ = ["loopback", "product", "proxy", "system"]
