"""How long a decision takes for `llmsched.live.Scheduler` where so many requests wait and run all the time."""

from __future__ import annotations

from time import thread_time

import numpy as np

import llmsched as ls
from llmsched.predict.intervals import with_midpoints

WAITING, RUNNING, MEMORY, BLOCK = 1_000, 256, 40_000, 16
FIRST = 200  # decisions that fill the batch, and are not counted


def decisions(policy: str, workload: ls.Workload, rounds: int) -> np.ndarray:
    """Processor seconds of each of `rounds` decisions. Whoever completed is replaced by the next of the workload."""
    predicted = with_midpoints(workload.with_intervals(ls.intervals.buckets(100)))
    columns = [column.tolist() for column in (predicted.prompt, predicted.lower, predicted.upper, predicted.output)]
    requests = zip(*columns, strict=True)
    table = ls.LengthTable.from_outputs(workload.output)
    scheduler = ls.live.Scheduler(policy, memory=MEMORY, block=BLOCK, max_batch=RUNNING, lengths=table)
    left: dict[int, int] = {}
    running: set[int] = set()
    times, submitted = np.empty(rounds + FIRST), 0
    for now in range(rounds + FIRST):
        while len(scheduler) < WAITING + RUNNING:
            prompt, lower, upper, output = next(requests)
            scheduler.submit(submitted, prompt, lower=lower, upper=upper, priority=submitted % 3, arrival=now)
            left[submitted] = output
            submitted += 1
        began = thread_time()
        decision = scheduler.decide(now)
        times[now] = thread_time() - began
        running = running.difference(decision.evict).union(decision.admit)
        for id in running:
            left[id] -= 1
        done = [id for id in running if left[id] <= 0]
        running.difference_update(done)
        scheduler.advance(finished=done)
    return times[FIRST:]
