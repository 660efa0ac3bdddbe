"""Everything installs under the import root ``quicsocks``, a namespace; the folders stand at the top of the tree.

No top-level ``socks`` is ever installed: that name is PySocks', and ``requests[socks]`` needs it.

The datapath is compiled: every ``.pyx`` is an extension module beside its source, named as the Python modules are. That
takes a C compiler, Python's headers (python3-dev) and, where a module says ``# distutils: libraries = crypto``, those of
OpenSSL 3 (libssl-dev). For developers: QUICSOCKS_BUILD_ONLY=text builds only modules whose name holds the text, and
QUICSOCKS_BUILD=debug switches assertions on and optimisation off.
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
DEBUG = os.environ.get("QUICSOCKS_BUILD") == "debug"
WARNINGS = ("-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-cast-function-type")
DIRECTIVES = {
    "language_level": "3",
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": False,
    "freethreading_compatible": False,
}


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
                flags = ["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0", "-DCYTHON_WITHOUT_ASSERTIONS"]
                # The same octets wherever the tree stands.
                flags = ["-std=gnu11", f"-ffile-prefix-map={HERE}=.", *flags, *WARNINGS]
                found.append(Extension(name, [str(path)], extra_compile_args=flags))
    return found


class BuildFromNothing(build_py):
    """setuptools builds into what the last build left behind: a file that is gone since would get into the wheel."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "quicsocks", ignore_errors=True)
        super().run()


class BuildExtensions(build_ext):
    """Translates only when extensions are built, so that metadata can be made without a compiler."""

    def finalize_options(self) -> None:
        Options.warning_errors = True
        self.distribution.ext_modules = cythonize(  # type: ignore[no-untyped-call] # Cython has no types
            self.distribution.ext_modules or [],
            include_path=[import_root()],
            build_dir=str(Path("build/cython")),
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
