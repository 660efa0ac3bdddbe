"""Fixtures of this folder; see fixtures.py."""

from tests.interop.fixtures import company, loopback, product, proxy, system

__all__ = ["company", "loopback", "product", "proxy", "system"]
