"""The limit on open descriptors: raised for us, and given back to the commands that we start.

Each flow costs a descriptor, and the usual soft limit of 1024 dates from select(2). Commands get the old one: some
programs still use select, others close every possible descriptor at their start.
"""

from __future__ import annotations

import resource

MAX_WANTED = 1 << 20
"""Descriptors: enough for any use here; some containers have hard limits of a thousand millions."""

_original: int | None = None


def raise_limit() -> int:
    """Raise the soft limit to the hard one, and return what it is now. Never fails: a refusal leaves it as it is."""
    global _original
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _original is None:
        _original = soft
    wanted = MAX_WANTED if hard == resource.RLIM_INFINITY else min(hard, MAX_WANTED)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_WANTED if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted


def restore_limit(process_id: int) -> None:
    """Give a process that we have started the soft limit that we were started with, where the system lets us."""
    if _original is None or not hasattr(resource, "prlimit"):
        return
    try:
        _, hard = resource.prlimit(process_id, resource.RLIMIT_NOFILE)
        resource.prlimit(process_id, resource.RLIMIT_NOFILE, (_original, hard))
    except (OSError, ValueError):
        pass  # it has ended already, or changed its user
