"""What the program is told, put together: flags before environment before file before default.

``client_settings`` and ``concentrator_settings`` take the flags as the command line parsed them, the environment, and the
file, and return the frozen values of ``settings`` with remarks for the user; or they raise ConfigError with a line for
each thing that is wrong. Read first: ``config_schema`` (the table of settings), ``config_layers`` (how they are found).

Secrets come from a file (``..._file`` keys, ``..._FILE`` variables, ``--...-file`` flags), from the environment, or from a
configuration file that nobody else can read; never from a flag, where every user of the machine sees them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import config_values
from .config_exit import ExitChooser
from .config_file import ConfigError, ConfigFile, Layer, load
from .config_layers import Options, Resolver
from .config_schema import (
    CLIENT_SETTINGS,
    COMMON_SETTINGS,
    CONCENTRATOR_SETTINGS,
    EXIT_SETTING,
    LINK_SETTING,
)
from .environment import private_login
from .link import LinkError, parse
from .profiles import LinkStore
from .settings import (
    ClientLimits,
    ClientSettings,
    ConcentratorLimits,
    ConcentratorSettings,
    Login,
    OutputSettings,
    TransportSettings,
)
from .state import default_runtime_dir, default_state_dir

__all__ = [
    "ConfigError",
    "Options",
    "check_file",
    "client_settings",
    "common_settings",
    "concentrator_settings",
    "no_proxy_hosts",
]


@dataclass(frozen=True, slots=True)
class CommonSettings:
    """What every command needs."""

    state_dir: Path
    runtime_dir: Path
    instance: str | None
    output: OutputSettings
    transport: TransportSettings
    file: ConfigFile
    remarks: tuple[str, ...]


def common_settings(options: Options) -> CommonSettings:
    """Folders, output and transport. Raises ConfigError."""
    resolver = Resolver(options)
    values = resolver.values(COMMON_SETTINGS, [resolver.file.common])
    resolver.finish()
    return _common(resolver, values)


def client_settings(
    options: Options, argument: str | None = None, command: Sequence[str] | None = None
) -> tuple[ClientSettings, tuple[str, ...]]:
    """The settings of ``run [argument] [-- command]``, and remarks. Raises ConfigError."""
    resolver = Resolver(options)
    values = resolver.values(COMMON_SETTINGS, [resolver.file.common])
    if "state_dir" not in values:
        values["state_dir"] = resolver.attempt(lambda: default_state_dir(options.environ))
    name, link = "", None
    if values["state_dir"] is not None:
        chooser = ExitChooser(resolver, LinkStore(values["state_dir"]))
        name, link = chooser.choose(argument)
    exit_layer = resolver.file.exits.get(name, {})
    values |= resolver.values(CLIENT_SETTINGS, [exit_layer, resolver.file.client])
    resolver.finish()
    assert link is not None
    common = _common(resolver, values)
    login = _login(resolver, values.pop("username", None), values.pop("password", None))
    listen = tuple(values.pop("listen", ()))
    if command is not None:
        given = resolver.source_of("listen") == "user"
        listen = listen if given else (config_values.Listen(tcp=("127.0.0.1", 0)),)
        if all(item.tcp is None for item in listen):
            resolver.errors.append(
                f"{resolver.where('listen')}: a command behind -- is told of a TCP listener by its variables; "
                "add --listen 127.0.0.1:0, or leave --listen out"
            )
        login = login if resolver.source_of("password") == "user" else private_login()
    if login is None and not values.get("allow_open", False):
        _refuse_open(resolver, listen)
    if link.alpn == "qt" and "dns" not in values:
        resolver.remarks.append(
            "the link speaks bare qt and no resolver is set, so host names cannot be used; set one with --dns ADDRESS"
        )
    resolver.finish()
    settings = ClientSettings(
        name=name,
        link=link,
        state_dir=common.state_dir,
        runtime_dir=common.runtime_dir,
        instance=common.instance or (name if command is None else f"{name[:50]}.{os.getpid()}"),
        login=login,
        command=tuple(command) if command is not None else None,
        transport=common.transport,
        output=common.output,
        limits=_group(ClientLimits, values, "limits"),
        **_listeners(listen),
        **values,
    )
    return settings, tuple(resolver.remarks)


def concentrator_settings(options: Options) -> tuple[ConcentratorSettings, tuple[str, ...]]:
    """The settings of ``concentrator``, and remarks. Raises ConfigError."""
    resolver = Resolver(options)
    values = resolver.values(COMMON_SETTINGS, [resolver.file.common])
    values |= resolver.values(CONCENTRATOR_SETTINGS, [resolver.file.concentrator])
    resolver.finish()
    common = _common(resolver, values)
    if "certificate_file" in values and "key_file" not in values:
        resolver.errors.append(_CERTIFICATE_WITHOUT_KEY)
    if "public_name" in values:
        values["public_name"], values["public_port"] = _public_name(resolver, values["public_name"])
    listen = tuple(item.tcp for item in values.pop("listen", ()))
    if listen:
        values["listen"] = listen
    if common.instance:
        values["name"] = common.instance
    resolver.finish()
    settings = ConcentratorSettings(
        state_dir=common.state_dir,
        runtime_dir=common.runtime_dir,
        transport=common.transport,
        output=common.output,
        limits=_group(ConcentratorLimits, values, "limits"),
        reload=functools.partial(_reload, options),
        **values,
    )
    return settings, tuple(resolver.remarks)


def no_proxy_hosts(options: Options) -> tuple[str, ...]:
    """The user's hosts for NO_PROXY, for ``env``. Raises ConfigError."""
    resolver = Resolver(options)
    setting = next(setting for setting in CLIENT_SETTINGS if setting.key == "no_proxy")
    found: tuple[str, ...] = resolver.values([setting], [resolver.file.client]).get("no_proxy", ())
    resolver.finish()
    return found


def check_file(path: Path, environ: Mapping[str, str]) -> list[str]:
    """Everything that is wrong with a configuration file, in lines; empty when it can be used.

    Values are converted as if every section were used; links and secrets in other files are not read.
    """
    try:
        file = load(path, environ)
    except ConfigError as error:
        return list(error.errors)
    resolver = Resolver(Options(environ={}), file)
    resolver.read_secrets = False
    _check_transport(resolver, resolver.values((*COMMON_SETTINGS, EXIT_SETTING), [file.common]))
    _check_concentrator(resolver, resolver.values(CONCENTRATOR_SETTINGS, [file.concentrator]), environ)
    for layers in [[layer, file.client] for layer in file.exits.values()] or [[file.client]]:
        _check_client(resolver, layers, environ)
    # A key that every exit has of its own hides the general one, which may be wrong all the same.
    resolver.values((LINK_SETTING, *CLIENT_SETTINGS), [file.client])
    for layer in file.exits.values():
        entry = layer.get("link")
        if entry is not None and isinstance(entry.value, str):
            try:
                parse(entry.value)
            except LinkError as error:
                resolver.errors.append(f"{entry.source}: {error}")
    return list(dict.fromkeys(resolver.errors))


def _check_client(resolver: Resolver, layers: Sequence[Layer], environ: Mapping[str, str]) -> None:
    """What is wrong only together, in one exit's view of the file; a password may come from the environment."""
    values = resolver.values((LINK_SETTING, *CLIENT_SETTINGS), layers)
    named = any("password_file" in layer for layer in layers)
    if {"QUICSOCKS_USERNAME", "QUICSOCKS_PASSWORD", "QUICSOCKS_PASSWORD_FILE"} & environ.keys():
        return
    username, password = values.get("username"), "in a file" if named else values.get("password")
    _login(resolver, username, password)
    if username is None and password is None and not values.get("allow_open", False):
        _refuse_open(resolver, values.get("listen", ()))


def _check_transport(resolver: Resolver, values: Mapping[str, Any]) -> None:
    if values.get("transport.engine") == "aioquic" and values.get("transport.congestion") == "bbr":
        where = resolver.where("congestion")
        resolver.errors.append(f"{where}: bbr needs the native engine; with aioquic use cubic or reno")


def _check_concentrator(resolver: Resolver, values: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    if "certificate_file" in values and "key_file" not in values and "QUICSOCKS_KEY" not in environ:
        resolver.errors.append(_CERTIFICATE_WITHOUT_KEY)
    if "public_name" in values:
        _public_name(resolver, values["public_name"])


def _reload(options: Options) -> ConcentratorSettings:
    return concentrator_settings(options)[0]


def _common(resolver: Resolver, values: dict[str, Any]) -> CommonSettings:
    environ = resolver.options.environ
    state_dir = values.pop("state_dir", None) or resolver.attempt(lambda: default_state_dir(environ))
    runtime_dir = values.pop("runtime_dir", None) or resolver.attempt(lambda: default_runtime_dir(environ))
    _check_transport(resolver, values)
    resolver.finish()
    return CommonSettings(
        state_dir=Path(os.path.abspath(state_dir)),
        runtime_dir=Path(os.path.abspath(runtime_dir)),
        instance=values.pop("instance", None),
        output=_group(OutputSettings, values, "output"),
        transport=_group(TransportSettings, values, "transport"),
        file=resolver.file,
        remarks=tuple(resolver.remarks),
    )


_CERTIFICATE_WITHOUT_KEY = "a certificate is given without its key; give the key with --key FILE"


def _public_name(resolver: Resolver, named: str) -> tuple[str | None, int | None]:
    try:
        return config_values.public_name(named)
    except ValueError as error:
        resolver.errors.append(f"{resolver.where('public_name')}: {error}")
        return None, None


def _group(cls: Callable[..., Any], values: dict[str, Any], prefix: str) -> Any:
    """A sub-dataclass from the values whose attribute begins with its name; they are taken out."""
    names = [name for name in values if name.startswith(prefix + ".")]
    return cls(**{name.partition(".")[2]: values.pop(name) for name in names})


def _login(resolver: Resolver, username: str | None, password: str | None) -> Login | None:
    if username is None and password is None:
        return None
    if username is None or password is None:
        have, lack = ("password", "user name") if username is None else ("user name", "password")
        how = "--username NAME" if username is None else "--password-file FILE"
        key = "password" if username is None else "username"
        where = f"{resolver.where(key)}: " if resolver.source_of(key) else ""
        resolver.errors.append(f"{where}a {have} is set without a {lack}; set it with {how}")
        return None
    for what, text in (("user name", username), ("password", password)):
        if not 1 <= len(text.encode()) <= 255:  # RFC 1929 §2
            resolver.errors.append(f"the {what} must have from 1 to 255 bytes")
    if ":" in username:  # RFC 7617 §2
        resolver.errors.append("the user name must not contain a colon, because HTTP cannot carry it")
    return Login(username, password)


def _refuse_open(resolver: Resolver, listen: Sequence[config_values.Listen]) -> None:
    for item in listen:
        if item.tcp is not None and not config_values.is_loopback(item.tcp):
            host, port = item.tcp
            shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            resolver.errors.append(
                f"{resolver.where('listen')}: {shown} can be reached from other machines and needs a password; set "
                "--username and --password-file, or --allow-open to let everybody in"
            )


def _listeners(listen: Sequence[config_values.Listen]) -> dict[str, Any]:
    if not listen:
        return {}
    return {
        "listen_tcp": tuple(item.tcp for item in listen if item.tcp is not None),
        "listen_unix": tuple(item.unix for item in listen if item.unix is not None),
        "listen_urls": tuple(item.url for item in listen if item.url is not None),
    }
