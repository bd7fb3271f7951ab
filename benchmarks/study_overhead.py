"""How much longer a study's work takes than the core alone, in processor time: python benchmarks/study_overhead.py"""

from __future__ import annotations

import time

import numpy as np

from llmsched import batch
from llmsched.study import Study
from llmsched.study.work import Task, work

REPLICATIONS = 20
REPEATS = 7


def measure(requests: int) -> tuple[float, float]:
    """Processor time per simulation, in all and of it in the core: the least of a few repetitions."""
    study = Study(
        workloads=[{"generator": "lmsys", "requests": requests}],
        policies=["hsf", "amax", "amin", "fcfs", "aell"],
        intervals=["buckets:100", "relative:0.95", "constant:1,1000"],
        memories=[8000, 16492, 32984],
        metrics=["mean_latency", "makespan", "evictions"],
    )
    cells = len(study.plan().cells)
    task = Task(study.plan(), 0, np.arange(cells), np.arange(REPLICATIONS), np.ones((REPLICATIONS, cells), bool))
    within, core = 0.0, batch.run_many

    def timed(*given):  # what the core takes, of what all takes
        nonlocal within
        begin = time.process_time()
        found = core(*given)
        within += time.process_time() - begin
        return found

    batch.run_many = timed
    try:
        found = []
        for _ in range(REPEATS):
            within, begin = 0.0, time.process_time()
            done = work(task)
            found.append((time.process_time() - begin, within))
    finally:
        batch.run_many = core
    total, alone = min(found, key=lambda pair: pair[0] - pair[1])
    return total / len(done), alone / len(done)


if __name__ == "__main__":
    for requests in (200, 1000, 5000):
        total, alone = measure(requests)
        print(f"n={requests}: {total * 1e6:.0f} us per simulation, {100 * (total / alone - 1):.0f} % above the core")
