"""Reads logs in qlog's JSON text sequences, and checks each record against the schema.

The tables are made after the definitions of draft-ietf-quic-qlog-main-schema and draft-ietf-quic-qlog-quic-events: what
each event and frame must have, what it may have, and of what type. Anything else is an error here, though the schema
would let extensions add it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Check = Callable[[Any], bool]
Fields = dict[str, Check]


def uint(bits: int = 64) -> Check:
    return lambda value: type(value) is int and 0 <= value < 1 << bits


def real(value: Any) -> bool:
    return type(value) in (int, float)


def truth(value: Any) -> bool:
    return type(value) is bool


def text(value: Any) -> bool:
    return type(value) is str


def octets(value: Any) -> bool:
    return text(value) and re.fullmatch(r"([0-9a-f]{2})*", value) is not None


def word(*words: str) -> Check:
    return lambda value: value in words


def fields(required: Fields, optional: Fields | None = None) -> Check:
    return lambda value: not problems_of(value, required, optional or {})


def each(check: Check, least: int = 0) -> Check:
    return lambda value: type(value) is list and len(value) >= least and all(map(check, value))


def problems_of(value: Any, required: Fields, optional: Fields) -> list[str]:
    if type(value) is not dict:
        return [f"{value!r} is not an object"]
    known = required | optional
    problems = [f"{name} is missing" for name in required if name not in value]
    problems += [f"{name} is not in the schema" for name in value if name not in known]
    return problems + [
        f"{name} may not be {value[name]!r}" for name in value if name in known and not known[name](value[name])
    ]


RAW = fields({}, {"length": uint(), "payload_length": uint()})
HEADER = fields(
    {"packet_type": word("1RTT")},
    {"spin_bit": truth, "key_phase_bit": truth, "packet_number_length": uint(8), "packet_number": uint()},
)
ENDPOINT = fields({}, {"ip_v4": text, "port_v4": uint(16), "ip_v6": text, "port_v6": uint(16)})
INITIATOR = word("local", "remote")
STREAM_TYPE = word("unidirectional", "bidirectional")
APPLICATION_ERROR = word("unknown")
TRANSPORT_ERRORS = (
    "no_error", "internal_error", "connection_refused", "flow_control_error", "stream_limit_error", "stream_state_error",
    "final_size_error", "frame_encoding_error", "transport_parameter_error", "connection_id_limit_error",
    "protocol_violation", "invalid_token", "application_error", "crypto_buffer_exceeded", "key_update_error",
    "aead_limit_reached", "no_viable_path", "unknown",
)  # fmt: skip
STATES = word("attempted", "handshake_started", "handshake_complete", "peer_validated", "early_write",
              "handshake_confirmed", "closing", "draining", "closed")  # fmt: skip
ECN_STATE = word("testing", "unknown", "failed", "capable")


def range_of_numbers(value: Any) -> bool:
    return each(uint(), 1)(value) and len(value) <= 2 and value == sorted(value)


FRAMES: dict[str, tuple[Fields, Fields]] = {
    "padding": ({}, {}),
    "ping": ({}, {}),
    "ack": ({}, {"ack_delay": real, "acked_ranges": each(range_of_numbers, 1), "ect0": uint(), "ect1": uint(),
                 "ce": uint()}),
    "reset_stream": ({"stream_id": uint(), "error": APPLICATION_ERROR, "final_size": uint()}, {"error_code": uint()}),
    "stop_sending": ({"stream_id": uint(), "error": APPLICATION_ERROR}, {"error_code": uint()}),
    "crypto": ({"offset": uint(), "raw": RAW}, {}),
    "new_token": ({"token": fields({}, {"raw": RAW})}, {}),
    "stream": ({"stream_id": uint()}, {"offset": uint(), "fin": truth}),
    "max_data": ({"maximum": uint()}, {}),
    "max_stream_data": ({"stream_id": uint(), "maximum": uint()}, {}),
    "max_streams": ({"stream_type": STREAM_TYPE, "maximum": uint()}, {}),
    "data_blocked": ({"limit": uint()}, {}),
    "stream_data_blocked": ({"stream_id": uint(), "limit": uint()}, {}),
    "streams_blocked": ({"stream_type": STREAM_TYPE, "limit": uint()}, {}),
    "new_connection_id": ({"sequence_number": uint(), "retire_prior_to": uint(), "connection_id": octets},
                          {"connection_id_length": uint(8)}),
    "retire_connection_id": ({"sequence_number": uint()}, {}),
    "path_challenge": ({}, {}),
    "path_response": ({}, {}),
    "connection_close": ({}, {"error_space": word("transport", "application"), "error": text, "error_code": uint(),
                              "trigger_frame_type": uint()}),
    "handshake_done": ({}, {}),
    "unknown": ({"frame_type_bytes": uint()}, {}),
    "datagram": ({}, {}),
    # Extensions' frames have names of their own (the schema's $QuicFrame is open to them).
    "ack_frequency": (dict.fromkeys(("sequence_number", "ack_eliciting_threshold", "requested_max_ack_delay",
                                     "reordering_threshold"), uint()), {}),
    "immediate_ack": ({}, {}),
}  # fmt: skip


def frame(value: Any) -> bool:
    if type(value) is not dict or value.get("frame_type") not in FRAMES:
        return False
    required, optional = FRAMES[value["frame_type"]]
    return not problems_of(value, {"frame_type": text, **required}, {"raw": RAW, **optional})


PACKET: tuple[Fields, Fields] = (
    {"header": HEADER},
    {"frames": each(frame), "raw": RAW, "is_mtu_probe_packet": truth},
)
PARAMETERS: Fields = {
    "initiator": INITIATOR,
    "disable_active_migration": truth,
    "unknown_parameters": each(fields({"id": uint()}, {"value": octets})),
    **dict.fromkeys(
        (
            "max_idle_timeout", "max_udp_payload_size", "ack_delay_exponent", "max_ack_delay",
            "active_connection_id_limit", "initial_max_data", "initial_max_stream_data_bidi_local",
            "initial_max_stream_data_bidi_remote", "initial_max_stream_data_uni", "initial_max_streams_bidi",
            "initial_max_streams_uni", "max_datagram_frame_size",
        ),
        uint(),
    ),
}  # fmt: skip
EVENTS: dict[str, tuple[Fields, Fields]] = {
    "quic:connection_started": ({"local": ENDPOINT, "remote": ENDPOINT}, {}),
    "quic:connection_closed": ({}, {
        "initiator": INITIATOR, "application_error": APPLICATION_ERROR, "error_code": uint(),
        "connection_error": lambda value: value in TRANSPORT_ERRORS
        or re.fullmatch("crypto_error_0x1[0-9a-f]{2}", value) is not None,
        "trigger": word("idle_timeout", "application", "error", "version_mismatch", "stateless_reset", "aborted",
                        "unspecified"),
    }),
    "quic:connection_id_updated": ({"initiator": INITIATOR}, {"old": octets, "new": octets}),
    "quic:connection_state_updated": ({"new": STATES}, {"old": STATES}),
    "quic:tuple_assigned": ({"tuple_id": text}, {"tuple_remote": ENDPOINT, "tuple_local": ENDPOINT}),
    "quic:mtu_updated": ({"new": uint(32)}, {"old": uint(32), "done": truth}),
    "quic:version_information": ({}, {"chosen_version": octets}),
    "quic:alpn_information": ({}, {"chosen_alpn": fields({}, {"string_value": text})}),
    "quic:parameters_set": ({}, PARAMETERS),
    "quic:packet_sent": PACKET,
    "quic:packet_received": PACKET,
    "quic:packet_dropped": ({}, {"header": HEADER, "raw": RAW, "trigger": word(
        "internal_error", "rejected", "unsupported", "invalid", "duplicate", "connection_unknown", "decryption_failure",
        "key_unavailable", "general")}),
    "quic:key_updated": ({"key_type": word("server_1rtt_secret", "client_1rtt_secret")},
                         {"key_phase": uint(), "trigger": word("tls", "remote_update", "local_update")}),
    "quic:recovery_parameters_set": ({"timer_granularity": uint(16)}, {
        "reordering_threshold": uint(16), "time_threshold": real, "initial_rtt": real, "max_datagram_size": uint(32),
        "persistent_congestion_threshold": uint(16)}),
    "quic:recovery_metrics_updated": ({}, {
        **dict.fromkeys(["min_rtt", "smoothed_rtt", "latest_rtt", "rtt_variance"], real),
        **dict.fromkeys(["congestion_window", "bytes_in_flight", "ssthresh", "packets_in_flight", "pacing_rate"], uint()),
        "pto_count": uint(16)}),
    "quic:congestion_state_updated": ({"new": text}, {"old": text, "trigger": text}),
    "quic:packet_lost": ({}, {"header": HEADER, "is_mtu_probe_packet": truth,
                              "trigger": word("reordering_threshold", "time_threshold", "pto_expired")}),
    "quic:ecn_state_updated": ({"new": ECN_STATE}, {"old": ECN_STATE}),
    "loglevel:warning": ({}, {"message": text, "code": uint()}),
}  # fmt: skip

REFERENCE_TIME = fields(
    {"clock_type": word("monotonic"), "epoch": word("unknown")},
    {"wall_clock_time": lambda value: re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value) is not None},
)
FIRST: tuple[Fields, Fields] = (
    {
        "file_schema": word("urn:ietf:params:qlog:file:sequential"),
        "serialization_format": word("application/qlog+json-seq"),
        "trace": fields(
            {"event_schemas": each(lambda uri: text(uri) and uri.startswith("urn:ietf:params:qlog:events:"), 1)},
            {
                "common_fields": fields(
                    {},
                    {
                        "group_id": octets,
                        "time_format": word("relative_to_epoch"),
                        "reference_time": REFERENCE_TIME,
                    },
                ),
                "vantage_point": fields({"type": word("client", "server", "network", "unknown")}),
            },
        ),
    },
    {"title": text},
)


def records(data: bytes) -> list[dict[str, Any]]:
    """RFC 7464: each record has a Record Separator before it and a line feed behind it."""
    assert data.startswith(b"\x1e")
    assert data.endswith(b"\n")
    found = []
    for piece in data.split(b"\x1e")[1:]:
        assert piece.endswith(b"\n")
        found.append(json.loads(piece))
    return found


def problems_with(event: dict[str, Any]) -> list[str]:
    """What is wrong with an event."""
    name = event.get("name")
    if name not in EVENTS:
        return [f"there is no event {name}"]
    required: Fields = {"time": real, "name": text, "data": lambda _: True}
    problems = problems_of(event, required, {"tuple": text}) + problems_of(event.get("data"), *EVENTS[name])
    return [f"{name}: {problem}" for problem in problems]


class Log:
    """A file that has passed the check: its first record, and its events."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first, *self.events = records(path.read_bytes())
        problems = problems_of(self.first, *FIRST) + [what for event in self.events for what in problems_with(event)]
        assert not problems, f"{path.name}:\n" + "\n".join(problems[:20])

    def of(self, name: str) -> list[dict[str, Any]]:
        """The data of the events of that name, without the namespace ``quic``."""
        return [event["data"] for event in self.events if event["name"] == f"quic:{name}"]

    def numbers(self, name: str) -> list[int]:
        """The packet numbers of such events, in order."""
        return [data["header"]["packet_number"] for data in self.of(name)]

    def frames(self, name: str) -> list[dict[str, Any]]:
        return [frame for data in self.of(name) for frame in data["frames"]]
