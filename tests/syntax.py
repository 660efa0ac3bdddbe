"""Parsing the project's own sources, for the tests that read them."""

from __future__ import annotations

import ast


def parse(source: str, name: str = "<unknown>") -> ast.Module:
    """As ast.parse, once more when Python's own counter of recursion got out of step (CPython issue 106905: before
    3.11.5 a garbage collection at the wrong moment is enough)."""
    try:
        return ast.parse(source, name)
    except SystemError:
        return ast.parse(source, name)
