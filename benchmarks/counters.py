"""The regression gate: what the core counts (`Result.work`), against the committed baseline.json.

Seconds depend on the machine and on who else uses it; these counters do not depend on either. All workloads here are
generated, so that the baseline holds wherever llmsched is built.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from cases import HUGE, MEMORY, Case, churning
from fleet import FleetCase, arriving

import llmsched as ls

BASELINE = Path(__file__).with_name("baseline.json")
REWRITE = "python benchmarks/run --rewrite-baseline"
#: A counter may grow by this share before the tests fail, and has shrunk notably by the other.
MAY_GROW, HAS_SHRUNK = 0.02, 0.10
#: Not work: it grows when the core becomes better at skipping.
NOT_WORK = {"rounds_skipped"}

Counts = Mapping[str, int]


def _lmsys(n: int) -> ls.Workload:
    return ls.generate.lmsys(n, seed=0)


def _buckets(n: int) -> ls.Workload:
    return _lmsys(n).with_intervals(ls.intervals.buckets(100))


def _constant(n: int) -> ls.Workload:
    return _lmsys(n).with_intervals(ls.intervals.constant(1, 1000))


def _noisy(n: int) -> ls.Workload:
    """Predictions that err on both sides: one in five intervals misses, and the point is its middle."""
    workload = _lmsys(n).with_intervals(ls.intervals.noisy("0.8", "0.5", seed=1))
    assert workload.lower is not None
    assert workload.upper is not None
    return workload.replace(point=(workload.lower + workload.upper) // 2)


def _arriving(n: int) -> ls.Workload:
    """A little more than the cache can serve: a queue forms, and comes and goes."""
    return ls.generate.poisson(_buckets(n), rate=1.1, seed=1)


def _calibrated(workload: ls.Workload) -> ls.Workload:
    return workload.with_lengths(ls.LengthTable.from_outputs(ls.generate.lmsys(5000, seed=9).output))


def _renamed(case: Case | FleetCase, name: str) -> Case | FleetCase:
    return dataclasses.replace(case, name=name) if isinstance(case, Case) else case


#: Name -> the case, made when it is asked for.
CASES: Mapping[str, Callable[[], Case | FleetCase]] = {
    name: functools.partial(lambda name, make: _renamed(make(), name), name, make)
    for name, make in {
        "hsf 1000": lambda: Case("", _lmsys(1000), "hsf"),
        "hsf 20000": lambda: Case("", _lmsys(20_000), "hsf"),
        "amax buckets 1000": lambda: Case("", _buckets(1000), "amax"),
        "amax buckets 20000": lambda: Case("", _buckets(20_000), "amax"),
        "amax constant 1000": lambda: Case("", _constant(1000), "amax"),
        "amin buckets 1000": lambda: Case("", _buckets(1000), "amin"),
        "amin buckets 20000": lambda: Case("", _buckets(20_000), "amin"),
        "amin constant 1000": lambda: Case("", _constant(1000), "amin"),
        "amin constant 20000": lambda: Case("", _constant(20_000), "amin"),
        "amin-doubling constant 1000": lambda: Case("", _constant(1000), "amin-doubling"),
        "hsf large cache 20000": lambda: Case("", _lmsys(20_000), "hsf", HUGE // 10),
        "amin large cache 20000": lambda: Case("", _buckets(20_000), "amin", HUGE // 10),
        "amin huge cache 20000": lambda: Case("", _buckets(20_000), "amin", HUGE),
        "amin churn 2000": lambda: churning(2000),
        "aell buckets 1000": lambda: Case("", _buckets(1000), "aell"),
        "mcsf noisy 1000": lambda: Case("", _noisy(1000), "mcsf"),
        "mc-benchmark noisy arriving 5000": lambda: Case(
            "", ls.generate.poisson(_noisy(5000), rate=1.1, seed=1), "mc-benchmark"
        ),
        "amin noisy skip 1000": lambda: Case("", _noisy(1000), dataclasses.replace(ls.policies["amin"], fill="skip")),
        "fcfs skip 20000": lambda: Case("", _noisy(20_000), dataclasses.replace(ls.policies["fcfs"], fill="skip")),
        "fcfs arriving 5000": lambda: Case("", _arriving(5000), "fcfs"),
        "amin arriving 5000": lambda: Case("", _arriving(5000), "amin"),
        "fcfs chunked 5000": lambda: Case("", _arriving(5000), "fcfs", prefill_budget=128),
        "mcsf chunked 1000": lambda: Case("", _noisy(1000), "mcsf", prefill_budget=128),
        "conditional 1000": lambda: Case("", _calibrated(_lmsys(1000)), "conditional"),
        "sglang arriving 5000": lambda: Case("", _arriving(5000).replace(upper=1000), "sglang"),
        "past-future arriving 5000": lambda: Case("", _arriving(5000).replace(upper=1000), "past-future"),
        "fcfs tight 2000": lambda: Case("", _arriving(2000), "fcfs", MEMORY // 8),
        "s3 noisy 5000": lambda: Case("", _noisy(5000), "s3"),
        "trtllm arriving 5000": lambda: Case("", _arriving(5000), "trtllm"),
        "rect 2000": lambda: Case("", _lmsys(2000), "rect"),
        "fleet of 8, least-requests, fcfs 8000": lambda: FleetCase(arriving(8000, 8), "fcfs", 8, "least-requests"),
        "fleet of 100, power-of-two, amin 10000": lambda: FleetCase(arriving(10_000, 100), "amin", 100, "power-of-two"),
        "fleet of 8, round-robin, fcfs 8000": lambda: FleetCase(arriving(8000, 8), "fcfs", 8, "round-robin"),
    }.items()
}


def measured(name: str) -> dict[str, int]:
    """The counters of one case, those that are work."""
    work = CASES[name]().simulate().work
    return {counter: count for counter, count in work.items() if counter not in NOT_WORK}


def baseline() -> dict[str, dict[str, int]]:
    """Case -> counter -> count, as committed; empty if there is no file."""
    return json.loads(BASELINE.read_text()) if BASELINE.exists() else {}


def rewrite() -> None:
    """Count everything anew and write it down."""
    counts = {name: measured(name) for name in CASES}
    BASELINE.write_text(json.dumps(counts, indent=2, sort_keys=True) + "\n")


def grown(name: str, old: Counts, new: Counts) -> list[str]:
    """What is worse than the baseline in one case, in words; empty if nothing is."""
    if old.keys() != new.keys():
        return [f"{name}: counters are {', '.join(sorted(new))}, but {', '.join(sorted(old))} in the baseline"]
    return [
        f"{name}: {counter} grew from {old[counter]:,} to {new[counter]:,} ({_percent(old[counter], new[counter])})"
        for counter in old
        if new[counter] > old[counter] * (1 + MAY_GROW)
    ]


def shrunk(name: str, old: Counts, new: Counts) -> list[str]:
    """What is so much better that the baseline no longer guards it."""
    return [
        f"{name}: {counter} shrank from {count:,} to {new[counter]:,} ({_percent(count, new[counter])})"
        for counter, count in old.items()
        if counter in new and new[counter] < count * (1 - HAS_SHRUNK)
    ]


def _percent(old: int, new: int) -> str:
    return f"{100 * (new - old) / old:+.1f} %" if old else "from nothing"
