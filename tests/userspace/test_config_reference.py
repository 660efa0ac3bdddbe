"""The reference of settings, docs/configuration.md, held against the schema and the dataclasses.

Read first: ``config_home``.
"""

from __future__ import annotations

import re
from pathlib import Path

from quicsocks.userspace import config_schema
from quicsocks.userspace.config import check_file
from quicsocks.userspace.config_schema import CLIENT_SETTINGS, COMMON_SETTINGS, CONCENTRATOR_SETTINGS, Scope
from quicsocks.userspace.settings import Rule

from .config_home import Home
from .support import LINK

ROOT = Path(__file__).resolve().parents[2]


def document() -> str:
    return (ROOT / "docs/configuration.md").read_text()


def test_the_reference_is_the_schema() -> None:
    text = document()
    shown = text.partition("<!-- settings: begin -->")[2].partition("<!-- settings: end -->")[0]
    assert shown.strip() == config_schema.markdown().strip(), (
        "write config_schema.markdown() into docs/configuration.md"
    )


def test_the_reference_names_every_key_flag_and_variable() -> None:
    text = document()
    for setting in (*COMMON_SETTINGS, *CLIENT_SETTINGS, *CONCENTRATOR_SETTINGS):
        for name in (setting.key, setting.variable, *config_schema.flags_of(setting)):
            assert f"`{name}`" in text


def test_the_example_in_the_document_is_right(home: Home) -> None:
    example = re.search(r"```toml\n(.*?)```", document(), re.DOTALL)
    assert example is not None
    path = home.private("config.toml", example[1])
    assert check_file(path, home.environ) == []
    home.store.save("home", LINK)
    settings = home.client(flags={"config": str(path)})
    assert settings.rules == (
        Rule("direct", "192.168.0.0/16", f"{path}:6: rules"),
        Rule("block", "*.ads.example", f"{path}:6: rules"),
    )
    assert home.concentrator({"config": str(path)}).limits.bytes_per_second == 10 << 20


def test_documented_defaults_are_those_of_the_dataclasses() -> None:
    by_key = {(setting.scope, setting.key): setting for setting in (*CLIENT_SETTINGS, *CONCENTRATOR_SETTINGS)}
    assert config_schema.describe_default(by_key[Scope.CLIENT, "limits.header_size"]) == "`32k`"
    assert config_schema.describe_default(by_key[Scope.CLIENT, "listen"]) == "`127.0.0.1:1080`"
    assert config_schema.describe_default(by_key[Scope.CONCENTRATOR, "drain"]) == "`10`"
    assert config_schema.describe_default(by_key[Scope.CONCENTRATOR, "allow_qt"]) == "`false`"
