"""Compiles plain.pyx (yardstick B) when it is needed. It is no part of the package: only benchmarks use it.

Run as a program, it prints where the compiled module is.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

SOURCE = Path(__file__).with_name("plain.pyx")
# -ffp-contract does not matter here (integers only); the rest is what CMakeLists.txt gives the core.
FLAGS = ["-O3", "-DNDEBUG", "-fPIC"]


class CannotBuildError(RuntimeError):
    """Cython or the C compiler is missing or failed; the message says what to do."""


@functools.cache
def plain() -> ModuleType:
    """The compiled module.

    Raises
    ------
    CannotBuildError
        There is no Cython or no working C compiler.
    """
    path = build()
    loader = importlib.machinery.ExtensionFileLoader("plain", str(path))
    spec = importlib.util.spec_from_loader("plain", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def build() -> Path:
    """Compile it unless that was done before; where the result is."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
    recipe = [SOURCE.read_text(), sys.version, suffix, *compiler, *FLAGS]
    place = _cache() / hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:16]
    target = place / f"plain{suffix}"
    if target.exists():
        return target
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as directory:
        c, made = Path(directory, "plain.c"), Path(directory, target.name)
        _run([sys.executable, "-m", "cython", "-3", str(SOURCE), "-o", str(c)], "pip install 'llmsched[test]'")
        link = shlex.split(sysconfig.get_config_var("LDSHARED") or "cc -shared")[1:]  # its first word is the compiler
        include = ["-I", sysconfig.get_path("include")]
        _run([*compiler, *FLAGS, *include, str(c), *link, "-o", str(made)], "install a C compiler, or set CC")
        os.replace(made, target)  # at once: several processes may be at it
    return target


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "llmsched" / "benchmarks"


def _run(command: list[str], remedy: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotBuildError(f"yardstick B cannot be compiled: {error}. {remedy}") from None
    if done.returncode:
        raise CannotBuildError(f"yardstick B cannot be compiled ({remedy}): {shlex.join(command)}\n{done.stderr}")


if __name__ == "__main__":
    print(build())
