from typing import Any

class Table:
    """Objects by 64-bit numbers. seed: a number that the peer does not know."""

    size: int
    def __init__(self, seed: int) -> None: ...
    def __len__(self) -> int: ...
    def put(self, key: int, value: Any) -> None:
        """Store value, in the place of what was there."""
    def find(self, key: int) -> Any:
        """None when there is none."""
    def remove(self, key: int) -> Any:
        """What was there, or None."""
    def remove_all(self) -> None: ...
