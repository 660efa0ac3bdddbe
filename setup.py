"""Everything installs under the import root ``quicsocks``, a namespace; the folders stand at the top of the tree.

No top-level ``socks`` is ever installed: that name is PySocks', and ``requests[socks]`` needs it.
"""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
ROOMS = ("userspace", "netstack", "socks")


def packages() -> dict[str, str]:
    """Map every package below the rooms to its folder, e.g. quicsocks.socks -> socks."""
    found = {}
    for room in ROOMS:
        for init in sorted((HERE / room).rglob("__init__.py")):
            folder = init.parent.relative_to(HERE)
            found["quicsocks." + ".".join(folder.parts)] = str(folder)
    return found


class BuildFromNothing(build_py):
    """setuptools builds into what the last build left behind: a file that is gone since would get into the wheel."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "quicsocks", ignore_errors=True)
        super().run()


version = re.search(r'^__version__ = "([^"]+)"', (HERE / "userspace/__init__.py").read_text(), re.MULTILINE)
assert version is not None

setup(
    version=version[1],
    packages=list(packages()),
    package_dir=packages(),
    package_data={name: ["py.typed", "*.pyi"] for name in packages()},
    zip_safe=False,
    cmdclass={"build_py": BuildFromNothing},
)
