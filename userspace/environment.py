"""Proxy variables for applications: as a dict for ``run -- CMD``, as shell lines for ``quicsocks env``.

ALL_PROXY says socks5h, so that the far end resolves names; HTTP_PROXY and HTTPS_PROXY say http, which more programs
understand. Each in upper and lower case: curl reads only the lower-case http_proxy, others only upper case. NO_PROXY
keeps loopback out of the tunnel: the exit would refuse it, and it means this machine. Reads and sets nothing itself.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from .quic.types import Address
from .settings import Login

LOOPBACK = ("localhost", "127.0.0.1", "::1")
NAMES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
SHELLS = ("sh", "fish")

_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]+\Z")


def private_login() -> Login:
    """Credentials for one command's listener, so that no other program on the machine can use it."""
    return Login("run", secrets.token_hex(16))


def proxy_variables(address: Address, login: Login | None = None, no_proxy: Iterable[str] = ()) -> dict[str, str]:
    """The variables for a listener at address. With a login they hold a password: for a child's environment only."""
    host, port = address
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if login is not None:
        authority = f"{quote(login.username, safe='')}:{quote(login.password, safe='')}@{authority}"
    values = {
        "ALL_PROXY": f"socks5h://{authority}",
        "HTTP_PROXY": f"http://{authority}",
        "HTTPS_PROXY": f"http://{authority}",
        "NO_PROXY": ",".join(dict.fromkeys((*LOOPBACK, *no_proxy))),
    }
    return {spelling: values[name] for name in NAMES for spelling in (name, name.lower())}


def child_environment(environ: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """environ with the proxy variables, and without our own ones: a command needs no link, no password of ours."""
    kept = {name: value for name, value in environ.items() if not name.startswith("QUICSOCKS_")}
    # Of our variables the command may need the folders, e.g. to ask ``quicsocks status``.
    kept.update({name: environ[name] for name in ("QUICSOCKS_STATE", "QUICSOCKS_RUNTIME") if name in environ})
    return {**kept, **variables}


def export_lines(variables: Mapping[str, str], shell: str = "sh") -> str:
    """Lines that set the variables in a shell of SHELLS."""
    if shell == "fish":
        return "\n".join(f"set -gx {name} {_fish_quote(value)}" for name, value in variables.items())
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def unset_lines(shell: str = "sh") -> str:
    """Lines that remove the variables from a shell of SHELLS."""
    names = [spelling for name in NAMES for spelling in (name, name.lower())]
    if shell == "fish":
        return "\n".join(f"set -e {name}" for name in names)
    return f"unset {' '.join(names)}"


def _fish_quote(value: str) -> str:
    if _PLAIN.match(value):
        return value
    # fish(1): inside single quotes only the backslash and the quote itself are special.
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
