"""What SIGHUP changes in a concentrator that runs, and what waits for its next start, so that nobody believes that it has
changed. Read first: ``config_schema``, whose keys are named; ``concentrator.Concentrator.reload`` does the changing.
"""

from __future__ import annotations

from typing import Any

from .config_schema import COMMON_SETTINGS, CONCENTRATOR_SETTINGS, Setting
from .settings import ConcentratorSettings

AT_ONCE = frozenset(
    {
        "rules",
        "drain",
        "public_name",
        "limits.auth_timeout",
        "limits.flows_per_client",
        "limits.pending_per_client",
        "limits.bytes_per_second",
        # Of use at a start only: there is nothing to wait for.
        "print_link",
        "first_client",
    }
)
"""Keys of settings that ``reload`` puts into effect, for sessions to come at least."""


def waiting_for_restart(started_with: ConcentratorSettings, now: ConcentratorSettings) -> list[str]:
    """The keys of settings that have changed since the start and take effect at the next one."""
    return [
        setting.key
        for setting in (*CONCENTRATOR_SETTINGS, *COMMON_SETTINGS)
        if setting.key not in AT_ONCE and _value(started_with, setting) != _value(now, setting)
    ]


def _value(settings: ConcentratorSettings, setting: Setting) -> Any:
    value: Any = settings
    for name in setting.attribute.split("."):
        value = getattr(value, "name" if name == "instance" else name)
    return value
