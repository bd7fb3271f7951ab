"""What a study takes beside the simulations themselves, and what a second worker brings.

python benchmarks/study.py overhead    processor time per simulation: in the core, to draw requests, and all else
python benchmarks/study.py workers     one worker against two, alternating (Linux)
"""

from __future__ import annotations

import importlib
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from llmsched.simulation import batch
from llmsched.study import Study

work = importlib.import_module("llmsched.study.worker")

REPLICATIONS = 20
REPEATS = 9


def design(requests: int, replications: int) -> Study:
    """Five policies, three interval settings and three memories, on the same requests."""
    return Study(
        workloads=[{"generator": "lmsys", "requests": requests}],
        policies=["hsf", "amax", "amin", "fcfs", "aell"],
        intervals=["buckets:100", "relative:0.95", "constant:1,1000"],
        memories=[8000, 16492, 32984],
        metrics=["mean_latency", "makespan", "evictions"],
        replications=replications,
    )


def overhead(requests: int) -> tuple[float, float, float]:
    """Processor time per simulation in seconds: in the core, for requests and intervals, and the rest."""
    plan = design(requests, REPLICATIONS).plan()
    cells = len(plan.cells)
    unit = work.WorkUnit(plan, 0, np.arange(cells), np.arange(REPLICATIONS), np.ones((REPLICATIONS, cells), bool))
    spent = {"run_many": 0.0, "draw_workloads": 0.0}

    def timed(owner, name):
        inner = getattr(owner, name)

        def outer(*given):
            begin = time.process_time()
            found = inner(*given)
            spent[name] += time.process_time() - begin
            return found

        setattr(owner, name, outer)
        return owner, name, inner

    kept = [timed(batch, "run_many"), timed(work._CellJobs, "draw_workloads")]
    try:
        found = []
        for _ in range(REPEATS):
            spent.update(run_many=0.0, draw_workloads=0.0)
            begin = time.process_time()
            done = work.simulate_unit(unit)
            found.append((time.process_time() - begin, spent["run_many"], spent["draw_workloads"]))
    finally:
        for owner, name, inner in kept:
            setattr(owner, name, inner)
    core, draw, rest = (min(column) for column in zip(*((c, d, t - c - d) for t, c, d in found), strict=True))
    return core / len(done), draw / len(done), rest / len(done)


def workers(requests: int = 1000, replications: int = 600) -> tuple[float, float]:
    """Median seconds of the study's work on one and on two workers, without those for which a processor was wanting.

    Linux says how long a thread was ready to run and waited for a processor: on a busy machine most of the time, and
    nothing of it is the study's. Waiting for the interpreter or for work is.
    """
    executors = importlib.import_module("llmsched.study.executors")
    took: dict[int, list[float]] = {1: [], 2: []}
    study = design(requests, replications)
    at: dict[int, list[float]] = {}
    inner = executors.simulate_unit

    def outer(*given):
        at.setdefault(threading.get_ident(), []).append(_own_time())
        done = inner(*given)
        at[threading.get_ident()].append(_own_time())
        return done

    executors.simulate_unit = outer
    try:
        for _ in range(5):
            for count in took:
                at.clear()
                with tempfile.TemporaryDirectory() as directory:
                    study.run(Path(directory) / "out", workers=count)
                took[count].append(max(times[-1] - times[0] for times in at.values()))
    finally:
        executors.simulate_unit = inner
    return statistics.median(took[1]), statistics.median(took[2])


def _own_time() -> float:
    """Seconds on the clock, less those for which this thread waited for a processor."""
    waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    return time.perf_counter() - waited / 1e9


if __name__ == "__main__":
    if sys.argv[1:] == ["overhead"]:
        for requests in (200, 1000, 5000):
            core, draw, rest = (1e6 * seconds for seconds in overhead(requests))
            print(
                f"n={requests}: core {core:.0f} us per simulation; requests and intervals {draw:.1f} us "
                f"({100 * draw / core:.0f} %), the rest {rest:.1f} us ({100 * rest / core:.0f} %)"
            )
    elif sys.argv[1:] == ["workers"]:
        one, two = workers()
        print(f"one worker {one:.2f} s, two {two:.2f} s: {one / two:.2f} times as fast")
    else:
        sys.exit(__doc__)
