"""What the program is told to do: one frozen value for a client, one for a concentrator.

``config`` builds them from flags, environment and file, already checked; ``client`` and ``concentrator`` take them and
read no flag, no variable and no file of settings themselves. Nothing here opens, resolves or reads anything. Values
that are secret are left out of every repr, so that a settings object may be logged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .link import LINK_PORT, Link
from .quic.types import Address

DEFAULT_PORT = LINK_PORT
"""UDP port of a concentrator. Not 443, which an unprivileged process cannot bind on most systems."""
DEFAULT_SOCKS_PORT = 1080
"""IANA's port for SOCKS, on which SOCKS5, SOCKS4a and HTTP are all served."""
ENGINES = ("native", "aioquic")
CONTROLLERS = ("auto", "bbr", "cubic", "reno")
EVENT_LOOPS = ("uvloop", "asyncio")
LOG_FORMATS = ("text", "json")
ROUTES = ("tunnel", "direct", "block")
EGRESS_ACTIONS = ("allow", "deny")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of an ordered list; the first that matches wins.

    action: one of ROUTES (client) or EGRESS_ACTIONS (concentrator). pattern: host names with wildcards, addresses or
    CIDR, with ports after a colon, e.g. ``*.example.com:443``, ``10.0.0.0/8:22``, ``[2001:db8::]/32:53``.
    source: where it was written, for messages, e.g. ``--allow`` or ``/etc/quicsocks.toml:12``.
    """

    action: str
    pattern: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Login:
    """A user name and password that applications must present on SOCKS and HTTP listeners."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OutputSettings:
    """What is written for people. verbosity: -1 (errors only), 0, 1 (more events), 2 (libraries and tracebacks too)."""

    verbosity: int = 0
    log_format: str = "text"


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """What both ends of the QUIC connection can choose.

    keylog: file for TLS secrets in NSS format (SSLKEYLOGFILE); whoever reads it can read the traffic.
    qlog_dir: folder in which each connection logs its events; None for none.
    spin_bit: let observers on the way measure the round-trip time (RFC 9000 §17.4).
    """

    engine: str = "native"
    congestion: str = "auto"
    crypto_profile: str = "default"
    keylog: Path | None = None
    qlog_dir: Path | None = None
    spin_bit: bool = False
    event_loop: str = "uvloop"

    @property
    def controller(self) -> str:
        """The congestion controller meant. auto is what measured best (docs/performance.md): bbr, and cubic on aioquic,
        which has no bbr."""
        if self.congestion != "auto":
            return self.congestion
        return "bbr" if self.engine == "native" else "cubic"


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What a client holds, and how long it waits (seconds). The reason for each value stands beside it."""

    connections: int = 4096
    """Open connections of applications in total: as many as one session has streams."""
    connections_per_address: int = 2048
    """The same for one address. On loopback all programs share one, so half of the total, not a browser's needs."""
    handshake_timeout: float = 30.0
    """From accept to a complete request; danted's ``timeout.negotiate`` is the same."""
    header_size: int = 32 << 10
    """Bytes of an HTTP request's head; nginx takes 4 x 8 KiB (large_client_header_buffers)."""
    http_idle_timeout: float = 60.0
    """Between two requests on one HTTP connection; nginx's keepalive_timeout is 75 s, Apache's 5 s."""
    flow_idle_timeout: float = 7440.0
    """A flow without a byte in either direction: 2 h 4 min, as NATs must keep TCP (RFC 5382, REQ-5). 0: never."""
    wait_for_tunnel: float = 10.0
    """How long a new request waits while there is no connection to the concentrator."""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """``quicsocks run``.

    name: of the exit, a file-name-safe word, for messages.
    instance: of this process, for its control socket (``status.socket_path(runtime_dir, instance)``).
    link: where the concentrator is and whom to believe.
    key_file: this installation's key instead of the one in state_dir.
    listen_tcp, listen_unix, listen_urls: front doors; the urls (``ss://...``) are pproxy's and may hold passwords.
    login: what applications must present; None for none. allow_open: listen off loopback without one all the same.
    rules: ROUTES for destinations; what no rule matches goes through the tunnel.
    dns: resolver to ask through the tunnel when the link speaks bare ``qt``; without it names cannot be resolved there.
    ca_file: roots for a link without pins, instead of the system's.
    once: give up, with exit code 1, when the first connection attempt fails, and when an established one is lost.
    command: argv to run with proxy variables set; None to serve until stopped. The listener and the login are then
    private ones, for this command only, unless the user said otherwise.
    no_proxy: hosts that the command's environment exempts, beside loopback.
    """

    name: str
    link: Link
    state_dir: Path
    runtime_dir: Path
    instance: str = "client"
    listen_tcp: tuple[Address, ...] = (("127.0.0.1", DEFAULT_SOCKS_PORT),)
    listen_unix: tuple[Path, ...] = ()
    listen_urls: tuple[str, ...] = field(default=(), repr=False)
    login: Login | None = None
    allow_open: bool = False
    rules: tuple[Rule, ...] = ()
    dns: Address | None = None
    ca_file: Path | None = None
    key_file: Path | None = None
    once: bool = False
    command: tuple[str, ...] | None = None
    no_proxy: tuple[str, ...] = ()
    limits: ClientLimits = field(default_factory=ClientLimits)
    transport: TransportSettings = field(default_factory=TransportSettings)
    output: OutputSettings = field(default_factory=OutputSettings)


@dataclass(frozen=True, slots=True)
class ConcentratorLimits:
    """What a concentrator holds, and how long it waits (seconds). The reason for each value stands beside it."""

    sessions: int = 4096
    """QUIC connections in total."""
    half_open: int = 1024
    """Handshakes under way in total, about 100 KiB each."""
    half_open_per_prefix: int = 128
    """The same for one source prefix (IPv4 /24, IPv6 /56)."""
    retry_above: int = 64
    """Half-open handshakes above which addresses are validated with Retry first (RFC 9000 §8.1.2)."""
    handshake_timeout: float = 5.0
    """Until a handshake is complete: five round trips of a satellite link with a loss."""
    auth_timeout: float = 5.0
    """From there until the client has proved its key."""
    flows_per_client: int = 4096
    """Open flows of one client, a descriptor each."""
    pending_per_client: int = 512
    """Connects under way of one client: what a scan costs us."""
    bytes_per_second: int = 0
    """Of one client, both directions together. 0: as fast as it goes."""
    connect_timeout: float = 10.0
    """For a destination, all its addresses together."""
    flow_idle_timeout: float = 7440.0
    """As ClientLimits.flow_idle_timeout."""


@dataclass(frozen=True, slots=True)
class ConcentratorSettings:
    """``quicsocks concentrator``.

    name: of this process, for its control socket.
    listen: UDP addresses; ``::`` takes IPv4 as well where the system has it.
    workers: processes that share them; with more than one, another process supervises them.
    public_name: host, and public_port: port that links name; None for the most plausible address and a remark.
    certificate_file, key_file: one's own chain and key (PEM) instead of the generated ones in state_dir.
    rules: EGRESS_ACTIONS for destinations, after resolution.
    allow_qt: serve the draft's bare ``qt`` too, which has no authentication.
    upstream: URL of a proxy to leave through; may hold a password. source_address: local address of outgoing
    connections. dns: resolver to ask instead of the system's.
    drain: seconds that open flows get after SIGTERM. print_link: write links to standard output, whatever that is.
    first_client: the client that a first start makes a link for.
    reload: builds these settings anew from the same flags, environment and file, for SIGHUP; raises ConfigError.
    """

    state_dir: Path
    runtime_dir: Path
    name: str = "concentrator"
    listen: tuple[Address, ...] = (("::", DEFAULT_PORT),)
    workers: int = 1
    public_name: str | None = None
    public_port: int | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    rules: tuple[Rule, ...] = ()
    allow_qt: bool = False
    upstream: str | None = field(default=None, repr=False)
    source_address: str | None = None
    dns: Address | None = None
    drain: float = 10.0
    print_link: bool = False
    first_client: str = "home"
    limits: ConcentratorLimits = field(default_factory=ConcentratorLimits)
    transport: TransportSettings = field(default_factory=TransportSettings)
    output: OutputSettings = field(default_factory=OutputSettings)
    reload: Callable[[], ConcentratorSettings] | None = field(default=None, repr=False, compare=False)
