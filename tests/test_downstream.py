"""Somebody else's Cython code compiles against the installed package and drives the engine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

import llmsched as ls

EXAMPLE = ROOT / "examples" / "downstream"


def test_get_include_finds_the_declarations():
    assert (Path(ls.get_include()) / "llmsched" / "_core.pxd").is_file()
    for name in ("memory_profile.h", "tree_node.h"):
        assert (Path(ls.get_include()) / "llmsched" / "_engine" / name).is_file()


def test_the_example_builds_and_agrees_with_simulate(tmp_path):
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    shutil.copytree(EXAMPLE, tmp_path / "downstream")
    here = tmp_path / "downstream"
    built = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"], cwd=here, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    program = (here / "README.md").read_text().partition('python -c "')[2].partition('"\n')[0]
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=here, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert f"It prints `{printed}`" in (here / "README.md").read_text()
    w = ls.generate.lmsys(2000, seed=0).with_intervals(ls.intervals.buckets(100))
    assert ls.simulate(w, "amin", memory=int(printed)).mean_latency <= 200
    assert ls.simulate(w, "amin", memory=int(printed) - 1).mean_latency > 200
