"""Somebody else's Cython code compiles against the installed package and drives the engine."""

from __future__ import annotations

import importlib
import os
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
    for name in ("memory_profile.h", "portable.h", "tree_node.h"):
        assert (Path(ls.get_include()) / "llmsched" / "_engine" / name).is_file()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the example, its extensions built."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    here = tmp_path_factory.mktemp("built") / "downstream"
    shutil.copytree(EXAMPLE, here)
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    quick = os.environ | {"CFLAGS": "-O0"}  # not its speed is tested
    done = subprocess.run(build, cwd=here, env=quick, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return here


def test_the_example_agrees_with_simulate(built):
    program = (built / "README.md").read_text().partition('python -c "')[2].partition('"\n')[0]
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=built, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert f"It prints `{printed}`" in (built / "README.md").read_text()
    w = ls.generate.lmsys(2000, seed=0).with_intervals(ls.intervals.buckets(100))
    assert ls.simulate(w, "amin", memory=int(printed)).mean_latency <= 200
    assert ls.simulate(w, "amin", memory=int(printed) - 1).mean_latency > 200


class MultiLevelFeedback(ls.Policy):
    """As in docs/how-to/your-own-policy.md."""

    @staticmethod
    def level(request):
        return sum(request.generated >= limit for limit in (64, 512))

    def admission_key(self, request, now):
        return self.level(request) * 1e9 + request.joined

    def victims(self, batch, need, now):
        return [max(batch, key=lambda request: (self.level(request), request.joined))]


class HalfFull(ls.Policy):
    memory = 0

    def feasible(self, batch, request, now):
        return 2 * sum(r.prompt + r.generated + 1 for r in [*batch, request]) <= type(self).memory


@pytest.mark.parametrize("base", ["vllm", "amin", "fcfs", "sglang"])
def test_functions_in_c_decide_as_methods_in_python(built, monkeypatch, base):
    monkeypatch.syspath_prepend(str(built))
    feedback = importlib.import_module("feedback")
    for seed in range(8):
        memory = HalfFull.memory = 1500 + 100 * seed
        w = ls.generate.poisson(ls.generate.lmsys(120, seed=seed), rate=0.2, seed=seed)
        w = w.with_intervals(ls.intervals.buckets(100))
        policies = [(feedback.simulate, MultiLevelFeedback)]
        if ls.policies[base].slots == "ahead":  # else the need that the C reads is another
            policies.append((feedback.simulate_half_full, HalfFull))
        for mine, kind in policies:
            said = ls.simulate(w, kind.based_on(base), memory=memory, seed=seed)
            for column, values in zip(("completion", "start", "evictions"), mine(w, base, memory, seed), strict=True):
                assert getattr(said, column).tolist() == values.tolist(), (kind, seed)
    assert ls.simulate(w, base, memory=memory, seed=seed).completion.tolist() != values.tolist()
