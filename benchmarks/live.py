"""What `llmsched.live.Scheduler` costs where so many requests wait and run all the time: time and memory.

python benchmarks/live.py --requests 10000000 --policy amin-recompute     resident memory while so many pass
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, thread_time

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


def passing(
    policy: str, workload: ls.Workload, total: int, every: int, memory: int = 20_000
) -> Iterator[dict[str, float]]:
    """`total` requests of the workload, again and again, while WAITING wait; a row whenever `every` more completed.

    Rows: requests that completed, rounds, preemptions, bytes that the scheduler holds, resident bytes of the process,
    seconds. Lengths come in another order every time; they are drawn in pieces, so that only the scheduler could grow.
    """
    predicted = with_midpoints(workload.with_intervals(ls.intervals.buckets(100)))
    columns = np.column_stack([predicted.prompt, predicted.lower, predicted.upper, predicted.output])
    table = ls.LengthTable.from_outputs(workload.output)
    rng, piece = np.random.default_rng(0), iter(())
    scheduler = ls.live.Scheduler(policy, memory=memory, block=BLOCK, max_batch=RUNNING, lengths=table)
    keeps = scheduler.policy.resume == "recompute"
    left: dict[int, int] = {}  # id -> tokens to come, of those that do not run
    ends: dict[int, int] = {}  # id -> the round after which it is complete, of those that run
    ending: defaultdict[int, set[int]] = defaultdict(set)  # the same, by round
    outputs: dict[int, int] = {}
    submitted = completed = now = preemptions = 0
    began, due = monotonic(), every
    while completed < total:
        while len(scheduler) < WAITING + RUNNING and submitted < total:
            request = next(piece, None)
            if request is None:
                piece = iter(columns[rng.integers(0, len(columns), 10_000)].tolist())
                request = next(piece)
            prompt, lower, upper, output = request
            scheduler.submit(submitted, prompt, lower=lower, upper=upper, priority=submitted % 3, arrival=now)
            left[submitted] = outputs[submitted] = output
            submitted += 1
        decision = scheduler.decide(now)
        for id in decision.evict:
            end = ends.pop(id)
            ending[end].discard(id)
            left[id] = end - now if keeps else outputs[id]
        preemptions += len(decision.evict)
        for id in decision.admit:
            ends[id] = end = now + left.pop(id)
            ending[end].add(id)
        now += 1
        done = ending.pop(now, ())
        scheduler.advance(finished=done)
        for id in done:
            del ends[id], outputs[id]
        completed += len(done)
        if completed >= due:
            due += every
            yield {
                "requests": completed, "rounds": now, "preemptions": preemptions, "held": scheduler.work["bytes"],
                "resident": resident(), "seconds": monotonic() - began,
            }  # fmt: skip


def resident() -> int:
    """Bytes of this process that are in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000_000)
    parser.add_argument("--every", type=int, default=1_000_000, help="a row for so many")
    parser.add_argument("--policy", default="amin-recompute")
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    workload = ls.Workload(rng.geometric(1 / 60, 50_000), np.minimum(rng.geometric(1 / 40, 50_000), 1000))
    print(f"{'requests':>12} {'rounds':>12} {'preemptions':>12} {'held, kB':>10} {'resident, MB':>13} {'seconds':>8}")
    for row in passing(chosen.policy, workload, chosen.requests, chosen.every):
        print(
            f"{row['requests']:12,} {row['rounds']:12,} {row['preemptions']:12,} {row['held'] / 1e3:10.0f} "
            f"{row['resident'] / 1e6:13.1f} {row['seconds']:8.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
