"""Everything installs under the import root ``quicsocks``, a namespace; the folders stand at the top of the tree.

No top-level ``socks`` is ever installed: that name is PySocks', and ``requests[socks]`` needs it.

The datapath is compiled: every ``.pyx`` is an extension module beside its source, named as the Python modules are. That
takes a C compiler, Python's headers (python3-dev) and, where a module says ``# distutils: libraries = crypto``, those of
OpenSSL 3 (libssl-dev). For developers: QUICSOCKS_BUILD_ONLY=text builds only modules whose name holds the text;
QUICSOCKS_BUILD=debug has assertions and Cython's own checks, and no optimisation; QUICSOCKS_BUILD=sanitize has gcc's address
and undefined-behaviour sanitizers. ``make debug-test`` and ``make sanitize`` keep those in folders of their own.
"""

import os
import re
import shutil
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
ROOMS = ("userspace", "netstack", "socks")
BUILD = os.environ.get("QUICSOCKS_BUILD", "release")
SANITIZERS = ["-fsanitize=address,undefined,float-cast-overflow,float-divide-by-zero", "-fno-sanitize-recover=all"]
# A sanitized build does without assertions as a release does: they would stand in the way of what is to be found.
FLAGS = {
    "release": ["-O3", "-g0", "-DCYTHON_WITHOUT_ASSERTIONS"],
    "debug": ["-O0", "-g", "-UNDEBUG"],
    "sanitize": ["-O1", "-g", "-fno-omit-frame-pointer", "-DCYTHON_WITHOUT_ASSERTIONS", *SANITIZERS],
}[BUILD]
LINK_FLAGS = SANITIZERS if BUILD == "sanitize" else []
WARNINGS: tuple[str, ...] = (
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
)
DIRECTIVES = {
    "language_level": "3",
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": False,
    "freethreading_compatible": False,
}
if "-DCYTHON_WITHOUT_ASSERTIONS" in FLAGS:
    WARNINGS += ("-Wno-unused-variable", "-Wno-unused-function")  # What only they need.
if BUILD == "debug":
    DIRECTIVES |= {"boundscheck": True, "initializedcheck": True, "nonecheck": True}
# Translations differ by directives, and would be taken for one another.
TRANSLATED = "build/cython" if BUILD == "release" else f"build/cython-{BUILD}"


def packages() -> dict[str, str]:
    """Map every package below the rooms to its folder, e.g. quicsocks.socks -> socks."""
    found = {}
    for room in ROOMS:
        for init in sorted((HERE / room).rglob("__init__.py")):
            folder = init.parent.relative_to(HERE)
            found["quicsocks." + ".".join(folder.parts)] = str(folder)
    return found


def import_root() -> str:
    """A folder in which Cython finds the rooms under the names that they are installed by."""
    root = HERE / "build/import-root"
    package = root / "quicsocks"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.pxd").touch()
    for room in ROOMS:
        link = package / room
        if not link.is_symlink():
            link.symlink_to(Path("../../..") / room)
    return str(root)


def extensions() -> list[Extension]:
    only = os.environ.get("QUICSOCKS_BUILD_ONLY", "")
    found = []
    for room in ROOMS:
        for source in sorted((HERE / room).rglob("*.pyx")):
            path = source.relative_to(HERE)
            name = "quicsocks." + ".".join(path.with_suffix("").parts)
            if only in name:
                # The same octets wherever the tree stands.
                flags = ["-std=gnu11", f"-ffile-prefix-map={HERE}=.", *FLAGS, *WARNINGS]
                found.append(Extension(name, [str(path)], extra_compile_args=flags, extra_link_args=LINK_FLAGS))
    return found


class BuildFromNothing(build_py):
    """setuptools builds into what the last build left behind: a file that is gone since would get into the wheel."""

    def run(self) -> None:
        if not self.editable_mode and Path(self.build_lib) != Path("build", BUILD, "lib"):
            shutil.rmtree(Path(self.build_lib) / "quicsocks", ignore_errors=True)
        super().run()


class BuildExtensions(build_ext):
    """Translates only when extensions are built, so that metadata can be made without a compiler."""

    def finalize_options(self) -> None:
        Options.warning_errors = True
        self.distribution.ext_modules = cythonize(  # type: ignore[no-untyped-call] # Cython has no types
            self.distribution.ext_modules or [],
            include_path=[import_root()],
            build_dir=TRANSLATED,
            compiler_directives=DIRECTIVES,
            nthreads=0,
            quiet=True,
        )
        self.parallel = self.parallel or os.cpu_count()
        super().finalize_options()


version = re.search(r'^__version__ = "([^"]+)"', (HERE / "userspace/__init__.py").read_text(), re.MULTILINE)
assert version is not None

setup(
    version=version[1],
    packages=list(packages()),
    package_dir=packages(),
    package_data={name: ["py.typed", "*.pyi"] for name in packages()},
    exclude_package_data={"": ["*.pyx", "*.pxd", "*.pxi", "*.c"]},
    ext_modules=extensions(),
    zip_safe=False,
    cmdclass={"build_py": BuildFromNothing, "build_ext": BuildExtensions},
)
