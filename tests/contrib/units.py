"""Reading the service units of contrib/ as systemd would (systemd.syntax(7)), as far as they use the syntax."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CONTRIB = ROOT / "contrib"
CONCENTRATOR = CONTRIB / "quicsocks-concentrator.service"
CLIENT = CONTRIB / "quicsocks.service"


@dataclass(slots=True)
class Unit:
    """settings: by section and name, every value in order; an empty assignment stays in the list as ""."""

    path: Path
    settings: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Unit:
        unit = cls(path)
        section: dict[str, list[str]] = {}
        for line in path.read_text().replace("\\\n", " ").splitlines():
            line = line.strip()
            if line.startswith("["):
                section = unit.settings.setdefault(line.strip("[]"), {})
            elif line and line[0] not in "#;":
                name, _, value = line.partition("=")
                section.setdefault(name, []).append(value)
        return unit

    def all(self, name: str, section: str = "Service") -> list[str]:
        return self.settings[section].get(name, [])

    def one(self, name: str, section: str = "Service") -> str:
        [value] = self.all(name, section)
        return value

    def is_on(self, name: str) -> bool:
        return self.one(name) in ("yes", "true", "on", "1")

    @property
    def argv(self) -> list[str]:
        return self.one("ExecStart").split()


def embedded_shell(path: Path) -> list[str]:
    """The command lines in a file's opening comment: indented by three, continued by a backslash."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("#   "):
            lines.append(line[4:])
    return "\n".join(lines).replace("\\\n", " ").splitlines()
