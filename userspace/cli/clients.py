"""``quicsocks client``: the clients of the concentrator on this machine.

Changes go to the file in the state folder; a concentrator that runs is told at once, and sees them by itself otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from .. import config_values
from ..config import concentrator_settings
from ..config_schema import CONCENTRATOR_SETTINGS
from ..enrolment import TOKEN_LIFETIME, Client, Registry
from ..identity import needs_pin, server_credentials
from ..link import Link
from ..output import forget_link, hand_out_link, link_host
from ..settings import ConcentratorSettings
from ..state import StateFolder
from ..status import StatusError, ask, duration, socket_path
from ..tunnel.types import TunnelLimits
from .parser import FOLDERS, Commands, Parser, UsageError, add_command, add_common, add_settings, options_of

_FOR_LINKS = ("listen", "public_name", "cert", "key", "print_link")


def register(commands: Commands) -> None:
    """Add the command and its own commands."""
    parser = add_command(
        commands,
        "client",
        "on the concentrator: invite, list and revoke clients",
        "On the concentrator's machine: invite, list and revoke clients.",
        "quicsocks client add laptop --public-name gw.example.com",
        handler=_no_action,
    )
    actions = parser.add_subparsers(metavar="ACTION", parser_class=Parser)
    add = add_command(
        actions,
        "add",
        "add a client and make its link",
        "Add a client and make its link, which enrols one machine, once.",
        "quicsocks client add laptop --expires 1d",
        handler=_add,
    )
    listing = add_command(
        actions, "list", "list clients", "List the concentrator's clients.", "quicsocks client list", handler=_list
    )
    listing.add_argument("--json", action="store_true", dest="_json", help="for machines")
    revoke = add_command(
        actions,
        "revoke",
        "refuse a client from now on",
        "Refuse a client, its key and its link, from now on; its connection ends at once.",
        "quicsocks client revoke laptop",
        handler=_revoke,
    )
    link = add_command(
        actions,
        "link",
        "make a new link for a client",
        "Make a new link for a client; an old one that was not used yet stops working.",
        "quicsocks client link laptop",
        handler=_link,
    )
    for one in (add, revoke, link):
        one.add_argument("_name", metavar="NAME", help="the client's name")
    for one in (add, link):
        one.add_argument(
            "--expires", metavar="TIME", dest="_expires", help="how long the link can be used (default: 7d)"
        )
        add_settings(one, CONCENTRATOR_SETTINGS, _FOR_LINKS)
    add.add_argument("--max-flows", metavar="N", dest="_max_flows", type=int, help="open flows of this client")
    add.add_argument(
        "--max-pending", metavar="N", dest="_max_pending", type=int, help="connects under way of this client"
    )
    add.add_argument("--rate", metavar="SIZE", dest="_rate", help="bytes per second of this client, e.g. 10M")
    for one in (add, listing, revoke, link):
        add_common(one, (*FOLDERS, "name"))


def _no_action(arguments: argparse.Namespace) -> int:
    raise UsageError("say what to do with clients: add, list, revoke or link; see: quicsocks client --help")


def _open(arguments: argparse.Namespace) -> tuple[ConcentratorSettings, StateFolder, Registry]:
    settings, remarks = concentrator_settings(options_of(arguments))
    for remark in remarks:
        print(f"quicsocks: {remark}", file=sys.stderr)
    folder = StateFolder(settings.state_dir)
    return settings, folder, Registry(folder)


def _add(arguments: argparse.Namespace) -> int:
    lifetime, limits = _lifetime(arguments), _limits(arguments)
    settings, folder, registry = _open(arguments)
    now = time.time()
    token = registry.add(arguments._name, now, lifetime=lifetime, limits=limits)
    return _hand_out(settings, folder, arguments._name, token, now)


def _link(arguments: argparse.Namespace) -> int:
    lifetime = _lifetime(arguments)
    settings, folder, registry = _open(arguments)
    now = time.time()
    token = registry.new_token(arguments._name, now, lifetime=lifetime)
    return _hand_out(settings, folder, arguments._name, token, now)


def _hand_out(settings: ConcentratorSettings, folder: StateFolder, name: str, token: bytes, now: float) -> int:
    _tell(settings)
    credentials = server_credentials(folder, settings.certificate_file, settings.key_file)
    host, port, remark = _public(settings)
    pins = (credentials.pin,) if needs_pin(credentials, host, now) else ()
    link = Link(host=host, port=port, token=token, pins=pins, name=name)
    said = hand_out_link(link, folder, sys.stdout, print_link=settings.print_link)
    for line in (said, remark):
        if line:
            print(f"quicsocks: {line}", file=sys.stderr)
    return 0


def _public(settings: ConcentratorSettings) -> tuple[str, int, str]:
    """Host and port for the link: what the running concentrator says, else what the settings say."""
    told: dict[str, Any] = {}
    try:
        told = ask(socket_path(settings.runtime_dir, settings.name), {"command": "status"})
    except StatusError:
        pass  # none runs here; the settings know where it will listen
    listening = settings.listen
    if isinstance(told.get("listeners"), list):
        try:
            listening = tuple(config_values.parse_address(str(one), None) for one in told["listeners"]) or listening
        except ValueError:
            pass  # of another version; the settings are the better source then
    public = told.get("public")
    if settings.public_name is None and isinstance(public, str) and public:
        try:
            host, port = config_values.public_name(public)
            return host, port or listening[0][1], ""
        except ValueError:
            pass  # as above
    return link_host(settings.public_name, settings.public_port, listening)


def _revoke(arguments: argparse.Namespace) -> int:
    settings, folder, registry = _open(arguments)
    registry.revoke(arguments._name, time.time())
    answer = _tell(settings)
    forget_link(folder, arguments._name)
    if answer is None:
        told = "no concentrator is running here"
    else:
        ended = answer.get("ended", 0)
        told = f"{ended} connection{'' if ended == 1 else 's'} ended"
    print(f"quicsocks: {arguments._name} is revoked; {told}", file=sys.stderr)
    return 0


def _tell(settings: ConcentratorSettings) -> dict[str, Any] | None:
    """Tell the running concentrator; None when there is none, which then needs no telling."""
    try:
        return ask(socket_path(settings.runtime_dir, settings.name), {"command": "clients-changed"})
    except StatusError:
        return None


def _list(arguments: argparse.Namespace) -> int:
    _, _, registry = _open(arguments)
    now = time.time()
    clients = registry.clients()
    if arguments._json:
        print(json.dumps([_row(client, now) for client in clients], indent=1))
        return 0
    if not clients:
        print("quicsocks: there are no clients yet; add one with: quicsocks client add NAME", file=sys.stderr)
    width = max((len(client.name) for client in clients), default=0)
    for client in clients:
        parts = [f"{client.name:<{width}}", client.state(now)]
        if client.label:
            parts.append(f"as {client.label}")
        if client.last_seen is not None:
            parts.append(f"last seen {duration(now - client.last_seen)} ago")
        elif client.token is not None and client.token.used is None and now < client.token.expires:
            parts.append(f"link valid for {duration(client.token.expires - now)}")
        print("  ".join(parts))
    return 0


def _row(client: Client, now: float) -> dict[str, Any]:
    limits = client.limits
    return {
        "name": client.name,
        "state": client.state(now),
        "label": client.label,
        "created": client.created,
        "enrolled": client.enrolled,
        "last_seen": client.last_seen,
        "revoked": client.revoked,
        "key_sha256": client.key or None,
        "link_expires": client.token.expires if client.token is not None and client.token.used is None else None,
        "limits": None
        if limits is None
        else {
            "max_flows": limits.max_flows,
            "max_pending": limits.max_pending,
            "bytes_per_second": limits.bytes_per_second,
        },
    }


def _lifetime(arguments: argparse.Namespace) -> float:
    if arguments._expires is None:
        return TOKEN_LIFETIME
    try:
        lifetime = config_values.seconds(arguments._expires)
    except ValueError as error:
        raise UsageError(f"--expires: {error}") from None
    if not 1 <= lifetime <= 366 * 86400:
        raise UsageError("--expires: must be from 1 second to 366 days")
    return lifetime


def _limits(arguments: argparse.Namespace) -> TunnelLimits | None:
    rate = 0
    if arguments._rate is not None:
        try:
            rate = config_values.size(arguments._rate)
        except ValueError as error:
            raise UsageError(f"--rate: {error}") from None
    flows, pending = arguments._max_flows, arguments._max_pending
    if flows is None and pending is None and not rate:
        return None
    for option, value in (("--max-flows", flows), ("--max-pending", pending)):
        if value is not None and value < 1:
            raise UsageError(f"{option}: must be 1 or more")
    return TunnelLimits(max_flows=flows or 0, max_pending=pending or 0, bytes_per_second=rate)
