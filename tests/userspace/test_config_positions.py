"""Lines of keys in TOML and JSON: nested tables, arrays of tables, dotted and quoted keys, and agreement with the parsers."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.config_positions import Path, json_positions, toml_positions

TOML = '''\
# a comment with [brackets] and = signs
version = 1 # = [x]
dotted . "quoted.key" . 'li teral' = { x = 1, y = [1,
  2, {z = 3}] }
text = """
[not.a.table]
key = 1 \\""" """"
raw = \'\'\'
[neither] = "
\'\'\'
one = "\\"[no]\\" # not a comment"
two = 'C:\\'

[exit.home] # the header
listen = [
  "a", # ] no end
  'b]',
]
when = 1979-05-27 07:32:00
limits.connections = 3

[[rule]]
k = 1
[rule.sub]
q = 2
[[rule.deep]]
w = 1
[[rule.deep]]
w = 2
[[rule]]
k = 3
[rule.sub]
"\\u0041" = {}
[ spaced . "out" ]
k = []
[[ rule ]]
'''

EXPECTED: dict[Path, int] = {
    ("version",): 2,
    ("dotted",): 3,
    ("dotted", "quoted.key", "li teral", "y", 1): 4,
    ("dotted", "quoted.key", "li teral", "y", 2, "z"): 4,
    ("text",): 5,
    ("raw",): 8,
    ("one",): 11,
    ("two",): 12,
    ("exit", "home"): 14,
    ("exit", "home", "listen", 0): 16,
    ("exit", "home", "listen", 1): 17,
    ("exit", "home", "when"): 19,
    ("exit", "home", "limits", "connections"): 20,
    ("rule",): 22,
    ("rule", 0, "k"): 23,
    ("rule", 0, "sub", "q"): 25,
    ("rule", 0, "deep", 0, "w"): 27,
    ("rule", 0, "deep", 1, "w"): 29,
    ("rule", 1, "k"): 31,
    ("rule", 1, "sub", "A"): 33,
    ("spaced", "out", "k"): 35,
    ("rule", 2): 36,
}


def paths_of(value: Any, path: Path = ()) -> set[Path]:
    """Every key and array element that a parser found."""
    found: set[Path] = {path} if path else set()
    if isinstance(value, dict):
        for key, inner in value.items():
            found |= paths_of(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found |= paths_of(inner, (*path, index))
    return found


def test_toml_positions() -> None:
    positions = toml_positions(TOML)
    assert {path: positions.get(path) for path in EXPECTED} == EXPECTED
    assert set(positions) == paths_of(tomllib.loads(TOML))


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "# only\n", "a=1", "a = true\r\nb = 2\r\n", "a = ''''x'''\n", 'a = """"x""""\n', "a = ''\nb = \"\"\n",
     "a = [[1, 2], [3, [4]], []]", "a = {}\n[b]\n[c]", 'a = "\\U0001F600"', "a = [ # c\n # d\n 1 # e\n , # f\n]",
     "3.14 = 1", "'' = 1", "a = 1979-05-27T07:32:00Z\nb = 07:32:00\nc = -1.5e+3\nd = +inf"],
)  # fmt: skip
def test_toml_agrees_with_tomllib(text: str) -> None:
    document = tomllib.loads(text.replace("\r\n", "\n"))
    assert set(toml_positions(text.replace("\r\n", "\n"))) == paths_of(document)


keys = st.text(st.sampled_from("ab.\"'# =[]\\é"), max_size=4)
scalars = st.one_of(st.integers(-99, 99), st.booleans(), st.text(st.sampled_from("ab\"'#[]{}=,\\é\t "), max_size=8))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=8,
)


def to_toml(value: Any) -> str:
    """An inline TOML value."""
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{json.dumps(key, ensure_ascii=False)} = {to_toml(v)}" for key, v in value.items()) + " }"
        )
    if isinstance(value, list):
        return "[\n" + ",\n".join(to_toml(item) for item in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)


@given(st.dictionaries(keys, values, max_size=5))
def test_every_generated_document_agrees(document: dict[str, Any]) -> None:
    text = "".join(f"{json.dumps(key, ensure_ascii=False)} = {to_toml(value)}\n" for key, value in document.items())
    assert set(toml_positions(text)) == paths_of(tomllib.loads(text))
    lines = toml_positions(text)
    for key in document:
        assert text.split("\n")[lines[(key,)] - 1].startswith(json.dumps(key, ensure_ascii=False))


@given(st.dictionaries(keys, values, max_size=5), st.sampled_from([None, 0, 2]))
def test_json_agrees_with_json(document: dict[str, Any], indent: int | None) -> None:
    text = json.dumps(document, indent=indent)
    positions = json_positions(text)
    assert set(positions) == paths_of(document)
    for key in document:
        assert json.dumps(key) in text.split("\n")[positions[(key,)] - 1]


def test_json_lines() -> None:
    positions = json_positions('\n{"a":\n [1,\n {"b\\u0041": null}],\n"c": "}"}')
    assert positions == {("a",): 2, ("a", 0): 3, ("a", 1): 4, ("a", 1, "bA"): 4, ("c",): 5}
