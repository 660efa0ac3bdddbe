"""What a reload changes at once, and what it says to wait for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from quicsocks.userspace.config_schema import COMMON_SETTINGS, CONCENTRATOR_SETTINGS
from quicsocks.userspace.reloading import AT_ONCE, waiting_for_restart
from quicsocks.userspace.settings import ConcentratorLimits, ConcentratorSettings, OutputSettings, Rule

STARTED = ConcentratorSettings(state_dir=Path("/s"), runtime_dir=Path("/r"))


def test_what_takes_effect_at_once_waits_for_nothing() -> None:
    limits = ConcentratorLimits(flows_per_client=1, pending_per_client=1, bytes_per_second=1, auth_timeout=1.0)
    rules = (Rule("deny", "*:25", "--deny"),)
    renewed = dataclasses.replace(STARTED, rules=rules, drain=1.0, public_name="a.example", limits=limits)
    assert waiting_for_restart(STARTED, renewed) == []


def test_everything_else_is_named_by_its_key() -> None:
    renewed = dataclasses.replace(
        STARTED,
        listen=(("::", 1),),
        upstream="socks5://u:secret@127.0.0.1",
        name="other",
        limits=ConcentratorLimits(connect_timeout=1.0),
        output=OutputSettings(verbosity=1),
    )
    assert waiting_for_restart(STARTED, renewed) == [
        "listen",
        "upstream",
        "limits.connect_timeout",
        "name",
        "verbosity",
    ]


def test_the_keys_exist() -> None:
    assert {setting.key for setting in (*COMMON_SETTINGS, *CONCENTRATOR_SETTINGS)} > AT_ONCE
