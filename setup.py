"""The part of the installation that pyproject.toml cannot say: the optional C extension.

The `soft:` device is C code that cffi compiles (API mode). With a compiler it is built now; without one the
installation still succeeds, and the device compiles at first use or says what is missing.
"""

import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup

# Relative, because setuptools refuses absolute source paths; a build always runs in this folder.
BUILD_SCRIPT = Path("host", "bloomgate", "backends", "soft_build.py")
GENERATED = Path("build", "cffi")


def extensions() -> "list[Extension]":
    """The extension modules to try, none of which may fail the installation."""
    if not BUILD_SCRIPT.exists():
        return []
    ffibuilder = runpy.run_path(str(BUILD_SCRIPT))["ffibuilder"]
    GENERATED.mkdir(parents=True, exist_ok=True)
    extension: Extension = ffibuilder.distutils_extension(tmpdir=str(GENERATED), verbose=False)
    extension.optional = True
    return [extension]


try:
    found = extensions()
except Exception as error:  # whatever a build script runs into, the pure Python part still installs
    print(f"bloomgate: the soft: device is not built now: {error}", file=sys.stderr)
    found = []

setup(ext_modules=found)
