"""Saved links: one file each in the state folder, ``links/NAME.link``, 0600.

A link holds a token, so it is stored as a secret; what is listed shows everything but the token.
"""

from __future__ import annotations

from pathlib import Path

from .link import Link, LinkError, is_name, parse
from .state import StateError, StateFolder, private_folder, read_private

FOLDER = "links"
SUFFIX = ".link"
MAX_LINKS = 1000
"""Saved links; a person has a few."""


class LinkStore:
    """The links saved in a state folder. The folder is made only when something is saved."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / FOLDER
        self._state_dir = state_dir

    def names(self) -> list[str]:
        """The names of all saved links, sorted."""
        try:
            found = sorted(path.name.removesuffix(SUFFIX) for path in self._folder.glob(f"*{SUFFIX}"))
        except OSError:
            return []
        return [name for name in found if is_name(name)]

    def load(self, name: str) -> Link | None:
        """The link of that name, None when there is none. Raises StateError: unreadable, readable by others, damaged."""
        if not is_name(name):
            return None
        path = self.path(name)
        try:
            data = read_private(path, what="saved link")
        except FileNotFoundError:
            return None
        try:
            return parse(data.decode("utf-8"))
        except (LinkError, UnicodeDecodeError) as error:
            why = str(error).removeprefix("bad link: ") if isinstance(error, LinkError) else "it is not text"
            raise StateError(
                f"the saved link {path} is damaged: {why}; save it again: quicsocks link add {name}"
            ) from None

    def save(self, name: str, link: Link) -> Path:
        """Save a link, in place of an older one of that name. Raises StateError."""
        if not is_name(name):
            raise StateError(f"{name!r} cannot be a name; use up to 63 letters, digits, '.', '_' and '-'")
        private_folder(self._state_dir)
        if len(self.names()) >= MAX_LINKS and not self.path(name).exists():
            raise StateError(f"there are {MAX_LINKS} saved links already; remove some: quicsocks link remove NAME")
        StateFolder(self._folder).write(name + SUFFIX, (link.uri + "\n").encode("ascii"))
        return self.path(name)

    def remove(self, name: str) -> bool:
        """Remove a link; False when there was none. Raises StateError."""
        return is_name(name) and self.path(name).exists() and StateFolder(self._folder).remove(name + SUFFIX)

    def path(self, name: str) -> Path:
        """The file of a link."""
        return self._folder / (name + SUFFIX)
