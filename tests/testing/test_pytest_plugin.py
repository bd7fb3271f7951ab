"""The fixture `scheduler_benchmark`, in a pytest of its own: written counters pass, larger ones fail, seconds never."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Plugins that have no part in it, and that take longer to import than all else.
WITHOUT = [word for name in ("cacheprovider", "xdist", "hypothesispytest", "anyio") for word in ("-p", f"no:{name}")]
TESTS = """
import llmsched as ls

CASES = {"few": ls.testing.Case(ls.Workload([1] * 9, [3] * 9), memory=20)}


def scheduler(state):
    admit, need = [], state.need
    for request in state.waiting:
        need += request.prompt + 3
        if need > state.memory or len(state.running) + len(admit) == 4:
            break
        admit.append(request)
    return ls.testing.Decision(tuple(admit), ())


def careless(state):
    sorted(state.running, key=lambda r: r.generated)
    return scheduler(state)


def test_it(scheduler_benchmark):
    assert scheduler_benchmark(SCHEDULER, workloads=CASES)["few"].rounds > 3
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def run(project: Path, *arguments: str, scheduler: str = "scheduler") -> tuple[int, str]:
    (project / "test_own.py").write_text(TESTS.replace("SCHEDULER", scheduler))
    command = [sys.executable, "-m", "pytest", "-q", *WITHOUT, *arguments]
    if "no:benchmark" not in arguments:
        command += ["--benchmark-max-time=0.01", "--benchmark-min-rounds=1"]  # its seconds are not looked at
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, env=env)
    return done.returncode, done.stdout + done.stderr


def test_counters_are_written_and_gate_what_comes_after(project: Path) -> None:
    code, printed = run(project)
    assert code == 1
    assert "llmsched-counters.json has no counters of test_own.py::test_it: write" in printed
    assert not (project / "llmsched-counters.json").exists()

    assert run(project, "--llmsched-write-counters")[0] == 0
    written = json.loads((project / "llmsched-counters.json").read_text())
    counters = written["test_own.py::test_it"]["few"]
    assert sorted(counters) == ["admissions", "decisions", "evictions", "requests_looked_at"]
    assert counters["admissions"] == 9
    code, printed = run(project, "--benchmark-only")
    assert code == 0
    assert "1 passed" in printed
    assert "Name (time in" in printed  # the table of pytest-benchmark

    code, printed = run(project, "-p", "no:benchmark", scheduler="careless")
    assert code == 1
    grew = f"few: requests_looked_at grew from {counters['requests_looked_at']} to "
    assert "careless has more to do:" in printed
    assert grew in printed
    assert "known = _read" not in printed  # the test is shown, not the gate's own lines
    assert json.loads((project / "llmsched-counters.json").read_text()) == written


def test_a_file_that_is_none_of_counters_is_refused(project: Path) -> None:
    (project / "own.json").write_text('{"a": {"b": {"c": 1.5}}}')
    code, printed = run(project, "-p", "no:benchmark", "-o", "llmsched_counters=own.json")
    assert code == 1
    assert "own.json is no file of counters, which are whole numbers" in printed
    (project / "own.json").write_text("[")
    assert "own.json is no file of counters (" in run(project, "-o", "llmsched_counters=own.json")[1]


def test_counters_are_written_by_one_process(project: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-n", "2", "--llmsched-write-counters"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 4
    assert "leave out -n" in done.stderr


def test_the_plugin_alone_imports_no_numpy() -> None:
    code = "import sys, llmsched.testing.pytest_plugin; print('numpy' in sys.modules, 'llmsched.policy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_what_has_grown_is_named_and_what_is_missing() -> None:
    from llmsched.testing.work_gate import grown

    old = {"w": {"decisions": 100, "evictions": 0}}
    assert grown(old, {"w": {"decisions": 102, "evictions": 0}}, 0.02) == []
    assert grown(old, {"w": {"decisions": 103, "evictions": 1}}, 0.02) == [
        "w: decisions grew from 100 to 103 (+3.0 %)",
        "w: evictions grew from 0 to 1 (from nothing)",
    ]
    assert grown(old, {"v": {}}, 0.02) == ["the workloads are v, and w in the file"]
    assert grown(old, {"w": {"decisions": 1}}, 0.02) == [
        "w: the counters are decisions, and decisions, evictions in the file"
    ]
