"""What somebody may have meant by a word that does not exist."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word most like it, None when none is like enough. cutoff: 0 to 1, as difflib.get_close_matches has it."""
    from difflib import get_close_matches  # In the memory of those who have misspelt something.

    found = get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None
