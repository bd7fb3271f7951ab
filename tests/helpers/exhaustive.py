"""Least total latencies of tiny instances by trying everything: no solver, no bound, no numpy."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

import llmsched as ls


def least_total(workload: ls.Workload, memory: int) -> int:
    """Over all non-preemptive schedules with whole starts."""
    jobs = sorted(zip(*(c.tolist() for c in (workload.prompt, workload.output, workload.arrival)), strict=True))
    horizon = int(max(workload.arrival, default=0) + sum(workload.output)) + 1
    best = [float("inf")]

    def place(k: int, used: tuple[int, ...], total: float) -> None:
        if total >= best[0]:
            return
        if k == len(jobs):
            best[0] = total
            return
        s, o, a = jobs[k]
        for t in range(int(a), horizon - o + 1):
            grown = list(used)
            for g in range(o):
                grown[t + g] += s + g + 1
            if max(grown) <= memory:
                place(k + 1, tuple(grown), total + t + o - a)

    place(0, (0,) * horizon, 0)
    return int(best[0])


def least_total_with_breaks(workload: ls.Workload, memory: int) -> int:
    """Over all schedules in which a request may pause and keeps its tokens (``resume="recompute"``)."""
    prompt, output, arrival = (c.tolist() for c in (workload.prompt, workload.output, workload.arrival))
    n = len(prompt)

    @cache
    def rest(t: int, done: tuple[int, ...]) -> float:
        there = [i for i in range(n) if arrival[i] <= t and done[i] < output[i]]
        if all(done[i] == output[i] for i in range(n)):
            return 0
        best = float("inf")
        for chosen in range(2 ** len(there)):
            run = [i for k, i in enumerate(there) if chosen >> k & 1]
            if not run and len(there) == sum(done[i] < output[i] for i in range(n)):
                continue
            if sum(prompt[i] + done[i] + 1 for i in run) <= memory:
                after = tuple(done[i] + (i in run) for i in range(n))
                best = min(best, rest(t + 1, after))
        return best + len(there)

    return int(rest(0, (0,) * n))


@st.composite
def tiny(draw: st.DrawFn, requests: int = 4, over_time: bool = True) -> tuple[ls.Workload, int]:
    n = draw(st.integers(1, requests))
    prompt = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    output = draw(st.lists(st.integers(1, 4), min_size=n, max_size=n))
    arrival = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)) if over_time and draw(st.booleans()) else 0
    needed = max(s + o for s, o in zip(prompt, output, strict=True))
    return ls.Workload(prompt, output, arrival=arrival), needed + draw(st.integers(0, 8))
