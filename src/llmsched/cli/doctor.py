"""`llmsched doctor`: whether an installation works, and what to put into a report of a bug."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from typing import Any

import numpy as np
import typer

from .._version import version
from ..errors import LlmschedError
from ..input_limits import LIMITS, VARIABLE, limit
from ..policy import policies
from ..predict import intervals
from ..simulation.batch import simulate_batch
from ..simulation.run import simulate
from ..workloads import generate
from ..workloads.workload import Workload
from .console import print_json, say
from .options import Json

_CASES = 200
#: What the extras bring: a package, and what it is needed for.
_PACKAGES = {
    "numpy": "everything",
    "typer": "the command line",
    "rich": "the command line",
    "pyarrow": "Parquet, studies",
    "pydantic": "studies",
    "scipy": "reports of studies, calibration",
    "vl-convert-python": "reports of studies",
    "matplotlib": "figures",
    "scikit-learn": "predictors",
    "skops": "files of predictors",
    "highspy": "exact optima",
    "distributed": "clusters",
    "pandas": "data frames",
    "polars": "data frames",
    "tqdm": "progress bars in notebooks",
    "ipywidgets": "progress bars in notebooks",
}


def doctor(as_json: Json = False) -> None:
    """Check this installation, in about ten seconds: do both engines agree, on all threads, and what is installed?

    Exit code 1 if something is wrong. The output is what a report of a bug needs; it holds no names of files.
    """
    began = time.perf_counter()
    checks = {"engines agree": _engines(), "threads agree": _threads(), "clock": _clock(), "limits": _limits()}
    about = {
        "llmsched": version,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.platform(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "packages": {name: _installed(name) for name in _PACKAGES},
    }
    wrong = [name for name, found in checks.items() if not found["good"]]
    if as_json:
        print_json({**about, "checks": checks, "seconds": time.perf_counter() - began})
    else:
        _print(about, checks)
        say()
        say(
            f"{'Something is wrong: ' + ', '.join(wrong) if wrong else 'All is well'}.", "bold red" if wrong else "bold"
        )
    if wrong:
        raise typer.Exit(1)


def _print(about: dict[str, Any], checks: dict[str, Any]) -> None:
    for name in ("llmsched", "python", "system", "machine"):
        say(f"{name:<18}{about[name]}")
    for name, found in about["packages"].items():
        say(f"{name:<18}{found or f'not installed ({_PACKAGES[name]})'}", "" if found else "dim")
    for name, found in checks.items():
        say(f"{name:<18}{'ok' if found['good'] else 'WRONG'}: {found['said']}", "" if found["good"] else "red")


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _case(seed: int) -> tuple[Workload, str, int]:
    """A small workload, a policy and a memory that is tight for it."""
    drawn = np.random.default_rng(seed)
    n = int(drawn.integers(1, 30))
    workload = Workload(drawn.integers(0, 20, n), drawn.integers(1, 40, n), arrival=drawn.integers(0, 50, n))
    needed = int((workload.prompt + workload.output).max())
    names = list(policies)
    return workload.with_intervals(intervals.buckets(10)), names[seed % len(names)], needed + int(drawn.integers(0, 60))


def _outcome(workload: Workload, policy: str, memory: int, engine: Any) -> Any:
    try:
        result = simulate(workload, policy, memory=memory, seed=1, engine=engine, max_rounds=20_000)
        return result.completion.tolist(), result.evictions.tolist()
    except LlmschedError as error:
        return type(error).__name__, str(error)


def _engines() -> dict[str, Any]:
    """Whether the compiled engine says what the readable one says."""
    differ = [
        f"case {seed} ({policy})"
        for seed in range(_CASES)
        for workload, policy, memory in [_case(seed)]
        if _outcome(workload, policy, memory, "compiled") != _outcome(workload, policy, memory, "reference")
    ]
    said = f"they differ in {len(differ)} of {_CASES}: {', '.join(differ[:3])}" if differ else f"{_CASES} cases"
    return {"good": not differ, "said": said}


def _threads() -> dict[str, Any]:
    """Whether many threads say what one says."""
    workloads = [generate.lmsys(300, seed=seed).with_intervals(intervals.buckets(100)) for seed in range(16)]
    count = os.cpu_count() or 1
    found = []
    for threads in (1, max(2, count)):
        batch = simulate_batch(workloads, ["amin", "mcsf"], memory=3000, seeds=range(16), threads=threads)
        found.append(batch.totals["total_latency"].tolist())
    return {"good": found[0] == found[1], "said": f"1 and {max(2, count)} threads, {len(found[0])} simulations"}


def _clock() -> dict[str, Any]:
    """How fine the clock of the machine is."""
    info = time.get_clock_info("perf_counter")
    return {"good": info.monotonic and info.resolution <= 1e-3, "said": f"resolution {info.resolution:g} s"}


def _limits() -> dict[str, Any]:
    """Whether the environment variable of the input limits can be read, and what it changes."""
    try:
        changed = [f"{name}={limit(name)}" for name in LIMITS if limit(name) != LIMITS[name][0]]
    except LlmschedError as error:
        return {"good": False, "said": str(error)}
    return {"good": True, "said": f"{VARIABLE} sets {', '.join(changed)}" if changed else "the defaults"}
