"""Which exit ``run`` takes, and its link.

In this order: a link or a name on the command line (with --link-file: that file's link under that name), a link in the
environment, ``default_exit``, the only exit there is. A name is looked up in the file's [exit.NAME] tables first, then
among the saved links; a table without a link of its own and a saved link of the same name belong together.
"""

from __future__ import annotations

from .config_layers import Resolver, checked_text
from .config_schema import EXIT_SETTING, LINK_SETTING
from .link import Link, is_name, looks_like_link, parse
from .profiles import LinkStore


class ExitChooser:
    """Which exit ``run`` takes, and its link."""

    def __init__(self, resolver: Resolver, store: LinkStore) -> None:
        self._resolver = resolver
        self._store = store

    def choose(self, argument: str | None) -> tuple[str, Link | None]:
        """Name and link; None with an error noted."""
        resolver = self._resolver
        if argument is not None and looks_like_link(argument):
            resolver.remarks.append(
                "other users can see a link on the command line in the list of processes; better: quicsocks link add"
            )
            return self._named("", self._parse(argument, "the link on the command line"))
        if argument == "-":
            return self._named("", self._parse(self._stdin(), "the link on standard input"))
        if argument is not None and not is_name(argument):
            resolver.errors.append(f"{argument!r} is neither a name nor a link; links begin with quicsocks://")
            return "", None
        layer = resolver.flag_layer(LINK_SETTING)
        if "link_file" in layer and layer["link_file"].value == "-":
            return self._named(argument or "", self._parse(self._stdin(), "the link on standard input"))
        entry = resolver.secret(LINK_SETTING, layer)
        if entry is None and argument is None:
            entry = resolver.secret(LINK_SETTING, resolver.variable_layer(LINK_SETTING))
        if resolver.errors:
            return "", None
        if entry is not None:
            return self._named(argument or "", self._parse(entry.value, entry.source))
        name = argument or self._default()
        return (name, self._known(name)) if name is not None else ("", None)

    def _known(self, name: str) -> Link | None:
        """The link of a named exit, from the file or saved."""
        resolver = self._resolver
        layer = resolver.file.exits.get(name, {})
        entry = resolver.secret(LINK_SETTING, layer)
        if resolver.errors:
            return None
        if entry is not None:
            return self._parse(entry.value, entry.source)
        link: Link | None = resolver.attempt(lambda: self._store.load(name))
        if link is None and name in resolver.file.exits and not resolver.errors:
            resolver.errors.append(
                f"the exit {name} has no link; save one with: quicsocks link add {name}, or set link_file in [exit.{name}]"
            )
        elif link is None and not resolver.errors:
            known = self._names()
            hint = f"known are: {', '.join(known)}" if known else "none is"
            resolver.errors.append(f"no exit {name} is known ({hint}); save its link with: quicsocks link add {name}")
        elif link is not None:
            self._remark(link)
        return link

    def _default(self) -> str | None:
        resolver = self._resolver
        named = resolver.values([EXIT_SETTING], [resolver.file.common]).get(EXIT_SETTING.attribute)
        if named is not None:
            return str(named)
        known = self._names()
        if len(known) == 1:
            return known[0]
        if known:
            resolver.errors.append(
                f"which exit? There are {', '.join(known)}; name one, e.g.: quicsocks run {known[0]}"
            )
        else:
            resolver.errors.append(
                "no exit is known; save its link with: quicsocks link add NAME (the concentrator's owner has it)"
            )
        return None

    def _names(self) -> list[str]:
        return sorted({*self._resolver.file.exits, *self._store.names()})

    def _parse(self, text: object, source: str) -> Link | None:
        try:
            link = parse(checked_text(text))
        except ValueError as error:
            self._resolver.errors.append(f"{source}: {error}")
            return None
        self._remark(link)
        return link

    def _remark(self, link: Link) -> None:
        self._resolver.remarks.extend(link.remarks)

    def _named(self, name: str, link: Link | None) -> tuple[str, Link | None]:
        if not name and link is not None:
            name = link.name or (link.host if is_name(link.host) else "exit")
        return name, link

    def _stdin(self) -> str:
        return self._resolver.options.read_stdin()
