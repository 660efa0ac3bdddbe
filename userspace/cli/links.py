"""``quicsocks link``: the saved links."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from pathlib import Path

from ..config import common_settings
from ..link import MAX_LINK, LinkError, format_pin, is_name, looks_like_link, parse
from ..profiles import LinkStore
from ..state import read_private
from .parser import FOLDERS, Commands, Parser, UsageError, add_command, add_common, options_of


def register(commands: Commands) -> None:
    """Add the command and its own commands."""
    parser = add_command(
        commands,
        "link",
        "save, list and remove links",
        "Save, list and remove links. A link says where an exit is and holds a secret: it is saved for your eyes only.",
        "quicsocks link add home",
        handler=_no_action,
    )
    actions = parser.add_subparsers(metavar="ACTION", parser_class=Parser)
    add = add_command(
        actions,
        "add",
        "save a link",
        "Save a link: paste it at the prompt, or give it on standard input or in a file.",
        "quicsocks link add home < home.link",
        handler=_add,
    )
    add.add_argument("_name", metavar="NAME", nargs="?", help="what to call it (default: the name in the link)")
    add.add_argument("--file", metavar="FILE", dest="_file", help="read the link from a file; - for standard input")
    listing = add_command(
        actions,
        "list",
        "list saved links",
        "List saved links, without their secrets.",
        "quicsocks link list",
        handler=_list,
    )
    listing.add_argument("--json", action="store_true", dest="_json", help="for machines")
    listing.add_argument("--names", action="store_true", dest="_names", help="names only, one a line")
    remove = add_command(
        actions, "remove", "remove a saved link", "Remove a saved link.", "quicsocks link remove home", handler=_remove
    )
    remove.add_argument("_name", metavar="NAME", help="its name")
    for one in (add, listing, remove):
        add_common(one, FOLDERS)


def _no_action(arguments: argparse.Namespace) -> int:
    raise UsageError("say what to do with links: add, list or remove; see: quicsocks link --help")


def _store(arguments: argparse.Namespace) -> LinkStore:
    return LinkStore(common_settings(options_of(arguments)).state_dir)


def _add(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    name = arguments._name
    if name is not None and looks_like_link(name):
        if arguments._file is not None:
            raise UsageError("a link is given as an argument and as a file; give one")
        print(
            "quicsocks: other users can see a link on the command line in the list of processes; "
            "better paste it at the prompt of: quicsocks link add NAME",
            file=sys.stderr,
        )
        link, name = parse(name), None
    else:
        if name is not None and not is_name(name):
            raise UsageError(f"{name!r} cannot be a name; use up to 63 letters, digits, '.', '_' and '-'")
        link = parse(_read(arguments._file))
    name = name or link.name
    if not name:
        raise UsageError("the link has no name of its own; give one: quicsocks link add NAME")
    for remark in link.remarks:
        print(f"quicsocks: {remark}", file=sys.stderr)
    existed = store.path(name).exists()
    store.save(name, link)
    print(
        f"quicsocks: {'replaced' if existed else 'saved'} {name} ({link.authority}); now: quicsocks run {name}",
        file=sys.stderr,
    )
    return 0


def _read(file: str | None) -> str:
    if file is not None and file != "-":
        try:
            data = read_private(Path(file), what="link file")
        except FileNotFoundError:
            raise LinkError(f"there is no file {file}") from None
        return data.decode("utf-8", "replace")
    if file is None and sys.stdin.isatty():
        try:
            return getpass.getpass("link (not shown): ")
        except EOFError:
            return ""
        except KeyboardInterrupt:
            print(file=sys.stderr)  # the shell's next prompt gets a line of its own
            raise
    return sys.stdin.read(MAX_LINK + 1)


def _list(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    names = store.names()
    if arguments._names:
        for name in names:
            print(name)
        return 0
    links = {name: store.load(name) for name in names}
    if arguments._json:
        rows = [
            {
                "name": name,
                "host": link.host,
                "port": link.port,
                "pins": [format_pin(pin) for pin in link.pins],
                "alpn": link.alpn or "quicsocks/1",
                "token": bool(link.token),
            }
            for name, link in links.items()
            if link is not None
        ]
        print(json.dumps(rows, indent=1))
        return 0
    if not links:
        print("quicsocks: no link is saved; save one with: quicsocks link add NAME", file=sys.stderr)
    width = max(map(len, links), default=0)
    for name, link in links.items():
        if link is not None:
            trust = "pinned" if link.pins else "certificate authority"
            print(f"{name:<{width}}  {link.authority}  {trust}{'  qt' if link.alpn else ''}")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    if not store.remove(arguments._name):
        known = ", ".join(store.names()) or "none is saved"
        raise LinkError(f"there is no saved link {arguments._name} ({known})")
    return 0
