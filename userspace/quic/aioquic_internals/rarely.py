"""Modules that aioquic imports for what hardly any of our connections do, imported when that happens.

aioquic.tls needs certifi, service_identity and pyOpenSSL to check a certificate against a name and against authorities. A
client whose link has a pin does not do that, nor does a concentrator. With all that they import themselves they have 3 MB
in every process.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

RARELY = ("certifi", "service_identity", "OpenSSL.crypto")


class Later(types.ModuleType):
    """Stands for the module of that name, and imports it as soon as something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # Otherwise, while the importer is still being imported, this one would be found again.
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def import_without(importer: str, rarely: tuple[str, ...] = RARELY) -> types.ModuleType:
    """Import the module named importer, whose own imports of rarely take place later; those of others are real ones.

    Names with a dot stand for ``from package import module``.
    """
    stand_ins: dict[str, Later] = {}
    for name in rarely:
        package, _, module = name.partition(".")
        if package not in sys.modules:
            stand_in = stand_ins[package] = Later(package)
            if module:
                setattr(stand_in, module, Later(name))
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module(importer)
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
