"""Every setting there is, in one table: its key in a file, its flag, its variable, its kind, and what it does.

``config`` reads settings by this table, the command line makes its flags from it, and docs/configuration.md contains
``markdown()``, which a test compares. Defaults are not here: they are those of the dataclasses in ``settings``. A
setting is named by the attribute that it sets, e.g. ``limits.connections`` or ``transport.engine``.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any

from .quic.steering import MOST_WORKERS
from .quic.types import CRYPTO_PROFILES
from .settings import (
    CONTROLLERS,
    ENGINES,
    EVENT_LOOPS,
    LOG_FORMATS,
    ClientSettings,
    ConcentratorSettings,
)


class Kind(enum.Enum):
    """What a value may be. The value is what the reference says of it."""

    TEXT = "text"
    NAME = "name"
    SECRET = "text (secret)"  # noqa: S105 - a kind of value
    PATH = "path"
    FLAG = "true or false"
    COUNT = "number"
    SIZE = "bytes, or with k, M, G"
    SECONDS = "seconds, or with s, min, h, d"
    CHOICE = "one of"
    ADDRESS = "address:port"
    HOST = "IP address"
    LISTEN = "list of addresses"
    LIST = "list of text"
    RULES = "list of rules"


class Scope(enum.Enum):
    """Which commands a setting is for, and so where in a file it stands."""

    COMMON = "top level"
    CLIENT = "[client] and [exit.NAME]"
    CONCENTRATOR = "[concentrator]"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    key: in a file; with a dot it stands in a sub-table. target: the attribute it sets, ``key`` when empty.
    help: one line, a clause. minimum and maximum bound numbers. flag: without dashes, derived from key when None, ""
    for none. hidden: left out of --help, not of the reference. on_file: a fuller key, variable and flag ``_file`` exist,
    which name a file that holds the value.
    """

    key: str
    scope: Scope
    kind: Kind
    help: str
    target: str = ""
    choices: tuple[str, ...] = ()
    minimum: float = 0
    maximum: float = 1e9
    flag: str | None = None
    hidden: bool = False
    metavar: str = ""

    @property
    def attribute(self) -> str:
        return self.target or self.key

    @property
    def option(self) -> str:
        """The flag with its dashes; empty when there is none."""
        if self.flag == "":
            return ""
        return "--" + (self.flag or self.key.replace(".", "-").replace("_", "-"))

    @property
    def variable(self) -> str:
        """The environment variable."""
        name = self.flag or self.key
        return "QUICSOCKS_" + name.replace(".", "_").replace("-", "_").upper()

    @property
    def is_secret(self) -> bool:
        """Whether ``_file`` forms exist, and files that hold it inline must be private."""
        return self.kind is Kind.SECRET


C, L, K = Scope.COMMON, Scope.CLIENT, Scope.CONCENTRATOR

COMMON_SETTINGS: tuple[Setting, ...] = (
    Setting("state", C, Kind.PATH, "folder for keys, saved links and clients", "state_dir", metavar="DIR"),
    Setting("runtime", C, Kind.PATH, "folder for the sockets that `status` asks", "runtime_dir", metavar="DIR"),
    Setting("name", C, Kind.NAME, "name of this process for `status`, when several run", "instance", metavar="NAME"),
    Setting(
        "verbosity",
        C,
        Kind.COUNT,
        "how much to say: -1 errors only (-q), 0, 1 more (-v), 2 everything (-vv)",
        "output.verbosity",
        minimum=-1,
        maximum=2,
        flag="",
    ),
    Setting(
        "log_format", C, Kind.CHOICE, "lines for people or JSON for machines", "output.log_format", choices=LOG_FORMATS
    ),
    Setting("engine", C, Kind.CHOICE, "the QUIC implementation", "transport.engine", choices=ENGINES),
    Setting(
        "congestion",
        C,
        Kind.CHOICE,
        "congestion control of what is sent; auto: bbr on the native engine, cubic on aioquic",
        "transport.congestion",
        choices=CONTROLLERS,
    ),
    Setting(
        "crypto_profile",
        C,
        Kind.CHOICE,
        "which algorithms; fips: AES-GCM, P-256, P-384 and SHA-2 only",
        "transport.crypto_profile",
        choices=CRYPTO_PROFILES,
        hidden=True,
    ),
    Setting("event_loop", C, Kind.CHOICE, "the event loop", "transport.event_loop", choices=EVENT_LOOPS, hidden=True),
    Setting(
        "keylog",
        C,
        Kind.PATH,
        "file for TLS secrets (also SSLKEYLOGFILE); whoever reads it can read the traffic",
        "transport.keylog",
        hidden=True,
        metavar="FILE",
    ),
    Setting(
        "qlog_dir",
        C,
        Kind.PATH,
        "folder in which connections log their events (also QLOGDIR); see `quicsocks qlog`",
        "transport.qlog_dir",
        hidden=True,
        metavar="DIR",
    ),
    Setting(
        "spin_bit",
        C,
        Kind.FLAG,
        "let networks on the way measure the round-trip time, on 15 of 16 connections",
        "transport.spin_bit",
        hidden=True,
    ),
)

CLIENT_SETTINGS: tuple[Setting, ...] = (
    Setting(
        "listen",
        L,
        Kind.LISTEN,
        "where applications connect: address:port, port, unix:/path or a proxy URL (ss://...)",
        metavar="ADDRESS",
    ),
    Setting("username", L, Kind.TEXT, "user name that applications must give", metavar="NAME"),
    Setting("password", L, Kind.SECRET, "password that applications must give", flag="password"),
    Setting("allow_open", L, Kind.FLAG, "listen off loopback without a password"),
    Setting("rules", L, Kind.RULES, "`tunnel`, `direct` or `block` and a pattern; the first that matches wins"),
    Setting("dns", L, Kind.ADDRESS, "resolver to ask through the tunnel, for links with alpn=qt", metavar="ADDRESS"),
    Setting("ca_file", L, Kind.PATH, "roots for a link without pins, instead of the system's", metavar="FILE"),
    Setting("key", L, Kind.PATH, "this installation's key, instead of the one made", "key_file", metavar="FILE"),
    Setting("once", L, Kind.FLAG, "exit with 1 instead of trying again when there is no connection"),
    Setting("no_proxy", L, Kind.LIST, "hosts for NO_PROXY, beside loopback", metavar="HOST"),
    Setting(
        "limits.connections", L, Kind.COUNT, "connections of applications in total", minimum=1, hidden=True,
        flag="limit-connections",
    ),
    Setting(
        "limits.connections_per_address", L, Kind.COUNT, "connections from one address", minimum=1, hidden=True,
        flag="limit-connections-per-address",
    ),
    Setting(
        "limits.handshake_timeout", L, Kind.SECONDS, "from accept to a complete request", minimum=0.1, hidden=True,
        flag="limit-handshake-timeout",
    ),
    Setting(
        "limits.header_size", L, Kind.SIZE, "head of an HTTP request", minimum=1024, maximum=1 << 20, hidden=True,
        flag="limit-header-size",
    ),
    Setting(
        "limits.http_idle_timeout", L, Kind.SECONDS, "between two requests on an HTTP connection", minimum=0.1,
        hidden=True, flag="limit-http-idle-timeout",
    ),
    Setting(
        "limits.flow_idle_timeout", L, Kind.SECONDS, "a flow without a byte; 0 for never", hidden=True,
        flag="limit-flow-idle-timeout",
    ),
    Setting(
        "limits.wait_for_tunnel", L, Kind.SECONDS, "how long requests wait for a lost connection", maximum=3600,
        hidden=True, flag="limit-wait-for-tunnel",
    ),
)  # fmt: skip

CONCENTRATOR_SETTINGS: tuple[Setting, ...] = (
    Setting("listen", K, Kind.LISTEN, "UDP address:port, or port for all addresses", metavar="ADDRESS"),
    Setting(
        "workers",
        K,
        Kind.COUNT,
        "processes that serve clients, at most one a core",
        minimum=1,
        maximum=MOST_WORKERS,
        metavar="N",
    ),
    Setting("public_name", K, Kind.TEXT, "host, with :port if it differs, that links name", metavar="HOST[:PORT]"),
    Setting("cert", K, Kind.PATH, "one's own certificate chain (PEM)", "certificate_file", metavar="FILE"),
    Setting("key", K, Kind.PATH, "the key of the certificate (PEM)", "key_file", metavar="FILE"),
    Setting("rules", K, Kind.RULES, "`allow` or `deny` and a pattern; the first that matches wins"),
    Setting("allow_qt", K, Kind.FLAG, "serve the draft's `qt` too, which anybody may use without a key"),
    Setting("upstream", K, Kind.SECRET, "proxy to leave through: socks5://, http:// or ss://", metavar="URL"),
    Setting("source_address", K, Kind.HOST, "local address of outgoing connections", metavar="ADDRESS"),
    Setting("dns", K, Kind.ADDRESS, "resolver to ask, instead of the system's", metavar="ADDRESS"),
    Setting("drain", K, Kind.SECONDS, "how long open flows may go on after SIGTERM", maximum=3600),
    Setting("print_link", K, Kind.FLAG, "write links to standard output even when it is no terminal"),
    Setting("first_client", K, Kind.NAME, "the client that the first start makes a link for", metavar="NAME"),
    Setting(
        "limits.sessions", K, Kind.COUNT, "connections of clients in total", minimum=1, hidden=True,
        flag="limit-sessions",
    ),
    Setting(
        "limits.half_open", K, Kind.COUNT, "handshakes under way", minimum=1, hidden=True, flag="limit-half-open"
    ),
    Setting(
        "limits.half_open_per_prefix", K, Kind.COUNT, "handshakes under way from one /24 or /56", minimum=1,
        hidden=True, flag="limit-half-open-per-prefix",
    ),
    Setting(
        "limits.retry_above", K, Kind.COUNT, "handshakes under way above which addresses are validated first",
        hidden=True, flag="limit-retry-above",
    ),
    Setting(
        "limits.handshake_timeout", K, Kind.SECONDS, "until a handshake is complete", minimum=0.1, hidden=True,
        flag="limit-handshake-timeout",
    ),
    Setting(
        "limits.auth_timeout", K, Kind.SECONDS, "until a client has proved its key", minimum=0.1, hidden=True,
        flag="limit-auth-timeout",
    ),
    Setting(
        "limits.flows_per_client", K, Kind.COUNT, "open flows of one client", minimum=1, hidden=True,
        flag="limit-flows-per-client",
    ),
    Setting(
        "limits.pending_per_client", K, Kind.COUNT, "connects under way of one client", minimum=1, hidden=True,
        flag="limit-pending-per-client",
    ),
    Setting(
        "limits.bytes_per_second", K, Kind.SIZE, "of one client; 0 for no limit", maximum=1e12, hidden=True,
        flag="limit-bytes-per-second",
    ),
    Setting(
        "limits.connect_timeout", K, Kind.SECONDS, "for a destination", minimum=0.1, maximum=3600, hidden=True,
        flag="limit-connect-timeout",
    ),
    Setting(
        "limits.flow_idle_timeout", K, Kind.SECONDS, "a flow without a byte; 0 for never", hidden=True,
        flag="limit-flow-idle-timeout",
    ),
)  # fmt: skip

LINK_SETTING = Setting("link", L, Kind.SECRET, "the exit's link", metavar="LINK", flag="link")
"""Only in [exit.NAME] and in the environment; on the command line a link is an argument, or --link-file."""
EXIT_SETTING = Setting("default_exit", C, Kind.NAME, "the exit that `run` takes when none is named", flag="")


def settings_for(scope: Scope) -> tuple[Setting, ...]:
    """What a command of that scope understands, without the common ones for COMMON's sake."""
    if scope is Scope.CLIENT:
        return COMMON_SETTINGS + CLIENT_SETTINGS
    if scope is Scope.CONCENTRATOR:
        return COMMON_SETTINGS + CONCENTRATOR_SETTINGS
    return COMMON_SETTINGS


def default_of(setting: Setting) -> Any:
    """The dataclass's default; None when it has none or none is fixed."""
    cls: Any = ConcentratorSettings if setting.scope is Scope.CONCENTRATOR else ClientSettings
    if setting.key == "listen":
        return _listen_default(setting.scope)
    value: Any = None
    for part in setting.attribute.split("."):
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if part not in fields:
            return None
        field = fields[part]
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            value = field.default
        else:
            return None
        cls = type(value)
    return value


def describe_default(setting: Setting) -> str:
    """The default as the reference shows it."""
    fixed = {
        "state": "`$STATE_DIRECTORY`, or `$XDG_STATE_HOME/quicsocks`, or `~/.local/state/quicsocks`",
        "runtime": "`$RUNTIME_DIRECTORY`, or `$XDG_RUNTIME_DIR/quicsocks`, or `/tmp/quicsocks-UID`",
        "name": "the exit's name, or `concentrator`",
        "public_name": "the most plausible address, with a remark",
        "default_exit": "the only one there is",
    }
    if setting.key in fixed:
        return fixed[setting.key]
    value = default_of(setting)
    if value is None or value in ((), ""):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if setting.kind is Kind.SIZE and value and value % 1024 == 0:
        return f"`{value // 1024}k`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`"


def markdown() -> str:
    """The reference tables of docs/configuration.md."""
    parts = []
    for scope, title, settings in (
        (Scope.COMMON, "Common settings (top level of the file)", (*COMMON_SETTINGS, EXIT_SETTING)),
        (
            Scope.CLIENT,
            "Client settings (`[client]` for all exits, `[exit.NAME]` for one)",
            (LINK_SETTING, *CLIENT_SETTINGS),
        ),
        (Scope.CONCENTRATOR, "Concentrator settings (`[concentrator]`)", CONCENTRATOR_SETTINGS),
    ):
        del scope
        parts.append(f"### {title}\n")
        parts.append("| key | flag | variable | value | default | meaning |")
        parts.append("|---|---|---|---|---|---|")
        parts.extend(_row(setting) for setting in settings)
        parts.append("")
    return "\n".join(parts)


def flags_of(setting: Setting) -> tuple[str, ...]:
    """Every flag that sets it."""
    if setting.key == "verbosity":
        return ("-v", "-q")
    if setting.key == "rules":
        return ("--allow", "--deny") if setting.scope is Scope.CONCENTRATOR else ("--tunnel", "--direct", "--block")
    if setting.key in ("link", "password"):
        return (f"{setting.option}-file",)
    if setting.is_secret:
        return (setting.option, f"{setting.option}-file")
    return (setting.option,) if setting.option else ()


def _row(setting: Setting) -> str:
    key = f"`{setting.key}`"
    variable = f"`{setting.variable}`"
    if setting.is_secret:
        key += f", `{setting.key}_file`"
        variable += f", `{setting.variable}_FILE`"
    kind = setting.kind.value
    if setting.kind is Kind.CHOICE:
        kind += " " + ", ".join(f"`{choice}`" for choice in setting.choices)
    flags = ", ".join(f"`{flag}`" for flag in flags_of(setting)) or "none"
    if setting.key == "link":
        flags = "argument, " + flags
    return f"| {key} | {flags} | {variable} | {kind} | {describe_default(setting)} | {setting.help} |"


def _listen_default(scope: Scope) -> str:
    if scope is Scope.CONCENTRATOR:
        host, port = default_listen(ConcentratorSettings, "listen")
        return f"[{host}]:{port}"
    host, port = default_listen(ClientSettings, "listen_tcp")
    return f"{host}:{port}"


def default_listen(cls: Any, name: str) -> tuple[str, int]:
    """The default listening address of a settings class."""
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    host, port = field.default[0]  # type: ignore[index] # of a type that only the class knows
    return str(host), int(port)
