"""Events of a qlog that come once in a connection's life: how it stands when the log begins, and how it has ended."""

from __future__ import annotations

from typing import Any

from aioquic.quic.packet import QuicErrorCode

from .aioquic_internals.handshaker import Handshaker
from .aioquic_internals.handshaker_parameters import PeerParameters
from .errors import End, Ended
from .native.qlog import Qlog, endpoint
from .session import Route

_LOCAL = frozenset([End.LOCALLY_CLOSED, End.LOCAL_TRANSPORT, End.TIMED_OUT])
_APPLICATION = frozenset([End.LOCALLY_CLOSED, End.PEER_CLOSED])
_TRIGGERS = {
    End.LOCALLY_CLOSED: "application",
    End.PEER_CLOSED: "application",
    End.PEER_TRANSPORT: "error",
    End.LOCAL_TRANSPORT: "error",
    End.TIMED_OUT: "idle_timeout",
    End.PEER_RESET: "stateless_reset",
}


def log_beginning(log: Qlog, handshaker: Handshaker, route: Route, now: float) -> None:
    """What the handshake has agreed on."""
    log.record("quic:connection_started", {"local": endpoint(route.local), "remote": endpoint(route.remote)}, now)
    if handshaker.version is not None:
        log.record("quic:version_information", {"chosen_version": f"{handshaker.version:08x}"}, now)
    log.record("quic:alpn_information", {"chosen_alpn": {"string_value": handshaker.alpn}}, now)
    for initiator, parameters in (("local", handshaker.local_parameters), ("remote", handshaker.peer_parameters)):
        if parameters is not None:
            log.record("quic:parameters_set", {"initiator": initiator, **_parameters(parameters)}, now)


def log_end(log: Qlog, ended: Ended, now: float) -> None:
    """The reason, a text of the peer's, is not for files."""
    data: dict[str, Any] = {
        "initiator": "local" if ended.end in _LOCAL else "remote",
        "trigger": _TRIGGERS.get(ended.end, "unspecified"),
    }
    if ended.code is not None:
        data |= _error(ended.code, application=ended.end in _APPLICATION)
    log.record("quic:connection_closed", data, now)


def _error(code: int, *, application: bool) -> dict[str, Any]:
    if application:
        return {"application_error": "unknown", "error_code": code}
    if code & ~0xFF == QuicErrorCode.CRYPTO_ERROR:
        return {"connection_error": f"crypto_error_{code:#x}"}
    try:
        return {"connection_error": QuicErrorCode(code).name.lower()}
    except ValueError:
        return {"connection_error": "unknown", "error_code": code}


def _parameters(parameters: PeerParameters) -> dict[str, Any]:
    """All but the stateless reset token, which would let its readers end the connection. Times in ms."""
    return {
        "disable_active_migration": parameters.disable_active_migration,
        "max_idle_timeout": round(1e3 * parameters.max_idle_timeout),
        "max_udp_payload_size": parameters.max_udp_payload_size,
        "ack_delay_exponent": parameters.ack_delay_exponent,
        "max_ack_delay": round(1e3 * parameters.max_ack_delay),
        "active_connection_id_limit": parameters.active_connection_id_limit,
        "initial_max_data": parameters.initial_max_data,
        "initial_max_stream_data_bidi_local": parameters.initial_max_stream_data_bidi_local,
        "initial_max_stream_data_bidi_remote": parameters.initial_max_stream_data_bidi_remote,
        "initial_max_stream_data_uni": parameters.initial_max_stream_data_uni,
        "initial_max_streams_bidi": parameters.initial_max_streams_bidi,
        "initial_max_streams_uni": parameters.initial_max_streams_uni,
        "max_datagram_frame_size": parameters.max_datagram_frame_size,
        "unknown_parameters": [
            {"id": number, "value": value.hex()} for number, value in sorted(parameters.unknown.items())
        ],
    }
