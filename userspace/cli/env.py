"""``quicsocks env``: proxy variables for a shell."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .. import config_values
from ..config import common_settings, no_proxy_hosts
from ..config_schema import CLIENT_SETTINGS
from ..environment import SHELLS, export_lines, proxy_variables, unset_lines
from ..quic.types import Address
from ..settings import DEFAULT_SOCKS_PORT
from .parser import FOLDERS, Commands, add_command, add_common, add_settings, options_of
from .status import running


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "env",
        "print proxy variables for a shell",
        "Print lines that set ALL_PROXY, HTTP_PROXY, HTTPS_PROXY and NO_PROXY for the running client.",
        'eval "$(quicsocks env)"        quicsocks env --shell fish | source',
        handler=_env,
    )
    parser.add_argument("_name", metavar="NAME", nargs="?", help="the client's name, when several run")
    parser.add_argument("--shell", choices=SHELLS, default="sh", dest="_shell", help="whose language (default: sh)")
    parser.add_argument("--unset", action="store_true", dest="_unset", help="print lines that remove the variables")
    add_settings(parser, CLIENT_SETTINGS, ("no_proxy",))
    add_common(parser, FOLDERS)


def _env(arguments: argparse.Namespace) -> int:
    if arguments._unset:
        print(unset_lines(arguments._shell))
        return 0
    options = options_of(arguments)
    common = common_settings(options)
    address, remark = _address(common.runtime_dir, arguments._name)
    if remark:
        print(f"quicsocks: {remark}", file=sys.stderr)
    no_proxy = no_proxy_hosts(options)
    print(export_lines(proxy_variables(address, None, no_proxy), arguments._shell))
    return 0


def _address(runtime_dir: Any, name: str | None) -> tuple[Address, str]:
    """The running client's first TCP listener, and a remark when that is not the whole story."""
    answers, _ = running(runtime_dir, name)
    clients = [answer for answer in answers if answer.get("role") == "client"]
    for answer in clients:
        address = _tcp_listener(answer)
        if address is not None:
            if answer.get("login_required"):
                return address, "the client asks for a user name and password; put them into the URLs yourself"
            if len(clients) > 1:
                return address, f"several clients run; this is {answer['instance']}, name another to have that"
            return address, ""
    default = ("127.0.0.1", DEFAULT_SOCKS_PORT)
    return default, "no client with a TCP listener is running; these are the default addresses"


def _tcp_listener(answer: dict[str, Any]) -> Address | None:
    for listener in answer.get("listeners", ()):
        try:
            host, port = config_values.parse_address(str(listener), None)
        except ValueError:
            continue  # a unix socket or a URL
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port
    return None
