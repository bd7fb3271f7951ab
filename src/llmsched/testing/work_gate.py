"""The gate on work: what a scheduler has to do on fixed workloads, against a JSON file in the repository.

Seconds depend on the machine and on who else uses it; how often a scheduler is asked, at how many requests it looks and
how many it admits and evicts depends on neither.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, SchedulerError
from ..simulation.result import Result
from .cases import STANDARD, Case, cases_of
from .drive import Resume, Scheduler, label_of, run

#: Workload -> counter -> count.
Counts = Mapping[str, Mapping[str, int]]

#: A counter may grow by this share.
MAY_GROW = 0.02


@dataclasses.dataclass(frozen=True)
class SchedulerBenchmark:
    """What the fixture `scheduler_benchmark` is: call it with a scheduler.

    Attributes
    ----------
    test
        The test's id, under which its counters stand in the file.
    path
        The file of counters.
    write
        Whether to write them down, and not to compare.
    timed
        pytest-benchmark's fixture, which runs a function several times and notes how long it takes; None without it.
    """

    test: str
    path: Path
    write: bool
    timed: Any = None

    def __call__(
        self,
        decide: Scheduler,
        *,
        workloads: Mapping[str, Case] = STANDARD,
        seed: int | None = 0,
        resume: Resume = "restart",
        truth: bool = False,
        may_grow: float = MAY_GROW,
    ) -> dict[str, Result]:
        """Run the scheduler on `workloads`, with pytest-benchmark's stopwatch if it is there; gate on its counters.

        Parameters
        ----------
        decide, seed, resume, truth
            As for `llmsched.testing.run`.
        workloads
            Name -> `Case`.
        may_grow
            A counter may be larger than that in the file by this share, 0.02 for 2 %.

        Returns
        -------
        dict
            Workload -> `Result`, for more conditions of one's own.

        Raises
        ------
        AssertionError
            A counter has grown: names workload, counter, old and new. Or there are none in the file.
        SchedulerError, NotFinishedError, InputError
            As `run`; the file cannot be read.
        """
        __tracebackhide__ = True  # pytest shows the test, and what has grown
        runs = _all_runs(decide, workloads, {"seed": seed, "resume": resume, "truth": truth})
        results: dict[str, Result] = runs() if self.timed is None else self.timed(runs)
        counts = {name: dict(result.work) for name, result in results.items()}
        if self.timed is not None:
            self.timed.extra_info["work"] = counts
        known = _read(self.path)
        if self.write:
            _write(self.path, {**known, self.test: counts})
            return results
        remedy = f"write {self.path.name} with: pytest --llmsched-write-counters, look at its diff, and commit it"
        if self.test not in known:
            raise AssertionError(f"{self.path.name} has no counters of {self.test}: {remedy}")
        worse = grown(known[self.test], counts, may_grow)
        if worse:
            raise AssertionError(
                "\n".join([f"{label_of(decide)} has more to do:", *worse, f"If it is worth it, {remedy}"])
            )
        return results


def grown(old: Counts, new: Counts, may_grow: float) -> list[str]:
    """What is larger, in words; empty if nothing is. Workloads and counters must be the same."""
    if old.keys() != new.keys():
        return [f"the workloads are {', '.join(new)}, and {', '.join(old)} in the file"]
    lines = []
    for workload, counts in new.items():
        before = old[workload]
        if before.keys() != counts.keys():
            return [f"{workload}: the counters are {', '.join(counts)}, and {', '.join(before)} in the file"]
        lines += [
            f"{workload}: {name} grew from {before[name]:,} to {count:,} ({_percent(before[name], count)})"
            for name, count in counts.items()
            if count > before[name] * (1 + may_grow)
        ]
    return lines


def _percent(old: int, new: int) -> str:
    return f"{100 * (new - old) / old:+.1f} %" if old else "from nothing"


def _all_runs(
    decide: Scheduler, workloads: Mapping[str, Case], options: Mapping[str, Any]
) -> Callable[[], dict[str, Result]]:
    cases = cases_of(workloads)

    def runs() -> dict[str, Result]:
        results: dict[str, Result] = {}
        for name, case in cases.items():
            try:
                results[name] = run(decide, case.workload, **case.machine(), **options)
            except SchedulerError as error:
                raise SchedulerError(f"workload {name!r}, {error}", error.round, error.request) from None
        return results

    return runs


def _read(path: Path) -> dict[str, Counts]:
    """Test -> its counters; nothing if there is no file. Raises InputError if it is no such file."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        numbers = [count for test in found.values() for counts in test.values() for count in counts.values()]
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path} is no file of counters ({error}): take it from the repository again") from None
    if not all(type(count) is int for count in numbers):
        raise InputError(f"{path} is no file of counters, which are whole numbers: take it from the repository again")
    return dict(found)


def _write(path: Path, counts: Mapping[str, Counts]) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(counts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    fresh.replace(path)
