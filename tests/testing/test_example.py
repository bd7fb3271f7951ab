"""The tests of examples/own_scheduler pass, with its Cython module built, and hold against its committed counters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

EXAMPLE = ROOT / "examples" / "own_scheduler"


def test_the_example_passes_its_own_tests(tmp_path: Path) -> None:
    pytest.importorskip("Cython")
    here = tmp_path / "own_scheduler"
    shutil.copytree(EXAMPLE, here)
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    quick = os.environ | {"CFLAGS": "-O0"}  # not its speed is tested
    done = subprocess.run(build, cwd=here, env=quick, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-disable"]
    tests += ["-p", "no:hypothesispytest", "-p", "no:anyio", "-p", "no:xdist"]  # they only take long to import
    done = subprocess.run(tests, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout
    assert (here / "counters.json").read_bytes() == (EXAMPLE / "counters.json").read_bytes()
